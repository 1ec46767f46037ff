"""The text model: words are tokens with orthogonal embeddings, prompts are sets of words."""

import torch
from transformers import CLIPTextModel, CLIPTokenizer

from dgkit.labels import CLASSES
from dgkit.prompts import compose
from dgkit.training.city.small_networks import TEXT_WIDTH
from dgkit.training.city.text_model import write_text_model
from dgkit.training.data.caption_encoder import CaptionEncoder
from dgkit.training.diffusion.word_tokenizer import MAX_TOKENS


def _text(folder) -> CaptionEncoder:
    write_text_model(folder, seed=0)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    return CaptionEncoder(tokenizer, CLIPTextModel.from_pretrained(folder / "text_encoder"))


def test_every_word_of_a_prompt_is_one_token_and_the_longest_prompt_fits(tmp_path):
    tokenizer = _text(tmp_path).tokenizer
    prompt = compose(" ".join(CLASSES), "snowy")
    tokens = tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)[1:-1]
    words = prompt.lower().replace(",", " ,").replace(".", " .").split()
    assert tokens == [word + "</w>" for word in words]
    assert len(tokens) + 2 <= MAX_TOKENS


def test_words_are_orthogonal_and_frame_words_and_padding_are_zero(tmp_path):
    text = _text(tmp_path)
    encoded = text(["road car , in snowy weather .", ""])["text"]
    norms = encoded.norm(dim=-1)
    assert encoded.shape == (2, MAX_TOKENS, TEXT_WIDTH)
    assert torch.allclose(norms[0, [1, 2, 5]], torch.full((3,), TEXT_WIDTH**0.5), rtol=1e-3)
    assert norms[1].max() < 1e-3
    assert norms[0, [0, 3, 4, 6, 7, 8]].max() < 1e-3
    road, car, snowy = encoded[0, [1, 2, 5]]
    assert max(abs(float(a @ b)) for a, b in ((road, car), (road, snowy), (car, snowy))) < 0.1
