"""Tasks, losses, recipes and commands for the VAE, the UNet and the ControlNet."""
