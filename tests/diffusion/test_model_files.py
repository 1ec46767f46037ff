"""Model folders as users have them, as other versions wrote them, and as an attacker would: same result or one line."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dgkit.diffusion.loading import load_pipeline
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.diffusion.part_config import PARTS
from dgkit.diffusion.style_swap import swap
from dgkit.errors import DgkitError, InputError, ModelError
from dgkit.training.diffusion.starting_model import FolderModel
from tests.models import make_micro_model

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
MARK = b"\xef\xbb\xbf"
PROMPT = "a road in snowy weather."


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def facts(folder: Path) -> tuple[Any, ...]:
    """What a model computes: tokens, and sums of all weights."""
    model = ModelFolder(folder)
    tokens = model.tokenizer()(PROMPT, padding="max_length", max_length=20, truncation=True)["input_ids"]
    sums = [sum(float(p.double().sum()) for p in model.part(part).parameters()) for part in PARTS]
    return tokens, sums, model.info.text_length


def open_and_digest(folder: Path) -> str:
    model = ModelFolder(folder)
    model.tokenizer()
    for part in PARTS:
        model.part(part)
    return model.digest()


def shard(folder: Path, name: str = "", index: str = "") -> None:
    """Split the weights of the UNet into three files with an index, as diffusers does for large models."""
    weights = load_file(folder / UNET)
    (folder / UNET).unlink()
    weight_map = {}
    for number in range(3):
        part = {key: weights[key] for i, key in enumerate(sorted(weights)) if i % 3 == number}
        file = f"diffusion_pytorch_model{name}-{number + 1:05}-of-00003.safetensors"
        save_file(part, folder / "unet" / file)
        weight_map |= dict.fromkeys(part, file)
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    (folder / f"unet/diffusion_pytorch_model.safetensors.index{index}.json").write_text(text)


def save_whole_tokenizer(folder: Path) -> None:
    """As the installed version of transformers saves it: tokenizer.json and tokenizer_config.json only."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    shutil.rmtree(folder / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer")
    assert not (folder / "tokenizer" / "vocab.json").exists()


def rename(suffix: str) -> Callable[[Path], None]:
    return lambda folder: (folder / UNET).rename(folder / UNET.replace(".safe", f".{suffix}.safe")) and None


def mark_all(folder: Path) -> None:
    for path in folder.rglob("*.json"):
        path.write_bytes(MARK + path.read_bytes())


def unknown_keys(folder: Path) -> None:
    """Keys with which transformers and diffusers import or download, and keys that no one reads."""
    hostile = {
        "attn_implementation": "evil/kernel",
        "_attn_implementation": "evil/kernel",
        "_attn_implementation_internal": "evil/kernel",
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
        "auto_map": {"AutoModel": "evil--evil.Evil"},
        "custom_pipeline": "evil",
        "trust_remote_code": True,
        "use_kernels": True,
        "output_attentions": True,
        "note": {"any": ["thing"]},
    }
    for part in (*PARTS, "tokenizer", "scheduler"):
        name = {"tokenizer": "tokenizer_config.json", "scheduler": "scheduler_config.json"}.get(part, "config.json")
        change(folder / part / name, **hostile)
    change(
        folder / "tokenizer/tokenizer_config.json",
        tokenizer_file="/etc/passwd",
        vocab_file="/etc/passwd",
        chat_template="x",
    )
    change(folder / "tokenizer/tokenizer_config.json", fast_tokenizer_files=["../../evil.json"], tokenizer_class="Evil")
    (folder / "tokenizer" / "chat_template.jinja").write_text("{{ evil }}")


FORMS: dict[str, Callable[[Path], object]] = {
    "tokenizer.json alone": save_whole_tokenizer,
    "shards": shard,
    "fp16 shards": lambda folder: shard(folder, ".fp16", ".fp16"),
    "non_ema": rename("non_ema"),
    "fp16": rename("fp16"),
    "another variant": rename("bf16"),
    "byte order marks": mark_all,
    "unknown keys": unknown_keys,
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_model_folder_give_the_same_model(micro: Path, copy: Path, tmp_path: Path, form: str) -> None:
    expected = facts(micro)
    FORMS[form](copy)
    assert facts(copy) == expected
    swap(copy, copy, tmp_path / "out")
    assert facts(tmp_path / "out") == expected
    assert swap(copy, copy, tmp_path / "out").existed
    training = FolderModel(copy)
    assert training.text().tokenizer(PROMPT)["input_ids"] == ModelFolder(micro).tokenizer()(PROMPT)["input_ids"]
    assert sum(float(p.double().sum()) for p in training.unet().parameters()) == pytest.approx(expected[1][0])


@pytest.mark.parametrize("form", ["tokenizer.json alone", "shards", "byte order marks"])
def test_diffusers_opens_a_swapped_folder(copy: Path, tmp_path: Path, form: str) -> None:
    from diffusers import StableDiffusionControlNetPipeline

    FORMS[form](copy)
    swap(copy, copy, tmp_path / "out")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    assert pipeline.tokenizer(PROMPT)["input_ids"] == ModelFolder(copy).tokenizer()(PROMPT)["input_ids"]


def test_attention_is_the_default_whatever_a_config_says(copy: Path) -> None:
    unknown_keys(copy)
    assert ModelFolder(copy).part("text_encoder").config._attn_implementation == "sdpa"


def test_an_index_of_a_swapped_folder_names_only_known_classes(copy: Path, tmp_path: Path) -> None:
    (copy / "feature_extractor").mkdir()
    change(copy / "model_index.json", feature_extractor=["evil", "Evil"])
    change(copy / "scheduler/scheduler_config.json", _class_name="../evil")
    swap(copy, copy, tmp_path / "out")
    index = json.loads((tmp_path / "out/model_index.json").read_text())
    assert index["feature_extractor"] == [None, None] and index["scheduler"] == ["diffusers", "DDIMScheduler"]


def test_swap_with_a_vae_of_the_oldest_form(tmp_path: Path) -> None:
    folder = make_micro_model(tmp_path / "m", vae_attention=True)
    old = {}
    for key, value in load_file(folder / VAE).items():
        name = key
        for new, former in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f".{new}.", f".{former}.")
        old[name] = value[:, :, None, None].contiguous() if name != key and value.ndim == 2 else value
    expected = facts(folder)
    save_file(old, folder / VAE)
    swap(folder, folder, tmp_path / "out")
    assert facts(tmp_path / "out") == expected


def test_the_digest_covers_every_shard(copy: Path) -> None:
    shard(copy)
    before = open_and_digest(copy)
    path = copy / "unet/diffusion_pytorch_model-00002-of-00003.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).add_(1.0)
    save_file(weights, path)
    assert open_and_digest(copy) != before


def add_whole_tokenizer(folder: Path) -> None:
    """A tokenizer.json next to vocab.json, of which it swaps two words; transformers reads it first."""
    shutil.copytree(folder / "tokenizer", folder / "pair")
    save_whole_tokenizer(folder)
    path = folder / "tokenizer/tokenizer.json"
    value = json.loads(path.read_text())
    vocabulary = value["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    path.write_text(json.dumps(value))
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(folder / "pair" / name, folder / "tokenizer" / name)
    shutil.rmtree(folder / "pair")


TOKENIZER = "tokenizer/tokenizer_config.json"
EDITS: dict[str, Callable[[Path], object]] = {
    "pad token": lambda folder: change(folder / TOKENIZER, pad_token="a"),
    "begin of text": lambda folder: change(folder / TOKENIZER, bos_token="a"),
    "length": lambda folder: change(folder / TOKENIZER, model_max_length=20),
    "padding side": lambda folder: change(folder / TOKENIZER, padding_side="left"),
    "truncation side": lambda folder: change(folder / TOKENIZER, truncation_side="left"),
    "added token": lambda folder: change(
        folder / TOKENIZER, added_tokens_decoder={"5": {"content": "road", "special": False, "normalized": True}}
    ),
    "tokenizer.json": add_whole_tokenizer,
    "added_tokens.json": lambda folder: (
        change(folder / TOKENIZER, added_tokens_decoder=None),
        (folder / TOKENIZER).write_text('{"model_max_length": 77}'),
        (folder / "tokenizer/added_tokens.json").write_text('{"road": 5}'),
    ),
    "vocab.json": lambda folder: change(folder / "tokenizer/vocab.json", a=65, b=64),
    "merges.txt": lambda folder: (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_the_digest_follows_everything_that_changes_tokens(micro: Path, copy: Path, edit: str) -> None:
    EDITS[edit](copy)
    assert ModelFolder(copy).digest() != ModelFolder(micro).digest()


@pytest.mark.parametrize("key", ["chat_template", "name_or_path", "tokenizer_class", "errors", "do_lower_case"])
def test_the_digest_stays_where_tokens_do(micro: Path, copy: Path, key: str) -> None:
    change(copy / TOKENIZER, **{key: "replace" if key == "errors" else True})
    assert ModelFolder(copy).digest() == ModelFolder(micro).digest()


def test_the_digest_stays_with_a_tokenizer_json_of_the_same_tokens(micro: Path, copy: Path) -> None:
    save_whole_tokenizer(copy)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(micro / "tokenizer" / name, copy / "tokenizer" / name)
    assert ModelFolder(copy).digest() == ModelFolder(micro).digest()


def with_config(part: str, **values: object) -> Callable[[Path], None]:
    return lambda folder: change(folder / part / "config.json", **values)


def both(**values: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        for part in ("unet", "controlnet"):
            change(folder / part / "config.json", **values)

    return apply


def pipe(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return apply


def directory(name: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink(), (folder / name).mkdir()].clear()


def edit_shards(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        shard(folder)
        path = folder / "unet/diffusion_pytorch_model.safetensors.index.json"
        value = json.loads(path.read_text())
        edit(value)
        path.write_text(json.dumps(value))

    return apply


def two_variants(folder: Path) -> None:
    shutil.copy(folder / UNET, folder / UNET.replace(".safe", ".a.safe"))
    rename("b")(folder)


def pickles(folder: Path) -> None:
    for number in (1, 2):
        torch.save({}, folder / f"unet/diffusion_pytorch_model-0000{number}-of-00002.bin")
    (folder / UNET).unlink()


def integers(folder: Path) -> None:
    weights = load_file(folder / UNET)
    save_file({key: value.int() for key, value in weights.items()}, folder / UNET)


def eighths(folder: Path) -> None:
    weights = load_file(folder / UNET)
    save_file({key: value.to(torch.float8_e4m3fn) for key, value in weights.items()}, folder / UNET)


def tokenizer_of(**values: object) -> Callable[[Path], None]:
    return lambda folder: change(folder / TOKENIZER, **values)


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "layers": (with_config("vae", layers_per_block=10**9), "layers_per_block is 1000000000, which no network has"),
    "layers within the limit": (both(layers_per_block=10**6), "1000000 layers in a level"),
    "layers of a level": (with_config("unet", layers_per_block=[2, 10**6]), "does not fit the UNet|layers in a level"),
    "transformer layers": (with_config("unet", transformer_layers_per_block=10**6), "layers in a level"),
    "transformer layers upwards": (
        with_config("unet", reverse_transformer_layers_per_block=[10**6, 1]),
        "layers in a level",
    ),
    "text layers": (with_config("text_encoder", num_hidden_layers=10**6), "layers in a level"),
    "positions": (with_config("text_encoder", max_position_embeddings=10**9), "which no network has"),
    "tile": (with_config("unet", sample_size=10**9), "which no network has"),
    "levels": (with_config("vae", block_out_channels=[4] * 60), "60 levels"),
    "entries": (with_config("vae", down_block_types=["x"] * 10**5), "100000 entries"),
    "text for a number": (with_config("vae", latent_channels="4"), "latent_channels is '4'"),
    "number for a list": (with_config("vae", block_out_channels=4), "block_out_channels is 4"),
    "mapping for a number": (with_config("unet", in_channels={"a": 1}), "in_channels is {'a': 1}"),
    "empty list": (with_config("controlnet", conditioning_embedding_out_channels=[]), r"is \[\]; expected a list"),
    "class": (with_config("unet", _class_name=["a"]), "describes a"),
    "architectures": (with_config("text_encoder", architectures="Evil"), "describes a Evil"),
    "architectures of numbers": (with_config("text_encoder", architectures=3), "describes a 3"),
    "zero groups": (with_config("vae", norm_num_groups=0), "cannot be built"),
    "scaling": (with_config("vae", scaling_factor="x"), "scaling_factor is 'x'"),
    "tile of two": (with_config("unet", sample_size=[8, 8]), "sample_size is"),
    "deep config": (lambda f: (f / "vae/config.json").write_text("[" * 10**5), "not valid JSON: it is nested"),
    "long config": (lambda f: (f / "vae/config.json").write_text(" " * 10**7), "longer than"),
    "digits": (lambda f: (f / "vae/config.json").write_text('{"a": ' + "9" * 5000 + "}"), "not valid JSON"),
    "config as pipe": (pipe("vae/config.json"), "not a regular file"),
    "config as folder": (directory("vae/config.json"), "it is a folder"),
    "weights as pipe": (pipe(UNET), "not a regular file"),
    "weights as folder": (directory(UNET), "not a regular file"),
    "weights of a terabyte": (lambda f: os.truncate(f / UNET, 2**40), "is damaged"),
    "vocabulary as pipe": (pipe("tokenizer/vocab.json"), "not a regular file"),
    "scheduler as pipe": (pipe("scheduler/scheduler_config.json"), "not a regular file"),
    "defaults as list": (lambda f: (f / "dgkit.json").write_text("[]"), "contains a list"),
    "defaults with a recipe": (lambda f: (f / "dgkit.json").write_text('{"recipe": "/x"}'), "unknown key 'recipe'"),
    "defaults with cls": (lambda f: (f / "dgkit.json").write_text('{"cls": 1}'), "unknown key 'cls'"),
    "defaults of wrong type": (lambda f: (f / "dgkit.json").write_text('{"label_height": [1]}'), "label_height="),
    "integer weights": (integers, "has type int32"),
    "fp8 weights": (eighths, "has type float8_e4m3fn"),
    "two variants": (two_variants, "weights a, b, of which none"),
    "pickles": (pickles, "only pickled weights"),
    "shard missing": (
        edit_shards(lambda v: v["weight_map"].update(x="none.safetensors")),
        "none.safetensors is missing",
    ),
    "shard outside": (edit_shards(lambda v: v["weight_map"].update(x="../a.safetensors")), r"lists '\.\./a"),
    "shard of a number": (edit_shards(lambda v: v["weight_map"].update(x=3)), "lists 3"),
    "no shards": (edit_shards(lambda v: v.pop("weight_map")), "has no weight_map"),
    "shard without a tensor": (
        edit_shards(lambda v: v["weight_map"].update(x="diffusion_pytorch_model-00001-of-00003.safetensors")),
        "does not hold what",
    ),
    "shard with another tensor": (
        edit_shards(lambda v: v["weight_map"].pop("conv_in.bias")),
        "does not hold what .* lists: conv_in.bias",
    ),
    "token number": (tokenizer_of(added_tokens_decoder={"x": {"content": "a"}}), "tokenizer cannot be read"),
    "token list": (tokenizer_of(added_tokens_decoder=[1]), "tokenizer cannot be read"),
    "token fields": (tokenizer_of(bos_token={"evil": 1}), "bos_token is"),
    "length of tokens": (tokenizer_of(model_max_length="x"), "model_max_length is 'x'"),
    "empty length": (tokenizer_of(model_max_length=""), "model_max_length is ''"),
    "length of another type": (tokenizer_of(model_max_length={}), "model_max_length is {}"),
    "negative length": (tokenizer_of(model_max_length=-5), "model_max_length is -5"),
    "token beyond the vocabulary": (
        lambda f: change(f / "tokenizer/vocab.json", a=10**6),
        "has token 1000000, but the text encoder has 210 tokens",
    ),
    "token of a huge number": (
        lambda f: change(f / "tokenizer/vocab.json", a=2**31),
        "a token has the number 2147483648; allowed: 0 to 4,194,303",
    ),
    "blocks of a long name": (
        with_config("controlnet", down_block_types=["x" * 100_000]),
        "does not fit the UNet: its down_block_types|which no network has|unknown",
    ),
    "token of a wrong type": (lambda f: change(f / "tokenizer/vocab.json", a="x"), "tokenizer cannot be read"),
    "neither form of tokenizer": (
        lambda f: (f / "tokenizer/merges.txt").unlink(),
        r"merges\.txt is missing, and there is no tokenizer\.json",
    ),
    "tokenizer.json without a model": (
        lambda f: (f / "tokenizer/tokenizer.json").write_text("{}"),
        "tokenizer cannot be read|has .* tokens",
    ),
}


def test_weights_of_a_wrong_size_are_not_hashed(copy: Path) -> None:
    os.truncate(copy / UNET, 2**40)
    with pytest.raises(ModelError, match="is damaged"):
        ModelFolder(copy).digest()


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_folder_is_one_line_in_seconds(copy: Path, case: str) -> None:
    damage, words = BAD[case]
    damage(copy)
    start = time.process_time()
    with pytest.raises((ModelError, InputError), match=words) as raised:
        open_and_digest(copy)
    assert time.process_time() - start < 5
    assert "\n" not in raised.value.message and len(raised.value.message) < 1000


def test_the_conversion_of_pickles_works(copy: Path, tmp_path: Path) -> None:
    weights = load_file(copy / UNET)
    torch.save(weights, copy / UNET.replace("safetensors", "bin"))
    (copy / UNET).unlink()
    with pytest.raises(DgkitError) as raised:
        open_and_digest(copy)
    _, python, option, code = shlex.split(raised.value.hint)
    assert (python, option) == ("python", "-c")
    exec(code)
    load_pipeline(copy)
    assert set(load_file(copy / UNET)) == set(weights)
