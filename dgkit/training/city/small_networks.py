"""The small networks of the embedded model, in the classes of Stable Diffusion."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

LATENT_CHANNELS = 8
VAE_FACTOR = 8
TEXT_WIDTH = 128
CONTROLNET_WIDTHS = (8, 32, 64, 96)  # of the condition encoder
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.30.0",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    # Without zero terminal SNR a model cannot paint dark images: Lin et al. 2023, arXiv 2305.08891.
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "steps_offset": 1,  # unused with trailing spacing; diffusers warns about other values
    "clip_sample": False,
}
COLOURS, REFERENCE = 3, 3.0  # channels of the colour path; its two constant channels are +-REFERENCE
PATH = 2 * COLOURS + 2  # +RGB, -RGB, +REFERENCE, -REFERENCE


def build_vae(image_size: int) -> AutoencoderKL:
    """Return an autoencoder of factor 8 with 8 latent channels, without attention, so that it runs at any size.

    It is initialised as a colour pyramid (:func:`start_as_colour_pyramid`) and learns details from there.
    """
    vae = AutoencoderKL(
        block_out_channels=(16, 48, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=LATENT_CHANNELS,
        layers_per_block=1,
        norm_num_groups=1,
        mid_block_add_attention=False,
        sample_size=image_size,
        scaling_factor=1.0,
        force_upcast=False,
    )
    start_as_colour_pyramid(vae)
    return vae


@torch.no_grad()
def start_as_colour_pyramid(vae: AutoencoderKL) -> None:
    """Set initial weights with which three latents are the mean RGB of their cell and the decoder paints them back.

    With default weights a small autoencoder stays grey for its first thousand steps. The first :data:`PATH` channels
    carry +RGB, -RGB and two constants through every level: residual blocks start as identities, strided convolutions
    as 2 x 2 means. The constants keep the group norms near a fixed scale, and silu(x) - silu(-x) = x inverts the last
    non-linearity exactly.
    """
    encoder, decoder = vae.encoder, vae.decoder
    for block in [m for half in (encoder, decoder) for m in half.modules() if isinstance(m, ResnetBlock2D)]:
        block.conv2.weight.zero_()
        block.conv2.bias.zero_()
        if block.conv_shortcut is not None:
            _pass_through(block.conv_shortcut, [(0, 0)])
    for down in encoder.down_blocks[:-1]:
        _pass_through(down.downsamplers[0].conv, [(0, 0), (0, 1), (1, 0), (1, 1)])
    for up in decoder.up_blocks[:-1]:
        _pass_through(up.upsamplers[0].conv, [(1, 1)])
    for conv in (encoder.conv_in, decoder.conv_in):
        conv.weight[:PATH] = 0
        conv.bias[:PATH] = torch.tensor([0.0] * (2 * COLOURS) + [REFERENCE, -REFERENCE])
        for colour in range(COLOURS):
            conv.weight[colour, colour, 1, 1], conv.weight[COLOURS + colour, colour, 1, 1] = 1, -1
    for conv in (encoder.conv_out, decoder.conv_out):
        conv.weight[:COLOURS], conv.bias[:COLOURS] = 0, 0
        for colour in range(COLOURS):
            conv.weight[colour, colour, 1, 1], conv.weight[colour, COLOURS + colour, 1, 1] = 1, -1
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(len(conv.weight))[..., None, None])
        conv.bias.zero_()
    vae.quant_conv.bias[LATENT_CHANNELS:] = -5.0  # log variance: almost no noise


def _pass_through(conv: nn.Conv2d, taps: list[tuple[int, int]]) -> None:
    """Make each of the first :data:`PATH` outputs the mean over ``taps`` of the input with the same index."""
    conv.weight[:PATH] = 0
    if conv.bias is not None:
        conv.bias[:PATH] = 0
    for channel in range(PATH):
        for y, x in taps:
            conv.weight[channel, channel, y, x] = 1 / len(taps)


def build_unet(tile: int) -> UNet2DConditionModel:
    """Return a UNet for ``tile`` x ``tile`` latents, with attention at the lowest level only.

    The pooled text also enters through the time embedding: with cross-attention alone, the loss of a model of this size
    falls while the prompt has no effect.
    """
    return UNet2DConditionModel(
        sample_size=tile,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(64, 96, 160),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
