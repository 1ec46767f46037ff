"""The small networks: words are tokens, prompts are sets of words, the folded normalisation is exact."""

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from dgkit.data.prompts import compose
from dgkit.labels import CLASSES, CONDITION_CHANNELS
from dgkit.training import networks
from dgkit.training.batches import Text


def _text(folder) -> Text:
    networks.write_text_model(folder, seed=0)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    return Text(tokenizer, CLIPTextModel.from_pretrained(folder / "text_encoder"))


def test_every_word_of_a_prompt_is_one_token_and_the_longest_prompt_fits(tmp_path):
    tokenizer = _text(tmp_path).tokenizer
    prompt = compose(" ".join(CLASSES), "snowy")
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)[1:-1]
    words = prompt.lower().replace(",", " ,").replace(".", " .").split()
    assert tokens == [word + "</w>" for word in words]
    assert len(tokens) + 2 <= networks.MAX_TOKENS


def test_words_are_orthogonal_and_frame_words_and_padding_are_zero(tmp_path):
    text = _text(tmp_path)
    encoded = text(["road car , in snowy weather .", ""])
    norms = encoded.norm(dim=-1)
    assert encoded.shape == (2, networks.MAX_TOKENS, networks.TEXT_WIDTH)
    assert torch.allclose(norms[0, [1, 2, 5]], torch.full((3,), networks.TEXT_WIDTH**0.5), rtol=1e-3)
    assert norms[1].max() < 1e-3
    assert norms[0, [0, 3, 4, 6, 7, 8]].max() < 1e-3
    road, car, snowy = encoded[0, [1, 2, 5]]
    assert max(abs(float(a @ b)) for a, b in ((road, car), (road, snowy), (car, snowy))) < 0.1


def test_folding_the_normalisation_changes_latents_only_as_stated():
    torch.manual_seed(0)
    vae = networks.build_vae(64).requires_grad_(False)
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    before = vae.encode(image).latent_dist
    decoded = vae.decode(before.mean).sample
    mean, std = torch.randn(networks.LATENT_CHANNELS), torch.rand(networks.LATENT_CHANNELS) + 0.5
    networks.fold_normalisation(vae, mean, std)
    after = vae.encode(image).latent_dist
    shape = (1, -1, 1, 1)
    assert torch.allclose(after.mean, (before.mean - mean.view(shape)) / std.view(shape), atol=1e-5)
    assert torch.allclose(after.std, before.std / std.view(shape), atol=1e-5)
    assert torch.allclose(vae.decode(after.mean).sample, decoded, atol=1e-4)


def test_the_four_networks_fit_the_package_in_half_precision():
    unet = networks.build_unet(32)
    parts = [unet, networks.build_controlnet(unet), networks.build_vae(256)]
    assert sum(p.numel() for part in parts for p in part.parameters()) * 2 < 24.5e6
    assert parts[1].config.conditioning_channels == CONDITION_CHANNELS
