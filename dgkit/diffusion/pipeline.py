"""A loaded model: five runners, and the operations around them that a sampler needs."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from dgkit.diffusion.model_folder import ModelDefaults, ModelInfo
from dgkit.diffusion.prompt_length import fit_words
from dgkit.diffusion.schedule import Schedule, make_schedule
from dgkit.engines.build_plan import Helper, build_all, first_problem
from dgkit.engines.runner import Runner
from dgkit.errors import EngineError
from dgkit.labels import CONDITION_CHANNELS
from dgkit.progress import Progress, ignore

TEXT_BATCH = 32  # prompts per call of the text encoder, which needs little memory


class Pipeline:
    """The runners of one model, opened together by ``with``.

    ``runners`` maps the names in :data:`dgkit.engines.spec.NETWORKS` to runners. ``tokenizer`` has the interface of
    CLIP's. ``identify`` returns the identity that records keep; ``precise`` loads the same model in fp32 (None: this
    one is in fp32); ``release`` is called after each runner is opened, so that only one network at a time is held
    twice; ``helper`` builds engines in a second process.
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
        helper: Helper | None = None,
    ) -> None:
        self.info, self.runners, self.tokenizer = info, dict(runners), tokenizer
        self._identify, self._load_precise, self._release = identify, precise, release
        self._helper, self.build_seconds = helper, 0.0
        self._precise: Pipeline | None = None
        self._stack = ExitStack()

    size = property(lambda self: self.info.size, doc="Pixels per side of the images that the model was trained on.")
    vae_factor = property(lambda self: self.info.vae_factor, doc="Pixels per side of one latent cell.")
    latent_channels = property(lambda self: self.info.latent_channels, doc="Channels of the latents.")
    tile = property(lambda self: self.info.tile, doc="Latent cells per side of the UNet's input.")

    @property
    def defaults(self) -> ModelDefaults:
        """The settings in ``dgkit.json``; empty without that file."""
        return self.info.defaults

    @property
    def device(self) -> torch.device:
        """Device of the latents."""
        return self.runners["denoiser"].device

    def check(self) -> None:
        """Raise MissingDependency, UsageError or EngineError if this machine lacks what a runner needs."""
        for runner in self.runners.values():
            runner.check_run()

    def build_engines(self, progress: Progress = ignore) -> None:
        """Build the engines that the runners lack, unless their policy is ``never``; add the time to ``build_seconds``.

        Entering the pipeline then only opens them. ``progress`` reports the stage "engines". Raises what a build
        raises, and before the first one what :meth:`check` raises.
        """
        started = time.perf_counter()
        self.check()
        found = build_all(self.runners, progress, release=self._release, helper=self._helper, keep_going=False)
        problem = first_problem(status for status in found if status.state == "failed") or first_problem(found)
        if problem is not None:
            raise problem
        for runner in self.runners.values():
            runner.rebuild = "auto" if runner.rebuild == "always" else runner.rebuild
        self.build_seconds += time.perf_counter() - started

    def __enter__(self) -> Self:
        self.build_engines()
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

    def free_buffers(self) -> None:
        """Release the device memory that is not needed between calls, after a call ran out of it."""
        for runner in self.runners.values():
            runner.free_buffers()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def identity(self) -> dict[str, Any]:
        """Return name, engine, dtype and a SHA-256 over weights and configs; if equal, a job gives the same pixels."""
        return self._identify() if self._identify else {"name": self.info.name}

    def full_precision(self) -> "Pipeline | None":
        """Return the same model in fp32, opened on first use and closed with this one; None if this one is in fp32."""
        if self._precise is None and self._load_precise is not None:
            self._precise = self._stack.enter_context(self._load_precise())
        return self._precise

    def schedule(self, steps: int, solver: str = "ddim") -> Schedule:
        """Return the model's noise schedule for ``steps`` steps of ``solver``."""
        return make_schedule(self.info.scheduler, steps, solver)

    def fit_prompt(self, prompt: str, names: Sequence[str] = ()) -> tuple[str, bool]:
        """Return a prompt within the model's number of tokens, and whether anything was dropped.

        Whole class names are dropped from the end of the list of ``names``. A style clause after it is kept; the
        tokenizer alone would cut off exactly that clause.
        """
        limit = self.info.text_length
        known = self.info.taxonomy.prompt_names
        return fit_words(
            prompt, lambda text: len(self.tokenizer(text, verbose=False)["input_ids"]) <= limit, names, known
        )

    def encode_text(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Return the embedding of each prompt, padded and truncated to the model's length.

        ``text`` is float [N, L, D]; models with a pooled embedding also return ``text_embeds`` float [N, P]. An empty
        prompt gives zeros if the model was trained so.
        """
        parts = []
        for start in range(0, len(prompts), TEXT_BATCH):
            tokens = self.tokenizer(
                list(prompts[start : start + TEXT_BATCH]),
                padding="max_length",
                max_length=self.info.text_length,
                truncation=True,
            )
            runner = self.runners["text_encoder"]
            ids = {spec.name: torch.tensor(tokens[spec.name], dtype=torch.int64) for spec in runner.spec.inputs}
            parts.append(runner(**ids))
        encoded = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        empty = [self.info.zero_empty and not prompt for prompt in prompts]
        return {name: _zero_rows(value, empty) if any(empty) else value for name, value in encoded.items()}

    def added(self, encoded: Mapping[str, Tensor], height: int, width: int) -> dict[str, Tensor]:
        """Return what the denoiser takes in addition to the text; empty for a model without a pooled embedding.

        For SDXL ``text_embeds`` of ``encoded``, float [..., P], and ``time_ids`` float [..., 6] of an image of
        ``height`` x ``width`` pixels that was neither resized nor cropped (Podell et al. 2023, section 2.2).
        """
        if not self.info.pooled_width:
            return {}
        pooled = encoded["text_embeds"]
        sizes = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32, device=pooled.device)
        return {"text_embeds": pooled, "time_ids": sizes.expand(*pooled.shape[:-1], -1)}

    def condition(self, onehot: Tensor) -> Tensor:
        """Return the condition embedding, float [N, C, h, w], of one-hot labels, float [N, K+1, f*h, f*w]."""
        return self.runners["condition"](label=onehot)["condition"]

    def denoise(self, latents: Tensor, timestep: Tensor, text: Tensor, condition: Tensor, **added: Tensor) -> Tensor:
        """Return the prediction, float32 [N, c, h, w], for latents of equal shape at timesteps int64 [N].

        ``added`` is the result of :meth:`added`.
        """
        scale = latents.new_ones(latents.shape[0])
        outputs = self.runners["denoiser"](
            latents=latents, timestep=timestep, text=text, condition=condition, control_scale=scale, **added
        )
        return outputs["prediction"].float()

    def encode_image(self, image: Tensor, noise: Tensor) -> Tensor:
        """Return scaled latents, float32 [N, c, h, w].

        They are a posterior sample ``mean + std * noise`` times the scaling factor. ``image``: float [N, 3, f*h, f*w]
        in [-1, 1]; ``noise``: standard normal, of the shape of the result.
        """
        posterior = self.runners["vae_encoder"](image=image)
        mean, logvar = posterior["mean"].float(), posterior["logvar"].float()
        return (mean + torch.exp(0.5 * logvar) * noise.to(mean.device)) * self.info.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Decode scaled latents [N, c, h, w] to images, float32 [N, 3, f*h, f*w], about [-1, 1] and not clamped."""
        image = self.runners["vae_decoder"](latents=latents / self.info.scaling_factor)["image"]
        return image.float()

    def check_size(self, height: int, width: int) -> None:
        """Raise EngineError unless ``height`` and ``width`` in pixels are multiples of a latent cell."""
        factor = self.vae_factor
        if height % factor or width % factor or min(height, width) < factor:
            raise EngineError(
                f"image size {height}x{width}; this model supports multiples of {factor}",
                f"use {max(factor, height // factor * factor)}x{max(factor, width // factor * factor)}",
            )


def _zero_rows(value: Tensor, rows: Sequence[bool]) -> Tensor:
    kept = torch.tensor(rows, device=value.device).logical_not()
    return torch.where(kept.reshape(-1, *[1] * (value.ndim - 1)), value, 0.0)


def one_hot(labels: Tensor, count: int = CONDITION_CHANNELS) -> Tensor:
    """Return the one-hot condition, float32 [N, count, H, W], of labels uint8 [N, H, W], on their device.

    The last channel, by default 19, is ignore: 255 and 19. The input is unchanged. Source: DGInStyle,
    tools/training_classes.py, which writes 19 into the caller's array.
    """
    channels = torch.arange(count, device=labels.device, dtype=torch.uint8)
    clipped = labels.clamp(max=count - 1)
    return (clipped[:, None] == channels[None, :, None, None]).float()
