"""The ControlNet's condition encoder, its config at Stable Diffusion's size, and which networks get gradients."""

import diffusers
import pytest
import torch

from dgkit.training.diffusion.controlnet import ControlNetTask, build_controlnet, condition_widths
from dgkit.training.diffusion.diffusion_recipes import Objective
from dgkit.training.diffusion.noising import Noising
from dgkit.training.diffusion.starting_model import find_training_model
from tests.models import make_micro_model
from tests.training.diffusion.test_noising import OneFeed

# config.json of ControlNets for Stable Diffusion 1.5, with 20 channels for DGInStyle.
PUBLISHED = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "class_embed_type": None,
    "conditioning_channels": 20,
    "conditioning_embedding_out_channels": [16, 32, 96, 256],
    "controlnet_conditioning_channel_order": "rgb",
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "projection_class_embeddings_input_dim": None,
    "resnet_time_scale_shift": "default",
    "upcast_attention": False,
    "use_linear_projection": False,
}


def test_at_the_size_of_stable_diffusion_the_config_is_the_published_one_with_20_channels():
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
        # On the meta device weights do not exist; only the config is tested.
        controlnet = build_controlnet(unet, condition_widths(8))
    config = {key: list(value) if isinstance(value, tuple) else value for key, value in controlnet.config.items()}
    assert {key: config[key] for key in PUBLISHED} == PUBLISHED
    assert sum(p.numel() for p in controlnet.parameters()) == 361_279_120 + 17 * 16 * 9  # of 3 channels, and 17 more


@pytest.mark.parametrize(
    ("factor", "widths"), [(4, (32, 96, 256)), (8, (16, 32, 96, 256)), (16, (16, 16, 32, 96, 256))]
)
def test_the_condition_encoder_shrinks_as_the_autoencoder_does(factor, widths):
    assert condition_widths(factor) == widths
    assert 2 ** (len(widths) - 1) == factor


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    model = find_training_model(str(make_micro_model(tmp_path_factory.mktemp("controlnet"), with_controlnet=False)))
    unet = model.unet()
    noising = Noising(model, OneFeed(), Objective(), seed=0, labels=True)
    return ControlNetTask(build_controlnet(unet, condition_widths(8)), unet, noising, zero_conv_lr=4.0)


def test_only_the_controlnet_gets_a_gradient(task):
    samples = [task.sample(i) for i in range(2)]
    task.loss(task.module, {key: torch.stack([s[key] for s in samples]) for key in samples[0]}).backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in task.module.controlnet_down_blocks.parameters())
    frozen = [*task.unet.parameters(), *task.noising.vae.parameters(), *task.noising.text.encoder.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in frozen)


def test_a_new_controlnet_changes_nothing_and_starts_from_the_unet(task):
    unet = task.unet
    assert torch.equal(task.module.conv_in.weight, unet.conv_in.weight)
    batch = {key: value[None] for key, value in task.sample(0).items()}
    noised = task.noising.batch(batch)
    with torch.no_grad():
        bare = unet(noised.latents, noised.timesteps, noised.text).sample
        loss = task.loss(task.module, batch)
    assert float(loss) == pytest.approx(float((bare - noised.target).square().mean()), rel=1e-5)
