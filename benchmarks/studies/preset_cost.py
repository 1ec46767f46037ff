"""Cost of presets without drawing: denoiser evaluations and floating-point operations per image.

    python benchmarks/studies/preset_cost.py --ablation --count 32     the cost of presets.py --ablation --count 32
    python benchmarks/studies/preset_cost.py --cells official,one-pass,fast,turbo --model random:sd15 --labels DIR

Runs on any CPU. Labels are those of presets.py, crops of the city, or with --labels crops of label maps in a folder.
The TFLOP of models with random weights are counted by torch (`dgkit.bench.network_speed.count_flops`): of the denoiser
per evaluation, of the condition network per window, and of the VAE at the sizes of its calls.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from preset_cells import Cells, add_options, chosen
from torch import nn

from dgkit.bench.network_speed import count_flops
from dgkit.data.crops import CropRules
from dgkit.data.style_mixes import STYLE_MIXES
from dgkit.diffusion.components import model_networks
from dgkit.diffusion.loading import open_model
from dgkit.diffusion.model_folder import ModelInfo
from dgkit.diffusion.presets import find_preset
from dgkit.diffusion.random_model import RandomModel
from dgkit.diffusion.sampling_plan import SamplingPlan
from dgkit.diffusion.weights import skeleton
from dgkit.generation.city_source import index_world
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.jobs import JobPlan, make_job
from dgkit.generation.sources import index_files, open_files
from dgkit.markdown import markdown_table

TERA = 1e12


class MetaModel(RandomModel):
    """A random model whose weights take no memory."""

    def part(self, name: str) -> nn.Module:
        return skeleton(Path(self.name), name, self.configs[name]).eval()


@dataclasses.dataclass(frozen=True)
class Cost:
    """TFLOP per sample: of denoiser and condition network for a window, of the VAE at label size and enlarged."""

    denoiser: float
    condition: float
    decoder: float
    large_encoder: float
    large_decoder: float

    @classmethod
    def of(cls, name: str, shape: tuple[int, int], rescale: int) -> "Cost":
        networks = model_networks(MetaModel(name))
        factor = open_model(f"random:{name}").info.vae_factor

        def count(network: str, scale: int | None = None) -> float:
            chosen = networks[network]
            if scale:
                high, wide = (side * scale for side in shape)
                sizes = {"image_height": high, "image_width": wide, "height": high // factor, "width": wide // factor}
                chosen = dataclasses.replace(chosen, sizes={**chosen.sizes, **sizes})
            return count_flops(chosen, chosen.load()) / TERA

        return cls(count("denoiser"), count("condition"), count("vae_decoder", 1), count("vae_encoder", rescale),
                   count("vae_decoder", rescale))  # fmt: skip


def draw_labels(given: argparse.Namespace, info: ModelInfo) -> list[np.ndarray]:
    """Return labels uint8 [H,W]: those of presets.py, or crops of the label maps of a folder."""
    size = (given.size[0], given.size[1]) if given.size else (info.size, info.size)
    height = info.defaults.label_height
    if given.labels:
        config = GenerateConfig(labels=given.labels, seed=given.seed)
        dataset = open_files(config)
        assert dataset is not None
        index = index_files(dataset, config, height, size)
    else:
        index = index_world(GenerateConfig(world=given.scenes, seed=given.seed), height or info.size, size)
    plan = JobPlan(index, CropRules(size), STYLE_MIXES["uniform"], given.seed)
    return [make_job(plan, number).label for number in range(given.count)]


def table(cells: Cells, labels: Sequence[np.ndarray], info: ModelInfo, cost: Cost | None) -> str:
    """Return a table of means over the labels, and the total of evaluations."""
    head = ["cell", "evaluations an image", "least", "most"]
    head += ["TFLOP of the denoiser", "of the VAE", "in all"] if cost else []
    lines, everything = [], 0
    for name, (setting, _) in cells.items():
        plan = SamplingPlan(find_preset(setting), info)
        preset = plan.preset
        redraws = [plan.redraw(label) for label in labels] if preset.two_pass else []
        costs = [plan.cost(label, redraws[i] if redraws else None).total for i, label in enumerate(labels)]
        everything += sum(costs)
        line = [name, f"{np.mean(costs):.1f}", str(min(costs)), str(max(costs))]
        if cost:
            again = float(np.mean([len(redraw.windows) > 0 for redraw in redraws])) if redraws else 0.0
            bridge = cost.decoder + cost.large_encoder if preset.bridge == "image" else 0.0
            vae = (1 - again) * cost.decoder + again * (bridge + cost.large_decoder)
            tiles = len(plan.windows(labels[0].shape, 1)) + sum(len(redraw.windows) for redraw in redraws) / len(labels)
            denoiser = cost.denoiser * float(np.mean(costs))
            line += [f"{denoiser:.1f}", f"{vae:.1f}", f"{denoiser + vae + tiles * cost.condition:.1f}"]
        lines.append(line)
    return f"{markdown_table(head, lines)}\n{everything:,} evaluations for {len(labels)} images of all cells\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--labels", type=Path, help="folder of label maps; default: the city")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("H", "W"), help="size of the images [pixels]; default: that of the model"
    )
    given = parser.parse_args()
    cells = chosen(given, parser)
    info = open_model(given.model).info
    labels = draw_labels(given, info)
    kind, _, name = (given.model or "").partition(":")
    cost = Cost.of(name, labels[0].shape, 2) if kind == "random" else None
    print(table(cells, labels, info, cost))
    if cost:
        print(", ".join(f"{field} {value:.3f}" for field, value in dataclasses.asdict(cost).items()), "TFLOP a call")


if __name__ == "__main__":
    main()
