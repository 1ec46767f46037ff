"""Training samples: crops, label maps, captions and cached latents."""
