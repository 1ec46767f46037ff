"""The five networks of a model as modules with the inputs and outputs of :mod:`dgkit.engines.spec`.

Each wraps loaded diffusers or transformers parts without changing them. The modules are independent of files and
devices, so the same module runs eagerly, is compiled or is exported.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn


class TextEncoder(nn.Module):
    """CLIP text model: ``input_ids`` int64 [B, L] -> ``text`` float [B, L, D], the last hidden state after its norm."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return the text embedding."""
        return self.model(input_ids)[0]


class TextEncoders(nn.Module):
    """SDXL's two text models.

    ``input_ids`` and ``input_ids_2`` int64 [B, L], one per tokenizer -> ``text`` float [B, L, D], the hidden states of
    both before their last layer, side by side, and ``text_embeds`` float [B, P], the projected end of text of the
    second.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, input_ids: Tensor, input_ids_2: Tensor) -> tuple[Tensor, Tensor]:
        """Return the text embedding and the pooled one."""
        first = self.first(input_ids, output_hidden_states=True)
        second = self.second(input_ids_2, output_hidden_states=True)
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1), second.text_embeds


class Condition(nn.Module):
    """ControlNet's label encoder: one-hot ``label`` float [B, 20, f*h, f*w] -> ``condition`` float [B, C, h, w].

    It depends only on the label, so it runs once per tile instead of once per step and guidance half.
    """

    def __init__(self, controlnet: nn.Module) -> None:
        super().__init__()
        self.embedding: Any = controlnet.controlnet_cond_embedding

    def forward(self, label: Tensor) -> Tensor:
        """Return the condition embedding."""
        return self.embedding(label)


class Denoiser(nn.Module):
    """ControlNet and UNet as one network.

    ``latents`` float [B, c, h, w], ``timestep`` int64 [B] (0 .. training steps - 1), ``text`` float [B, L, D],
    ``condition`` float [B, C, h, w] from :class:`Condition`, ``control_scale`` float [B] multiplies every ControlNet
    residual (1 = as trained) -> ``prediction`` float [B, c, h, w] (noise or v, as the model was trained). SDXL also
    takes ``text_embeds`` float [B, P] and ``time_ids`` float [B, 6], see :data:`dgkit.engines.spec.TIME_VALUES`.
    Both guidance halves get the residuals, as in DGInStyle's pipeline (guess mode off).
    """

    def __init__(self, unet: nn.Module, controlnet: nn.Module) -> None:
        super().__init__()
        self.unet = unet
        self.controlnet = without_condition_embedding(controlnet)

    def forward(
        self,
        latents: Tensor,
        timestep: Tensor,
        text: Tensor,
        condition: Tensor,
        control_scale: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the prediction."""
        # In fp32, as the sizes are encoded: both are joined before they are cast, and ONNX joins equal types only.
        added = None if text_embeds is None else {"text_embeds": text_embeds.float(), "time_ids": time_ids}
        inputs = (latents, timestep, text)
        down, middle = self.controlnet(*inputs, condition, added_cond_kwargs=added, return_dict=False)
        scale = control_scale.to(latents.dtype).reshape(-1, 1, 1, 1)
        return self.unet(
            *inputs,
            added_cond_kwargs=added,
            down_block_additional_residuals=tuple(residual * scale for residual in down),
            mid_block_additional_residual=middle * scale,
            return_dict=False,
        )[0]


class VaeEncoder(nn.Module):
    """``image`` float [B, 3, H, W] in [-1, 1] -> posterior ``mean`` and ``logvar``, each float [B, c, H/f, W/f].

    ``logvar`` is clamped to [-30, 20] as in the latent diffusion posterior; latents are not scaled yet.
    """

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.encoder: Any = vae.encoder
        self.quant_conv: Any = vae.quant_conv

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the posterior."""
        moments = self.encoder(image)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)


class VaeDecoder(nn.Module):
    """Unscaled ``latents`` float [B, c, h, w] -> ``image`` float [B, 3, f*h, f*w], about [-1, 1], not clamped."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.decoder: Any = vae.decoder
        self.post_quant_conv: Any = vae.post_quant_conv

    def forward(self, latents: Tensor) -> Tensor:
        """Return the image."""
        if self.post_quant_conv is not None:
            latents = self.post_quant_conv(latents)
        return self.decoder(latents)


def without_condition_embedding(controlnet: nn.Module) -> nn.Module:
    """Return a ControlNet that takes the condition embedding instead of the label; it shares all weights.

    ``controlnet`` itself is unchanged: only the copy's table of submodules differs.
    """
    shared: Any = copy.copy(controlnet)
    shared._modules = dict(controlnet._modules)
    shared._modules["controlnet_cond_embedding"] = nn.Identity()
    return shared


def cast(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Move ``module`` to ``device`` and ``dtype``, channels-last where that is faster, ready for inference."""
    module = module.to(device=device, dtype=dtype)
    if device.type == "cuda" or dtype != torch.float32:
        module_: Any = module  # torch's annotations lack this overload
        module = module_.to(memory_format=torch.channels_last)  # measured: 1.2 times as fast in bf16 on a CPU
    return module.eval().requires_grad_(False)
