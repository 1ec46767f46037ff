"""Style swap: a ControlNet that was trained with one UNet runs with another.

The ControlNet is trained with a UNet that was fine-tuned on the labelled source, then attached to the original prior,
which has not learned the look of the source. No weight is changed; the two only have to fit together. Source: DGInStyle
(arXiv 2312.03048), demo.py.
"""

import errno
import filecmp
import json
import re
import shutil
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dgkit.diffusion.fused_model import FusedModel
from dgkit.diffusion.hub import find_controlnet, find_model
from dgkit.diffusion.lora_fusion import LoraFile, find_loras
from dgkit.diffusion.model_folder import ModelFolder, condition_text, controlnet_taxonomy
from dgkit.diffusion.part_config import KNOWN_PARTS, SDXL_INDEX, read_json
from dgkit.diffusion.weight_files import find_weights
from dgkit.diffusion.weights import check_finite, check_keys, read_shapes, save_weights, skeleton
from dgkit.engines.modules import Denoiser, without_condition_embedding
from dgkit.engines.spec import TIME_VALUES
from dgkit.errors import ModelError, OutputError, one_line
from dgkit.files import is_hidden, output_error, temporary_path, user_path
from dgkit.taxonomies import Taxonomy, mixed

_EXTRACTORS = (["transformers", "CLIPImageProcessor"], ["transformers", "CLIPFeatureExtractor"])
_SCHEDULER = re.compile(r"[A-Z]\w*Scheduler")
_CONFIGS = ("tokenizer", "tokenizer_2", "scheduler", "feature_extractor")


@dataclass(frozen=True)
class SwapReport:
    """The result of :func:`swap`.

    ``parameters`` is the number of weights by part, ``residuals`` that of the ControlNet's residuals, ``size`` the
    image size in pixels. ``existed``: the same folder existed before.
    """

    out: Path
    prior: Path
    controlnet: Path
    parameters: dict[str, int]
    residuals: int
    size: int
    digest: str
    existed: bool


def swap(
    prior: str | Path,
    controlnet: str | Path,
    out: str | Path,
    taxonomy: Taxonomy | None = None,
    loras: Sequence[str] = (),
) -> SwapReport:
    """Join the model ``prior`` and the ControlNet ``controlnet`` (folders or hub ids) in the new folder ``out``.

    Checks that every weight of both exists, is finite and has the shape in its config, that there are no others, and
    that each residual of the ControlNet has the shape of the UNet feature it is added to. ``out`` is complete or
    absent; both dgkit and diffusers' ``StableDiffusionControlNetPipeline`` can load it, for SDXL
    ``StableDiffusionXLControlNetPipeline``. ``taxonomy`` states the classes of a ControlNet that states none. ``loras``
    (``FILE_OR_HUB[:scale]``) are fused into UNet and text encoders and recorded in ``dgkit.json``, so that none is
    applied twice.

    Raises ModelError if the parts do not fit together; OutputError if ``out`` exists with other content or cannot be
    written.
    """
    target = user_path(out)
    folder = _open(find_model(prior), find_controlnet(controlnet), taxonomy)
    folder.tokenizer()
    parameters = {name: _check_part(folder, name) for name in folder.paths}
    residuals = _check_residuals(folder)
    existed = target.exists()
    with _fused_files(folder, find_loras(loras), target) as fused:
        if existed:
            _check_same(folder, target, fused)
        else:
            _write(folder, target, fused)
    return SwapReport(
        out=target,
        prior=folder.root,
        controlnet=folder.paths["controlnet"],
        parameters=parameters,
        residuals=residuals,
        size=folder.info.size,
        digest=(ModelFolder(target) if loras else folder).digest(),
        existed=existed,
    )


def _open(prior: Path, controlnet: Path, taxonomy: Taxonomy | None) -> ModelFolder:
    stated = controlnet_taxonomy(controlnet)
    if taxonomy is not None and not stated.is_default and taxonomy != stated:
        raise mixed(taxonomy, stated, f"the ControlNet {controlnet}")
    return ModelFolder(prior, controlnet, taxonomy)


def _check_part(folder: ModelFolder, name: str) -> int:
    """Check that all weights of a part exist, have the right shape and are finite; return their number."""
    path = folder.paths[name]
    shapes = read_shapes(path, name)
    check_keys(shapes, skeleton(path, name, folder.configs[name]), path)
    check_finite(path, name)
    return sum(int(torch.Size(shape).numel()) for shape in shapes.values())


def _check_residuals(folder: ModelFolder) -> int:
    """Run both networks on meta tensors, which fails if a residual does not fit; return the number of residuals."""
    unet = skeleton(folder.paths["unet"], "unet", folder.configs["unet"])
    controlnet = skeleton(folder.paths["controlnet"], "controlnet", folder.configs["controlnet"])
    info = folder.info
    with torch.device("meta"), torch.no_grad():
        latents = torch.zeros(1, info.latent_channels, info.tile, info.tile)
        timestep = torch.zeros(1, dtype=torch.int64)
        text = torch.zeros(1, info.text_length, info.text_width)
        condition = torch.zeros(1, info.features, info.tile, info.tile)
        pooled = {"text_embeds": torch.zeros(1, info.pooled_width), "time_ids": torch.zeros(1, TIME_VALUES)}
        added = pooled if info.pooled_width else {}
        try:
            bare = without_condition_embedding(controlnet)
            down, _ = bare(latents, timestep, text, condition, added_cond_kwargs=added, return_dict=False)
            Denoiser(unet, controlnet)(latents, timestep, text, condition, torch.ones(1), **added)
        except Exception as error:  # parts of wrong sizes can raise many different library errors
            reason = one_line(str(error)) or type(error).__name__
            raise ModelError(
                f"the ControlNet {folder.paths['controlnet']} does not fit the UNet {folder.paths['unet']}: {reason}",
                "use a ControlNet trained on a UNet of this architecture",
            ) from error
    return len(down) + 1


@contextmanager
def _fused_files(folder: ModelFolder, loras: Sequence[LoraFile], target: Path) -> Iterator[Mapping[str, Path]]:
    """Yield the files that differ with ``loras``, by their paths inside the new folder, until the block ends."""
    if not loras:
        yield {}
        return
    model, work = FusedModel(folder, loras), temporary_path(target)
    record = folder.info.defaults.model_dump(mode="json", exclude_unset=True)
    record["loras"] = [*record.get("loras", ()), *(lora.record() for lora in loras)]
    try:
        work.mkdir(parents=True)
        found = {"dgkit.json": work / "dgkit.json"}
        found["dgkit.json"].write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        for part in dict.fromkeys(part for changed in model.changes for part in changed):
            name = f"{part}/{KNOWN_PARTS[part].stem}.safetensors"
            found[name] = work / f"{part}.safetensors"
            save_weights(model.part(part), folder.paths[part], part, found[name])
            model.release()
        yield found
    except OSError as error:
        raise output_error(target, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _files(folder: ModelFolder, fused: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    """Yield (path inside the new folder, source) of every file to copy."""
    yield from fused.items()
    for name, path in folder.paths.items():
        weights, stem = find_weights(path, name), KNOWN_PARTS[name].stem
        yield f"{name}/config.json", path / "config.json"
        if f"{name}/{stem}.safetensors" in fused:
            continue
        if weights.index is None:
            yield f"{name}/{stem}.safetensors", weights.paths[0]
        else:
            yield f"{name}/{stem}.safetensors.index.json", weights.index
            yield from ((f"{name}/{shard.name}", shard) for shard in weights.paths)
    for name in _CONFIGS:
        for path in sorted((folder.root / name).glob("*")):
            if path.is_file() and path.suffix in (".json", ".txt"):
                yield f"{name}/{path.name}", path
    if (folder.root / "dgkit.json").is_file() and "dgkit.json" not in fused:
        yield "dgkit.json", folder.root / "dgkit.json"


def _texts(folder: ModelFolder) -> dict[str, str]:
    """Return the files that are written instead of copied, by their path inside the new folder."""
    condition = condition_text(folder.info.taxonomy)
    own = {} if condition is None else {"controlnet/dgkit.json": condition}
    return {"model_index.json": _index(folder), **own}


def _index(folder: ModelFolder) -> str:
    """Return ``model_index.json`` for diffusers, without the safety checker, which street scenes do not need."""
    prior = read_json(folder.root / "model_index.json") if (folder.root / "model_index.json").is_file() else {}
    extractor = prior.get("feature_extractor")
    if not (folder.root / "feature_extractor").is_dir() or extractor not in _EXTRACTORS:
        extractor = [None, None]
    scheduler = folder.info.scheduler.get("_class_name", "DDIMScheduler")
    if not isinstance(scheduler, str) or not _SCHEDULER.fullmatch(scheduler):
        scheduler = "DDIMScheduler"  # diffusers imports what an index names
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionControlNetPipeline",
        "controlnet": ["diffusers", "ControlNetModel"],
        "feature_extractor": extractor,
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    if folder.info.pooled_width:
        index |= {
            "_class_name": "StableDiffusionXLControlNetPipeline",
            "force_zeros_for_empty_prompt": folder.info.zero_empty,
            **SDXL_INDEX,
        }
        del index["requires_safety_checker"], index["safety_checker"]
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def _write(folder: ModelFolder, target: Path, fused: Mapping[str, Path]) -> None:
    temporary = temporary_path(target)
    try:
        for name, source in _files(folder, fused):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".json":
                (temporary / name).write_bytes(_without_mark(source))
            else:
                shutil.copyfile(source, temporary / name)
        for name, text in _texts(folder).items():
            (temporary / name).write_text(text, encoding="utf-8")
        temporary.rename(target)
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise _taken(target, "another process has just created it") from error
        raise output_error(target, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check_same(folder: ModelFolder, target: Path, fused: Mapping[str, Path]) -> None:
    """Raise OutputError unless ``target`` has the content that :func:`swap` would write."""
    if not target.is_dir():
        raise _taken(target, "it is a file")
    expected = dict(_files(folder, fused))
    found = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    found = {name for name in found if not any(map(is_hidden, name.split("/")))}
    texts = _texts(folder)
    for name in sorted({*expected, *texts} ^ found):
        raise _taken(target, f"{name} is {'not part of it' if name in found else 'missing'}")
    for name, source in expected.items():
        is_json = source.suffix == ".json"
        same = _without_mark(source) == (target / name).read_bytes() if is_json else _same_bytes(source, target / name)
        if not same:
            raise _taken(target, f"{name} differs")
    for name, text in texts.items():
        if (target / name).read_text(encoding="utf-8") != text:
            raise _taken(target, f"{name} differs")


def _without_mark(path: Path) -> bytes:
    """Return a JSON file without the byte order mark that diffusers does not read."""
    return path.read_bytes().removeprefix(BOM_UTF8)


def _same_bytes(first: Path, second: Path) -> bool:
    return filecmp.cmp(first, second, shallow=False)


def _taken(target: Path, reason: str) -> OutputError:
    return OutputError(f"{target} exists and is not this pair of models ({reason})", "choose another output folder")
