"""Tasks, losses and recipes for VAE, UNet and ControlNet."""
