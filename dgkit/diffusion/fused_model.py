"""A model with LoRA fused into UNet and text encoders, never the ControlNet, before anything is exported or built."""

import hashlib
import json
import shlex
from collections.abc import Sequence
from typing import Any

from torch import nn

from dgkit.diffusion.lora_fusion import LoraFile, check_adapter, fuse, read_adapter
from dgkit.diffusion.model_folder import ModelInfo, ModelSource
from dgkit.diffusion.part_config import TEXT_ENCODERS
from dgkit.errors import ModelError


class FusedModel:
    """A :class:`~dgkit.diffusion.model_folder.ModelSource`: the model ``base`` with ``loras``, in this order.

    Raises ModelError for a LoRA that does not fit, or that the model has already.
    """

    def __init__(self, base: ModelSource, loras: Sequence[LoraFile]) -> None:
        self.base, self.loras = base, tuple(loras)
        self.configs = base.configs
        self._parts: dict[str, nn.Module] = {}
        self._targets = tuple(name for name in ("unet", *TEXT_ENCODERS) if name in base.configs)
        _refuse_twice(base, self.loras)
        modules = {name: base.outline(name) for name in self._targets}
        self.changes = [check_adapter(read_adapter(lora, *self._prior), modules) for lora in self.loras]
        """The parts that each LoRA changes."""

    @property
    def _prior(self) -> tuple[dict[str, Any], tuple[str, ...]]:
        return self.configs["unet"], self._targets

    @property
    def info(self) -> ModelInfo:
        """Sizes and settings, those of the base."""
        return self.base.info

    def part(self, name: str) -> nn.Module:
        """Return a part with its weights and the LoRA fused; the same module until :meth:`release`."""
        if name not in self._parts:
            module = self.base.part(name)
            for lora in self._of(name):
                module = fuse(read_adapter(lora, *self._prior), name, module)
            self._parts[name] = module
        return self._parts[name]

    def outline(self, name: str) -> nn.Module:
        """Return a part without its weights, on the meta device."""
        return self.base.outline(name)

    def release(self) -> None:
        """Drop the cached parts; modules that a caller holds stay valid."""
        self._parts.clear()
        self.base.release()

    def digest(self, *parts: str) -> str:
        """Return the SHA-256 (hex) over the digest of the base, and digest and scale of each LoRA of ``parts``."""
        plain = self.base.digest(*parts)
        loras = [(lora.digest, lora.scale) for lora in self._of(*parts)]
        return hashlib.sha256(f"{plain} {json.dumps(loras)}".encode()).hexdigest() if loras else plain

    def weight_count(self, *parts: str) -> int:
        """Return the number of weights of ``parts``: fusing adds none."""
        return self.base.weight_count(*parts)

    def command_words(self) -> str:
        """Return the model as command-line arguments, quoted for a shell, with ``--lora``."""
        words = [word for lora in self.loras for word in ("--lora", lora.word())]
        return f"{self.base.command_words()} {shlex.join(words)}"

    def tokenizer(self) -> Any:
        """Return the tokenizer of the base."""
        return self.base.tokenizer()

    def _of(self, *parts: str) -> list[LoraFile]:
        """Return the LoRA that change one of ``parts``; all without ``parts``."""
        pairs = zip(self.loras, self.changes, strict=True)
        return [lora for lora, changed in pairs if not parts or set(parts) & set(changed)]


def _refuse_twice(base: ModelSource, loras: Sequence[LoraFile]) -> None:
    """Raise ModelError for a LoRA that is given twice or is recorded in ``dgkit.json``."""
    found = {applied.digest: f"part of the model {base.info.name} (dgkit.json)" for applied in base.info.defaults.loras}
    for lora in loras:
        if lora.digest in found:
            raise ModelError(
                f"the LoRA {lora.path} is already {found[lora.digest]}; applied twice, it would be too strong",
                "leave it out, or give it once with a larger scale",
            )
        found[lora.digest] = f"given as {lora.word()}"
