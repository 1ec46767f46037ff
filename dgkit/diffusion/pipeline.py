"""A loaded model: five runners and the arithmetic between them that any sampler needs."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from dgkit.diffusion.model_folder import ModelDefaults, ModelInfo
from dgkit.diffusion.prompt_length import fit_words
from dgkit.diffusion.schedule import Schedule, make_schedule
from dgkit.engines.runner import Runner
from dgkit.errors import EngineError
from dgkit.labels import CONDITION_CHANNELS

TEXT_BATCH = 32  # prompts a call; the text encoder is small beside everything else


class Pipeline:
    """Runners of one model, opened together by ``with``.

    ``runners`` maps the names of :data:`dgkit.engines.spec.NETWORKS` to runners. ``tokenizer`` is called as CLIP's is.
    ``identify`` returns the facts that records keep; ``precise`` loads the same model in fp32 (None: this one is);
    ``release`` is called whenever a runner holds what it needs, so that no more than one is being built in memory.
    """

    def __init__(
        self,
        info: ModelInfo,
        runners: Mapping[str, Runner],
        tokenizer: Any,
        *,
        identify: Callable[[], dict[str, Any]] | None = None,
        precise: Callable[[], "Pipeline"] | None = None,
        release: Callable[[], None] | None = None,
    ) -> None:
        self.info, self.runners, self.tokenizer = info, dict(runners), tokenizer
        self._identify, self._load_precise, self._release = identify, precise, release
        self._precise: Pipeline | None = None
        self._stack = ExitStack()

    size = property(lambda self: self.info.size, doc="Pixels a side of the images the model was trained on.")
    vae_factor = property(lambda self: self.info.vae_factor, doc="Pixels a side of one latent cell.")
    latent_channels = property(lambda self: self.info.latent_channels, doc="Channels of a latent.")
    tile = property(lambda self: self.info.tile, doc="Latent cells a side of the UNet's own input.")

    @property
    def defaults(self) -> ModelDefaults:
        """What ``dgkit.json`` says; empty defaults without one."""
        return self.info.defaults

    @property
    def device(self) -> torch.device:
        """Where latents live."""
        return self.runners["denoiser"].device

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for runner in self.runners.values():
                stack.enter_context(runner)
                if self._release:
                    self._release()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._precise = None
        self._stack.close()

    def identity(self) -> dict[str, Any]:
        """Name, engine, dtype and a SHA-256 over weights and configs: equal means the same pixels from the same job."""
        return self._identify() if self._identify else {"name": self.info.name}

    def full_precision(self) -> "Pipeline | None":
        """The same model in fp32, opened on first use and closed with this one; None where this one is fp32."""
        if self._precise is None and self._load_precise is not None:
            self._precise = self._stack.enter_context(self._load_precise())
        return self._precise

    def schedule(self, steps: int, solver: str = "ddim") -> Schedule:
        """The model's own noise schedule for ``steps`` steps of ``solver``."""
        return make_schedule(self.info.scheduler, steps, solver)

    def fit_prompt(self, prompt: str) -> tuple[str, bool]:
        """A prompt of at most the model's number of tokens, and whether anything was dropped.

        Class names go from the end of the list, whole, and a style clause at the end of the prompt stays: the tokenizer
        alone would cut exactly that clause off.
        """
        limit = self.info.text_length
        return fit_words(prompt, lambda text: len(self.tokenizer(text)["input_ids"]) <= limit)

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Text of each prompt, float [N, L, D], padded and cut to the model's length."""
        parts = []
        for start in range(0, len(prompts), TEXT_BATCH):
            tokens = self.tokenizer(
                list(prompts[start : start + TEXT_BATCH]),
                padding="max_length",
                max_length=self.info.text_length,
                truncation=True,
            )
            ids = torch.tensor(tokens["input_ids"], dtype=torch.int64)
            parts.append(self.runners["text_encoder"](input_ids=ids)["text"])
        return torch.cat(parts)

    def condition(self, onehot: Tensor) -> Tensor:
        """Condition embedding float [N, C, h, w] of one-hot labels float [N, 20, f*h, f*w]."""
        return self.runners["condition"](label=onehot)["condition"]

    def denoise(
        self, latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor, control_scale: float = 1.0
    ) -> Tensor:
        """The network's prediction, float32 [N, c, h, w], for latents of equal shape at timesteps int64 [N]."""
        scale = latents.new_full((latents.shape[0],), control_scale)
        outputs = self.runners["denoiser"](
            latents=latents, timestep=timestep, text=text, condition=condition, control_scale=scale
        )
        return outputs["prediction"].float()

    def encode_image(self, image: Tensor, noise: Tensor) -> Tensor:
        """Scaled latents float32 [N, c, h, w]: a posterior sample ``mean + std * noise``, times the scaling factor.

        ``image`` float [N, 3, f*h, f*w] in [-1, 1], ``noise`` standard normal of the result's shape.
        """
        posterior = self.runners["vae_encoder"](image=image)
        mean, logvar = posterior["mean"].float(), posterior["logvar"].float()
        return (mean + torch.exp(0.5 * logvar) * noise.to(mean.device)) * self.info.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Image float32 [N, 3, f*h, f*w], about [-1, 1] and not clamped, of scaled latents [N, c, h, w]."""
        image = self.runners["vae_decoder"](latents=latents / self.info.scaling_factor)["image"]
        return image.float()

    def check_size(self, height: int, width: int) -> None:
        """EngineError unless an image of ``height`` x ``width`` pixels is a whole number of latent cells."""
        factor = self.vae_factor
        if height % factor or width % factor or min(height, width) < factor:
            raise EngineError(
                f"image size {height}x{width}; this model allows multiples of {factor}",
                f"use {max(factor, height // factor * factor)}x{max(factor, width // factor * factor)}",
            )


def one_hot(labels: Tensor) -> Tensor:
    """float32 [N, 20, H, W] of labels uint8 [N, H, W]; 255 (and 19) is channel 19. The input is unchanged.

    Source: DGInStyle, tools/training_classes.py, which writes 19 into the caller's array.
    """
    channels = torch.arange(CONDITION_CHANNELS, device=labels.device, dtype=torch.uint8)
    clipped = labels.clamp(max=CONDITION_CHANNELS - 1)
    return (clipped[:, None] == channels[None, :, None, None]).float()
