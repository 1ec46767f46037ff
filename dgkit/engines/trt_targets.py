"""The graphics cards that an engine of TensorRT-RTX is built for, by compute capability: ``sm89`` stands for 8.9.

Without targets an engine is for the library's own ones, see :func:`~dgkit.engines.trt_library.is_portable`. With
targets it runs on exactly these; they are part of its key, so the side-car states them.
"""

import re
from collections.abc import Iterator, Sequence

import torch

from dgkit.engines.runner import BuildOptions
from dgkit.engines.sidecar import EngineKey, EngineSideCar, key_differences, read_sidecar
from dgkit.engines.store import EngineStore
from dgkit.engines.trt_library import TrtLibrary, on_gpu
from dgkit.errors import EngineError, UsageError

FLAG = "targets"  # in the flags of a key: ``sm89,sm120``


def parse_targets(text: str) -> tuple[str, ...]:
    """Return the targets that ``sm89,sm120`` or ``8.9,12.0`` names, in ascending order. Raises UsageError."""
    found = [re.fullmatch(r"(?:sm_?)?(\d{1,2})\.?(\d)", part.strip().lower()) for part in text.split(",")]
    if not all(found):
        raise UsageError(f"--for {text!r}; expected compute capabilities", "for example --for sm89,sm120")
    numbers = sorted({(int(match[1]), int(match[2])) for match in found if match})
    return tuple(f"sm{major}{minor}" for major, minor in numbers)


def check_targets(library: TrtLibrary, options: BuildOptions) -> None:
    """Raise UsageError if the library cannot build for the targets of ``options``."""
    if not options.targets:
        return
    if not library.is_rtx:
        raise UsageError(
            f"TensorRT builds for the GPU that it runs on; {', '.join(options.targets)} need TensorRT-RTX",
            "set DGKIT_TRT=rtx, or drop --for",
        )
    members = library.module.ComputeCapability.__members__
    known = [name.lower() for name in members if name.startswith("SM")]
    unknown = [target for target in options.targets if target not in known]
    if unknown:
        raise UsageError(
            f"unknown compute capability {', '.join(unknown)}; this TensorRT-RTX has {', '.join(known)}",
            f"for example --for {known[-2]}",
        )


def capabilities(options: BuildOptions) -> list[tuple[int, int]]:
    """Return the targets of ``options`` as (major, minor)."""
    return [(int(target[2:-1]), int(target[-1])) for target in options.targets]


def card_of(device: torch.device) -> str:
    """Return the compute capability of a GPU as a target."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


def check_card(key: EngineKey, device: torch.device) -> None:
    """Raise EngineError if the engine of ``key`` was built for other cards than ``device``."""
    targets = str(key.flags.get(FLAG, ""))
    if targets and on_gpu(device) and card_of(device) not in targets.split(","):
        card = card_of(device)
        raise EngineError(
            f"the {key.network} engine was built for {targets.replace(',', ', ')}; {device} is {card} "
            f"({torch.cuda.get_device_name(device)})",
            f"build it for this card, too: dgkit build-engines --for {targets},{card}",
        )


def for_this_card(store: EngineStore, key: EngineKey, device: torch.device) -> EngineKey:
    """Return the key of an engine in the store that was built for targets with this card, else ``key``.

    It equals ``key`` otherwise. Raises EngineError if the only such engines are for other cards and the engine of
    ``key`` itself is missing.
    """
    if FLAG in key.flags or not on_gpu(device) or store.folder(key).is_dir():
        return key
    found = list(_with_targets(store, key))
    for candidate in found:
        if card_of(device) in str(candidate.flags[FLAG]).split(","):
            return candidate
    for candidate in found:
        check_card(candidate, device)
    return key


def _with_targets(store: EngineStore, key: EngineKey) -> Iterator[EngineKey]:
    for folder in sorted(store.root.glob(f"{key.network}-{key.backend}-{key.dtype}-*")):
        sidecar = read_sidecar(folder)
        if isinstance(sidecar, EngineSideCar) and FLAG in sidecar.key.flags:
            flags = {name: value for name, value in sidecar.key.flags.items() if name != FLAG}
            if not key_differences(key, sidecar.key.model_copy(update={"flags": flags, "device": key.device})):
                yield sidecar.key


def flag_of(targets: Sequence[str]) -> dict[str, str]:
    """Return the flag of a key for ``targets``; empty without any."""
    return {FLAG: ",".join(targets)} if targets else {}
