"""The frozen text model of the embedded model: a word tokenizer and one fixed vector per word."""

import json
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPTextConfig, CLIPTextModel

from dgkit.diffusion.weights import save_part
from dgkit.training.city.small_networks import TEXT_WIDTH
from dgkit.training.diffusion.word_tokenizer import FRAME_WORDS, MAX_TOKENS, write_tokenizer


def write_text_model(folder: Path, seed: int) -> CLIPTextModel:
    """Write ``tokenizer/`` and ``text_encoder/`` of a model folder and return the encoder."""
    ids = write_tokenizer(folder / "tokenizer")
    vocab_size = len(json.loads((folder / "tokenizer" / "vocab.json").read_text(encoding="utf-8")))
    encoder = build_text_encoder(ids, vocab_size, seed)
    save_part(encoder, folder / "text_encoder")
    return encoder


def build_text_encoder(ids: dict[str, int], vocab_size: int, seed: int) -> CLIPTextModel:
    """Return a frozen text encoder with one fixed vector per word, zero for padding and frame words.

    The vectors are orthogonal, of norm sqrt(width). Attention and feed-forward layers add nothing (their output weights
    are zero) and positions are zero, so a prompt is the set of its words. With a trained or randomly mixing encoder
    the small UNet ignored its prompt.
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
        torch.manual_seed(seed)  # makes the unused weights reproducible too
        encoder = CLIPTextModel(config)
    rng = np.random.default_rng([seed, 1])
    words = [word for word in ids if word not in FRAME_WORDS]
    # The last layer norm of the encoder removes the mean, so the vectors are orthogonal with mean zero.
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
