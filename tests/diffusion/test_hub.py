"""Models on the hub are fetched in the forms in which model folders are read, and nothing else of them."""

import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from dgkit.diffusion.hub import find_controlnet, find_lora_file, find_model
from dgkit.diffusion.model_folder import ModelFolder
from dgkit.errors import ModelError
from tests.diffusion.test_model_files import FORMS, UNET, open_and_digest, rename, shard


class FakeHub:
    """A repository in a folder, and the folder that stands for the hub's cache."""

    def __init__(self, remote: Path, cache: Path) -> None:
        self.remote, self.cache, self.online = remote, cache, True

    def list_repo_files(self, repository: str) -> list[str]:
        self._connect()
        return [path.relative_to(self.remote).as_posix() for path in self.remote.rglob("*") if path.is_file()]

    def snapshot_download(
        self, repository: str, allow_patterns: list[str] | None = None, local_files_only: bool = False
    ) -> str:
        if local_files_only:
            if not self.cache.exists():
                raise OSError("no copy in the cache")
            return str(self.cache)
        for name in self.list_repo_files(repository):
            if any(fnmatch(name, pattern) for pattern in allow_patterns or ["*"]):
                (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.remote / name, self.cache / name)
        return str(self.cache)

    def _connect(self) -> None:
        if not self.online:
            raise OSError("the hub cannot be reached")


@pytest.fixture
def hub(micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A repository of a whole model with files that dgkit does not use."""
    found = FakeHub(tmp_path / "remote", tmp_path / "cache")
    shutil.copytree(micro, found.remote)
    for name in ("README.md", "unet/diffusion_pytorch_model.bin", "safety_checker/model.safetensors"):
        (found.remote / name).parent.mkdir(exist_ok=True)
        (found.remote / name).write_bytes(b"not used")
    for name in ("list_repo_files", "snapshot_download"):
        monkeypatch.setattr(f"huggingface_hub.{name}", getattr(found, name))
    return found


def fetched(hub: FakeHub) -> list[str]:
    return sorted(path.relative_to(hub.cache).as_posix() for path in hub.cache.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "form", ["shards", "fp16 shards", "non_ema", "fp16", "another variant", "tokenizer.json alone"]
)
def test_forms_of_a_repository(hub: FakeHub, form: str) -> None:
    FORMS[form](hub.remote)
    folder = find_model("owner/name")
    assert open_and_digest(folder) == open_and_digest(hub.remote)
    assert not {"README.md", "unet/diffusion_pytorch_model.bin", "safety_checker/model.safetensors"} & {*fetched(hub)}
    before, hub.online = fetched(hub), False
    assert find_model("owner/name") == folder and fetched(hub) == before


def test_other_variants_are_not_fetched(hub: FakeHub) -> None:
    for variant in ("fp16", "non_ema"):
        shutil.copyfile(hub.remote / UNET, hub.remote / UNET.replace(".safe", f".{variant}.safe"))
    find_model("owner/name")
    assert [name for name in fetched(hub) if "diffusion_pytorch_model" in name and name.startswith("unet")] == [UNET]


@pytest.mark.parametrize("change", [lambda folder: None, rename("fp16"), shard])
def test_a_controlnet_in_a_subfolder(hub: FakeHub, tmp_path: Path, change: Callable[[Path], object]) -> None:
    shutil.move(hub.remote / "controlnet", tmp_path / "scratch/unet")
    change(tmp_path / "scratch")
    shutil.move(tmp_path / "scratch/unet", hub.remote / "controlnet")
    folder = find_controlnet("owner/name/controlnet")
    assert folder == hub.cache / "controlnet" and all(name.startswith("controlnet/") for name in fetched(hub))
    assert ModelFolder(hub.remote, controlnet=folder).digest() == ModelFolder(hub.remote).digest()


def test_what_a_repository_lacks_is_named_before_anything_is_fetched(hub: FakeHub) -> None:
    (hub.remote / UNET).unlink()
    (hub.remote / "tokenizer/vocab.json").unlink()
    with pytest.raises(ModelError, match=r"owner/name lacks files .*: tokenizer/vocab\.json, unet/diffusion_pyt"):
        find_model("owner/name")
    assert not hub.cache.exists()


def test_variants_of_which_none_is_preferred(hub: FakeHub) -> None:
    rename("bf16")(hub.remote)
    shutil.copyfile(hub.remote / UNET.replace(".safe", ".bf16.safe"), hub.remote / UNET.replace(".safe", ".int8.safe"))
    with pytest.raises(ModelError, match="owner/name/unet has the weights bf16, int8, of which none is"):
        find_model("owner/name")


def test_without_network_and_copy(hub: FakeHub) -> None:
    hub.online = False
    with pytest.raises(ModelError, match="the hub cannot be reached"):
        find_model("owner/name")


def test_both_text_encoders_of_sdxl_are_fetched(sdxl_model: Path, hub: FakeHub) -> None:
    shutil.rmtree(hub.remote)
    shutil.copytree(sdxl_model, hub.remote)
    assert ModelFolder(find_model("owner/name")).digest() == ModelFolder(sdxl_model).digest()
    assert fetched(hub) == sorted(path.relative_to(sdxl_model).as_posix() for path in sdxl_model.rglob("*.*"))
    (hub.remote / "tokenizer_2" / "merges.txt").unlink()
    with pytest.raises(ModelError, match=r"lacks files on the hub or in its cached copy: tokenizer_2/merges\.txt"):
        find_model("owner/name")


def test_a_model_with_a_transformer_is_not_fetched(hub: FakeHub) -> None:
    (hub.remote / "unet").rename(hub.remote / "transformer")
    with pytest.raises(ModelError, match="is a model with a transformer, which is not supported") as caught:
        find_model("owner/name")
    assert caught.value.hint == "supported: Stable Diffusion 1.x and 2.x, SDXL" and not hub.cache.exists()


def test_only_the_lora_of_a_repository_is_fetched(hub: FakeHub) -> None:
    """The published ones are a file of the usual name, or one of many in a repository."""
    shutil.rmtree(hub.remote)
    for name in ("a/8steps.safetensors", "a/4steps.safetensors", "old.bin", "README.md"):
        (hub.remote / name).parent.mkdir(parents=True, exist_ok=True)
        (hub.remote / name).write_bytes(name.encode())
    for text, message in (
        ("owner/name", "has 2 LoRA files: a/4steps.safetensors, a/8steps.safetensors"),
        ("owner/name/old.bin", "is pickled"),
        ("owner/name/none.safetensors", "has no .safetensors file"),
    ):
        with pytest.raises(ModelError, match=message):
            find_lora_file(text)
    assert not hub.cache.exists()
    assert find_lora_file("owner/name/a/8steps.safetensors").read_bytes() == b"a/8steps.safetensors"
    assert fetched(hub) == ["a/8steps.safetensors"]
    hub.online = False
    assert find_lora_file("owner/name/a/8steps.safetensors") == hub.cache / "a/8steps.safetensors"
    (hub.remote / "pytorch_lora_weights.safetensors").write_bytes(b"usual")
    hub.online = True
    assert find_lora_file("owner/name").read_bytes() == b"usual"
