"""The small networks: words are tokens, prompts are sets of words, the folded normalisation is exact."""

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from dgkit.labels import CLASSES, CONDITION_CHANNELS
from dgkit.prompts import compose
from dgkit.training.city import small_networks as networks
from dgkit.training.data.text import Text


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


def test_folding_the_whitening_gives_white_latents_and_the_same_pictures():
    torch.manual_seed(0)
    vae = networks.build_vae(64).requires_grad_(False)
    images = torch.rand(6, 3, 64, 64).mul_(2).sub_(1).cumsum(-1).div_(8).tanh_()
    before = vae.encode(images).latent_dist
    decoded = vae.decode(before.mean).sample
    latents = before.mean.transpose(0, 1).flatten(1)
    networks.fold_whitening(vae, latents.mean(1), torch.cov(latents), before.var.mean((0, 2, 3)))
    after = vae.encode(images).latent_dist
    white = after.mean.transpose(0, 1).flatten(1)
    assert white.mean(1).abs().max() < 1e-4
    assert torch.allclose(torch.cov(white), torch.eye(networks.LATENT_CHANNELS), atol=1e-3)
    assert torch.allclose(vae.decode(after.mean).sample, decoded, atol=1e-3)
    assert after.var.min() > 0


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
    parts = [unet, networks.build_controlnet(unet), networks.build_vae(256)]
    assert sum(p.numel() for part in parts for p in part.parameters()) * 2 < 24.5e6
    assert parts[1].config.conditioning_channels == CONDITION_CHANNELS
