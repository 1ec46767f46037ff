"""Training of the networks, from recipes to diffusers model folders.

``loop`` (any task) and ``data`` (samples) serve ``diffusion`` (VAE, UNet, ControlNet); ``city`` trains the embedded
model with them, ``judge`` the networks of ``dgkit quality``. ``segmenter`` trains with mmsegmentation's own loop.
"""
