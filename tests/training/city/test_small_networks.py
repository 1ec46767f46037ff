"""The untrained small networks and their size."""

import torch

from dgkit.labels import CONDITION_CHANNELS
from dgkit.training.city import small_networks as networks
from dgkit.training.diffusion.controlnet import build_controlnet


def test_an_untrained_autoencoder_paints_the_mean_colour_of_each_cell():
    torch.manual_seed(0)
    vae = networks.build_vae(64).requires_grad_(False)
    cells = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1)).mul_(1.6).sub_(0.8)
    image = torch.nn.functional.interpolate(cells, scale_factor=8)
    latents = vae.encode(image).latent_dist.mean[:, :3]
    decoded = torch.nn.functional.avg_pool2d(vae.decode(vae.encode(image).latent_dist.mean).sample, 8)
    for found in (latents, decoded):
        assert torch.corrcoef(torch.stack([found.flatten(), cells.flatten()]))[0, 1] > 0.95


def test_the_four_networks_fit_the_package_in_half_precision():
    unet = networks.build_unet(32)
    parts = [unet, build_controlnet(unet, networks.CONTROLNET_WIDTHS), networks.build_vae(256)]
    assert sum(p.numel() for part in parts for p in part.parameters()) * 2 < 24.5e6
    assert parts[1].config.conditioning_channels == CONDITION_CHANNELS
