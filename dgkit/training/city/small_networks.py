"""The small networks of the embedded model, made of the classes that Stable Diffusion is made of."""

import itertools
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from dgkit.labels import CLASSES, CONDITION_CHANNELS

LATENT_CHANNELS = 8
VAE_FACTOR = 8
TEXT_WIDTH = 128
MAX_TOKENS = 40  # the longest style prompt, all 19 classes, takes 35
STYLE_WORDS = ("snowy", "rainy", "sunny", "foggy", "night")
# Words every prompt shares say nothing: their embedding is zero, so that they cannot hide the style word.
FRAME_WORDS = ("a", "city", "street", "scene", "with", "in", "weather", ",", ".")
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.30.0",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    # Without zero terminal SNR a model cannot paint a dark image: Lin et al. 2023, arXiv 2305.08891.
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "set_alpha_to_one": True,
    "steps_offset": 1,  # not used by trailing spacing; diffusers warns about any other value
    "clip_sample": False,
}


COLOURS, REFERENCE = 3, 3.0  # channels of the colour path; its two constant channels are +-REFERENCE
PATH = 2 * COLOURS + 2  # +RGB, -RGB, +REFERENCE, -REFERENCE


def build_vae(image_size: int) -> AutoencoderKL:
    """Autoencoder of factor 8 with 8 latent channels; no attention, so that it runs at any size.

    It starts as a colour pyramid (:func:`start_as_colour_pyramid`) and learns the detail from there.
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
    """Set initial weights under which three latents are the mean RGB of their cell and decoding paints them back.

    From default weights a small autoencoder spends its first thousand steps in grey. The first :data:`PATH` channels
    carry +RGB, -RGB and two constants through every level: residual blocks start as identities, strided convolutions
    as 2 x 2 means. The constants keep the group norms near a fixed scale, and silu(x) - silu(-x) = x undoes the last
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
    vae.quant_conv.bias[LATENT_CHANNELS:] = -5.0  # log variance: nearly no noise


def _pass_through(conv: nn.Conv2d, taps: list[tuple[int, int]]) -> None:
    """Make the first :data:`PATH` outputs the mean over ``taps`` of the inputs of the same number."""
    conv.weight[:PATH] = 0
    if conv.bias is not None:
        conv.bias[:PATH] = 0
    for channel in range(PATH):
        for y, x in taps:
            conv.weight[channel, channel, y, x] = 1 / len(taps)


def build_unet(tile: int) -> UNet2DConditionModel:
    """UNet of ``tile`` x ``tile`` latents, attention at the lowest level only.

    The pooled text also enters through the time embedding: cross-attention alone collapses at this size (the loss
    falls while the prompt has no effect).
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


def build_controlnet(unet: UNet2DConditionModel, widths: tuple[int, ...] = (8, 32, 64, 96)) -> ControlNetModel:
    """ControlNet with 20 condition channels, its encoder copied from ``unet`` (DGInStyle: the source UNet).

    ``widths`` of the condition encoder: it shrinks a label map 2^(len - 1) times, as the autoencoder does images.
    """
    return ControlNetModel.from_unet(
        unet, conditioning_channels=CONDITION_CHANNELS, conditioning_embedding_out_channels=widths
    )


def vocabulary() -> tuple[str, ...]:
    """Words that are one token each, in a fixed order."""
    words = dict.fromkeys(word for name in CLASSES for word in name.split())
    return (*words, *STYLE_WORDS, *FRAME_WORDS)


def write_tokenizer(folder: Path, length: int = MAX_TOKENS) -> dict[str, int]:
    """Write a CLIP byte-pair tokenizer in which every word of :func:`vocabulary` is one token.

    ``length``: most tokens of a prompt. Other words split into letters. Returns word -> id. Raises ValueError if the
    merges cannot isolate a word.
    """
    folder.mkdir(parents=True, exist_ok=True)
    merges = _merges(vocabulary())
    letters = _byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    ids = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        ids[special] = len(ids)
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return {word: ids[word + "</w>"] for word in vocabulary()}


def _byte_letters() -> list[str]:
    """The 256 printable stand-ins for bytes that CLIP's and GPT-2's byte-pair tokenizers share."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    shifted = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(shifted))]


def _merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Merges, best first, under which each word becomes one token: words that others break move to the front."""
    order = [word for word in words if len(word) > 1]
    for _ in range(len(order) ** 2):
        merges: dict[tuple[str, str], None] = {}
        for word in order:
            pieces = [*word[:-1], word[-1] + "</w>"]
            for i in range(1, len(pieces)):
                merges["".join(pieces[:i]), pieces[i]] = None
        ranks = {pair: rank for rank, pair in enumerate(merges)}
        broken = next((word for word in order if len(_split(word, ranks)) > 1), None)
        if broken is None:
            return list(merges)
        order.remove(broken)
        order.insert(0, broken)
    raise ValueError("no order of merges makes every word one token")


def _split(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    pieces = [*word[:-1], word[-1] + "</w>"]
    while len(pieces) > 1:
        pairs = [pair for pair in itertools.pairwise(pieces) if pair in ranks]
        if not pairs:
            break
        best = min(pairs, key=ranks.__getitem__)
        i = next(i for i, pair in enumerate(itertools.pairwise(pieces)) if pair == best)
        pieces[i : i + 2] = ["".join(best)]
    return pieces


def build_text_encoder(ids: dict[str, int], vocab_size: int, seed: int) -> CLIPTextModel:
    """A frozen text encoder: one fixed, orthogonal vector of norm sqrt(width) a word, zero for padding and frame words.

    Attention and feed-forward add nothing (their output weights are zero) and positions are zero, so a prompt is the
    set of its words. A trained or randomly mixing encoder made the small UNet ignore its prompt.
    """
    config = CLIPTextConfig(
        vocab_size=vocab_size,
        hidden_size=TEXT_WIDTH,
        intermediate_size=TEXT_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=TEXT_WIDTH,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
        pad_token_id=vocab_size - 1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the weights that do nothing, too, are the same in every run
        encoder = CLIPTextModel(config)
    rng = np.random.default_rng([seed, 1])
    words = [word for word in ids if word not in FRAME_WORDS]
    # The encoder's last layer norm removes the mean, so the vectors are orthogonal among those of mean zero.
    basis = rng.standard_normal((TEXT_WIDTH, len(words) + 1))
    basis[:, 0] = 1.0
    directions = np.linalg.qr(basis)[0][:, 1:].T
    table = 0.3 * rng.standard_normal((vocab_size, TEXT_WIDTH))
    table[-2:] = 0.0
    table[[ids[word] for word in FRAME_WORDS]] = 0.0
    table[[ids[word] for word in words]] = directions * TEXT_WIDTH**0.5
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if name.endswith("token_embedding.weight"):
                parameter.copy_(torch.from_numpy(table))
            elif "position_embedding" in name or "out_proj" in name or ".fc2." in name:
                parameter.zero_()
    return encoder.requires_grad_(False).eval()


@torch.no_grad()
def fold_whitening(
    vae: AutoencoderKL, mean: torch.Tensor, covariance: torch.Tensor, variance: torch.Tensor, power: float = 1.0
) -> None:
    """Fold ``latent -> W (latent - mean)`` into the VAE's 1x1 convolutions, in place.

    W acts along the principal axes of the covariance: with ``power`` 1 it makes the covariance the identity, with
    ``power`` 0 it only scales; between, the large components (light, colour of a region) stay larger than the fine
    ones, so that sampling settles them first. The mean variance of the result is 1.

    ``mean`` float32 [C], ``covariance`` float32 [C, C] and ``variance`` float32 [C] (the posterior's, on average) are
    those of the latents so far. Afterwards the scaling factor 1 is right and every diffusers pipeline works. Without it
    colour differences would be a small part of three nearly equal channels, which a diffusion model learns last. The
    posterior's variance becomes a constant: a rotation of independent variances has no exact form in logarithms.
    """
    channels = len(mean)
    values, vectors = torch.linalg.eigh(covariance.double())
    wanted = values.pow((1 - power) / 2)
    scale = wanted / wanted.square().mean().sqrt() * values.rsqrt()
    whiten = (vectors * scale @ vectors.T).float()
    colour = (vectors / scale @ vectors.T).float()
    quant, post = vae.quant_conv, vae.post_quant_conv
    weight = quant.weight[:, :, 0, 0].clone()
    quant.weight[:channels, :, 0, 0] = whiten @ weight[:channels]
    quant.bias[:channels] = whiten @ (quant.bias[:channels] - mean)
    quant.weight[channels:] = 0
    quant.bias[channels:] = (whiten.square() @ variance).log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight[:, :, 0, 0] = post.weight[:, :, 0, 0].clone() @ colour


def write_text_model(folder: Path, seed: int) -> CLIPTextModel:
    """Write ``tokenizer/`` and ``text_encoder/`` of a model folder; returns the encoder."""
    ids = write_tokenizer(folder / "tokenizer")
    vocab_size = len(json.loads((folder / "tokenizer" / "vocab.json").read_text(encoding="utf-8")))
    encoder = build_text_encoder(ids, vocab_size, seed)
    encoder.save_pretrained(folder / "text_encoder")
    return encoder
