"""LoRA for the UNet: adapters are trained instead of the weights and merged into them at the end (package peft)."""

from pathlib import Path

from diffusers import UNet2DConditionModel

from dgkit.errors import UsageError
from dgkit.optional import require


def add_lora(unet: UNet2DConditionModel, rank: int, alpha: float, targets: tuple[str, ...]) -> None:
    """Freeze ``unet`` and add trainable adapters to the layers whose names end in one of ``targets``.

    Initially an adapter has no effect. Raises UsageError if no layer matches, MissingDependency without peft.
    Source: Hu et al. 2021 (arXiv 2106.09685).
    """
    peft = require("peft", "train")
    names = [name for name, _ in unet.named_modules()]
    if not any(name == end or name.endswith(f".{end}") for name in names for end in targets):
        raise UsageError(
            f"no layer of the UNet matches lora.targets {', '.join(targets)}", "use for example to_q, to_v"
        )
    unet.requires_grad_(False)
    settings = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights="gaussian")
    unet.add_adapter(settings)


def merge_lora(unet: UNet2DConditionModel, folder: Path) -> None:
    """Save the adapters to ``folder``, merge them into the weights and remove them from ``unet``.

    ``pipeline.load_lora_weights`` of diffusers reads the folder.
    """
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers

    weights = convert_state_dict_to_diffusers(require("peft", "train").get_peft_model_state_dict(unet))
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=weights)
    unet.fuse_lora()
    unet.unload_lora()
