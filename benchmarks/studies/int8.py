"""The denoiser in int8 on OpenVINO against bf16: speed-up, error and quality of the images.

    pip install 'dgkit[cpu,int8]'
    python benchmarks/studies/int8.py WORK --blocks                 blocks in Stable Diffusion 1.5's shapes
    python benchmarks/studies/int8.py WORK --judge JUDGE            the embedded model: time, error by timestep, images
    python benchmarks/studies/int8.py WORK --decoder random:sd15    a VAE decoder, which no engine has in int8

Networks are quantised as engine `openvino` does, calibrated on calls of the embedded model while it draws scenes of the
city; calls of other scenes measure the error, and images of further scenes the rest. A call is timed by the CPU seconds
of the process, with variants in turn, so that other programs affect all of them equally. WORK keeps calls, quantised
networks and images: run the command again to resume. JUDGE is a folder of `dgkit train judge`; without it label
agreement is not measured.
Adds to benchmarks/results/int8.csv, whose rows are of a CPU with AVX-512 VNNI. Targets: int8 at least 1.2 times as fast
as bf16, images at least 30 dB from those in fp32, label agreement within 0.5 points of mIoU.
"""

import argparse
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from int8_blocks import BLOCKS, INPUT
from int8_networks import Arrays, opened, products, run, timed, timing_cells
from records import RESULTS, Row, read_rows, study_parser, write_rows

from dgkit.engines.quantise import load_nncf, quantised
from dgkit.errors import MissingDependency
from dgkit.optional import openvino_core
from dgkit.provenance import cpu_name, git_commit, version

SEED, SIDE, SCENES, BATCH, DECODED = 177, 256, 32, 16, 512  # SEED differs from that of the calibration scenes
# Name -> the products to quantise, and the type of everything else.
VARIANTS = {
    "fp32": (None, "f32"),
    "bf16": (None, "bf16"),
    "int8 convolutions": ("convolutions", "bf16"),
    "int8 wide layers": ("wide", "bf16"),
    "int8": ("all", "bf16"),
    "int8 over fp32": ("all", "f32"),
}
BY_DEFAULT = {True: ["fp32", "bf16", "int8"], False: ["fp32", "bf16", "int8 convolutions", "int8 wide layers", "int8"]}
OUTPUT = "prediction"


class Replaced:
    """A denoiser's runner whose calls go to ``request``."""

    def __init__(self, runner: Any, request: Any) -> None:
        self.runner, self.request = runner, request

    def __call__(self, **tensors: Any) -> dict[str, Any]:
        import torch

        found = run(self.request, {name: tensor.contiguous().numpy() for name, tensor in tensors.items()})
        return {OUTPUT: torch.from_numpy(found)}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)


def scenes(count: int) -> list[Any]:
    """Return jobs of ``dgkit generate`` on scenes of the city."""
    from dgkit.data.crops import CropRules
    from dgkit.data.style_mixes import STYLE_MIXES
    from dgkit.generation.city_source import index_world
    from dgkit.generation.generate_config import GenerateConfig
    from dgkit.generation.jobs import JobPlan, make_job

    index = index_world(GenerateConfig(world=SCENES, seed=SEED), SIDE, (SIDE, SIDE))
    plan = JobPlan(index, CropRules(SIDE), STYLE_MIXES["uniform"], SEED)
    return [make_job(plan, number) for number in range(count)]


def draw(work: Path, name: str, count: int, request: Any = None) -> np.ndarray:
    """Return images uint8 [N, H, W, 3] of one pass, in fp32 unless ``request`` replaces the denoiser."""
    path = work / f"{name}-{count}.npy"
    if path.exists():
        return np.asarray(np.load(path))
    from dgkit.diffusion.loading import load_pipeline
    from dgkit.diffusion.presets import find_preset
    from dgkit.diffusion.sampler import SceneRequest, sample

    pipeline = load_pipeline(engine="openvino", dtype="fp32", notify=print)
    runners: dict[str, Any] = pipeline.runners
    with pipeline:
        kept = runners["denoiser"]
        runners["denoiser"] = kept if request is None else Replaced(kept, request)
        requests = [SceneRequest(job.label, job.prompt, job.seed) for job in scenes(count)]
        images = np.stack([result.image for result in sample(pipeline, requests, find_preset("one-pass"), batch=BATCH)])
        runners["denoiser"] = kept
    np.save(path, images)
    return images


def find_calls(work: Path, network: Any) -> tuple[list[Arrays], Arrays]:
    """Return the calibration calls, one sample each, and the held-out calls, one row each."""
    path = work / "calls.npz"
    if not path.exists():
        drawn: Sequence[Any] = network.calibration.draw()
        rows: dict[str, Any] = {
            f"{number}/{name}": np.concatenate([call[name] for call in calls])
            for number, calls in enumerate(drawn)
            for name in calls[0]
        }
        np.savez(path, **rows)
    with np.load(path) as file:
        first, held_out = ({key[2:]: file[key] for key in file if key.startswith(number)} for number in ("0/", "1/"))
    count = len(first["timestep"])
    return [{name: value[row : row + 1] for name, value in first.items()} for row in range(count)], held_out


def errors(request: Any, held_out: Arrays) -> dict[int, float]:
    """Return the relative L2 error of the prediction by timestep."""
    from dgkit.engines.onnx_export import relative_error

    found: dict[int, list[float]] = {}
    for row, wanted in enumerate(held_out[OUTPUT]):
        inputs = {name: value[row : row + 1] for name, value in held_out.items() if name != OUTPUT}
        found.setdefault(int(inputs["timestep"][0]), []).append(relative_error(run(request, inputs)[0], wanted))
    return {timestep: statistics.fmean(values) for timestep, values in found.items()}


def error_cells(found: Mapping[int, float]) -> Row:
    worst = max(found, key=lambda timestep: found[timestep])
    return {
        "error": f"{statistics.fmean(found.values()):.2e}",
        "error_worst": f"{found[worst]:.2e}",
        "worst_timestep": worst,
        "error_by_timestep": " ".join(f"{timestep}:{error:.1e}" for timestep, error in found.items()),
    }


def psnr_cells(images: np.ndarray, expected: np.ndarray) -> Row:
    """Return the PSNR [dB] against ``expected``, both uint8 [N, H, W, 3], over all pixels and of the worst image."""
    squares = ((images.astype(np.float64) - expected) ** 2).mean((1, 2, 3))
    if not squares.any():
        return {}
    return {
        "psnr": round(10 * math.log10(255**2 / squares.mean()), 2),
        "psnr_worst": round(10 * math.log10(255**2 / squares.max()), 2),
    }


def agreement_cells(images: np.ndarray, judge: Path | None) -> Row:
    """Return the mIoU in percent of the judge's segmentation of the images against their labels."""
    if judge is None:
        return {}
    from dgkit.data.generated import LabelledImage
    from dgkit.data.scores import mean_iou
    from dgkit.evaluation.quality.measures import find_judge, measure

    pairs = zip(images, scenes(len(images)), strict=True)
    pictures = [LabelledImage(job.id, image, job.label, job.style) for image, job in pairs]
    return {"miou": round(100 * mean_iou(measure(pictures, len(pictures), find_judge(judge, None, None)).matrix), 2)}


def denoiser_rows(given: argparse.Namespace, variants: list[str]) -> Iterator[Row]:
    from dgkit.diffusion.loading import model_networks, open_model
    from dgkit.engines.onnx_export import export_network

    expected = draw(given.work, "fp32", given.images)
    network = model_networks(open_model())["denoiser"]
    calls, held_out = find_calls(given.work, network)
    graph = export_network(network, notify=print)
    requests = {}
    for name in variants:
        scope, precision = VARIANTS[name]
        path = given.work / f"{scope}.xml"
        if scope and not path.exists():
            ov.save_model(quantised(openvino_core().read_model(graph), calls, scope), path, compress_to_fp16=True)
        requests[name] = opened(openvino_core().read_model(path if scope else graph), precision, given.threads)
    inputs = {name: value[:BATCH] for name, value in held_out.items() if name != OUTPUT}
    spent = timed(requests, inputs, given.rounds)
    for name, request in requests.items():
        images = expected if name == "fp32" else draw(given.work, name, given.images, request)
        yield {
            "subject": f"embedded denoiser, batch {BATCH}",
            "variant": name,
            **timing_cells(spent[name], spent["bf16"]),
            **error_cells(errors(request, held_out)),
            "images": given.images,
            **psnr_cells(images, expected),
            **agreement_cells(images, given.judge),
            "products": products(request),
        }


def decoder_rows(given: argparse.Namespace, variants: list[str]) -> Iterator[Row]:
    """Measure a decoder on latents of rendered scenes of 512 x 512 pixels; all but the last two calibrate."""
    import torch

    from dgkit.diffusion.loading import model_networks, open_model
    from dgkit.diffusion.pixels import to_float, to_uint8
    from dgkit.engines.onnx_export import export_network, relative_error
    from dgkit.engines.openvino_graph import join_norms
    from dgkit.world import render

    networks = model_networks(open_model(None if given.decoder == "embedded" else given.decoder))
    core = openvino_core()
    encoder = opened(core.read_model(export_network(networks["vae_encoder"], notify=print)), "f32", given.threads)
    scenes = [render("source", SEED, number, height=DECODED, width=2 * DECODED).image for number in range(6)]
    pictures = [to_float(scene[:, :DECODED])[None].contiguous().numpy() for scene in scenes]
    *calls, one, other = ({"latents": run(encoder, {"image": picture})} for picture in pictures)
    graph = export_network(networks["vae_decoder"], notify=print)
    requests = {}
    for name in variants:
        scope, precision = VARIANTS[name]
        model = core.read_model(graph)
        join_norms(model)  # as engine openvino does
        path = given.work / f"{given.decoder.replace(':', '-')}-{name.replace(' ', '-')}.xml"
        ov.save_model(quantised(model, calls, scope) if scope else model, path, compress_to_fp16=precision != "f32")
        requests[name] = opened(core.read_model(path), precision, given.threads)
    spent = timed(requests, one, given.rounds)
    found = {name: np.concatenate([run(request, call) for call in (one, other)]) for name, request in requests.items()}
    shown = {name: np.stack([to_uint8(torch.from_numpy(image)) for image in images]) for name, images in found.items()}
    for name, request in requests.items():
        yield {
            "subject": f"VAE decoder, {given.decoder}, {DECODED} px",
            "variant": name,
            **timing_cells(spent[name], spent["bf16"]),
            "error": f"{relative_error(found[name], found['fp32']):.2e}",
            "images": len(found[name]),
            **psnr_cells(shown[name], shown["fp32"]),
            "products": products(request),
        }


def block_rows(given: argparse.Namespace, variants: list[str]) -> Iterator[Row]:
    for subject, (make, *sizes) in BLOCKS.items():
        requests = {}
        inputs = {INPUT: np.random.default_rng(SEED).standard_normal(make(*sizes).inputs[0].shape).astype(np.float32)}
        for name in variants:
            scope, precision = VARIANTS[name]
            model = make(*sizes)
            requests[name] = opened(quantised(model, [inputs], scope) if scope else model, precision, given.threads)
        spent = timed(requests, inputs, given.rounds)
        for name in variants:
            cells = timing_cells(spent[name], spent["bf16"])
            yield {"subject": subject, "variant": name, **cells, "products": products(requests[name])}


COLUMNS = (
    "subject", "variant", "calls", "cpu_ms", "cpu_ms_least", "x_bf16", "error", "error_worst", "worst_timestep",
    "images", "psnr", "psnr_worst", "miou", "products", "error_by_timestep", "threads", "load_average", "cpu",
    "openvino", "nncf", "commit",
)  # fmt: skip


def main() -> None:
    parser = study_parser(__doc__, "folder for calls, quantised networks and images", RESULTS / "int8.csv")
    parser.add_argument("--blocks", action="store_true", help="blocks of Stable Diffusion 1.5 instead of the model")
    parser.add_argument("--decoder", metavar="MODEL", help="VAE decoder of embedded or random:NAME instead")
    parser.add_argument("--variants", help=f"some of: {', '.join(VARIANTS)}; bf16 is always included")
    parser.add_argument("--images", type=int, default=16, help="a multiple of 8")
    parser.add_argument("--judge", type=Path, help="folder of dgkit train judge")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    if given.images < 1 or given.images % (BATCH // 2):
        parser.error(f"--images {given.images}; allowed: multiples of {BATCH // 2}")
    wanted = {"bf16", *(given.variants.split(",") if given.variants else BY_DEFAULT[given.blocks])}
    if given.decoder:
        wanted.add("fp32")
    if unknown := wanted - set(VARIANTS):
        parser.error(f"unknown variants {', '.join(sorted(unknown))}; known: {', '.join(VARIANTS)}")
    try:
        load_nncf()
    except MissingDependency as error:
        parser.error(f"{error.message}: {error.hint}")
    given.work.mkdir(parents=True, exist_ok=True)
    facts = {
        "threads": given.threads, "load_average": round(os.getloadavg()[0], 1), "cpu": cpu_name(),
        "openvino": version("openvino"), "nncf": version("nncf"), "commit": git_commit(),
    }  # fmt: skip
    variants = [name for name in VARIANTS if name in wanted]
    measure_rows = decoder_rows if given.decoder else block_rows if given.blocks else denoiser_rows
    for row in measure_rows(given, variants):
        print(f"{row['subject']:28} {row['variant']:18} {row['cpu_ms']:8.1f} ms {row['x_bf16']:5.2f} x bf16",
              *(f"{key} {row[key]}" for key in ("error", "psnr", "miou") if key in row), flush=True)  # fmt: skip
        write({**row, **facts}, given.results)


def write(row: Row, path: Path) -> None:
    """Add ``row`` to the CSV file; it replaces an older one of the same subject and variant."""
    others = [old for old in read_rows(path) if any(old[key] != row[key] for key in ("subject", "variant"))]
    write_rows(path, [*others, row], COLUMNS)


if __name__ == "__main__":
    main()
