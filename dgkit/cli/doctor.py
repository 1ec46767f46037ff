"""``dgkit doctor``: show what is installed, what this machine can run, and how to install what is missing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from dgkit.cli.common import print_json, say, size_text
from dgkit.cli.options import ControlNet, Json, option
from dgkit.texts import count_of

if TYPE_CHECKING:
    from rich.console import Console

    from dgkit.diagnosis import Diagnosis


def doctor(
    model: Annotated[
        str | None, option("M", "Estimate the GPU memory of this model folder, hub id or random:NAME")
    ] = None,
    controlnet: ControlNet = None,
    dtype: Annotated[str, option("D", "Number format of the estimate: fp32, bf16, fp16, int8 or fp8")] = "fp16",
    batches: Annotated[str, option("N,N", "Denoiser samples per call of the estimate")] = "1,8,32",
    gpu_report: Annotated[
        Path | None, option("FILE", "Write versions, engines and gpu-check results, without paths and names")
    ] = None,
    check: Annotated[Path | None, option("DIR", "Results of make gpu-check for the report; default: runs/gpu")] = None,
    as_json: Json = False,
) -> None:
    """Show versions, devices, engines and CPU features of this machine, and how to install what is missing."""
    from dgkit.diagnosis import diagnose

    memory = None if model is None else _memory(model, controlnet, dtype, batches)
    found = diagnose()
    if gpu_report is not None:
        _report(gpu_report, found, check)
        return
    if as_json:
        print_json(found.as_dict() | ({} if memory is None else {"memory": memory}))
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    _machine(console, found)
    _engines(console, found)
    _packages(console, found)
    _summary(console, found)
    if memory is not None:
        _print_memory(console, memory)


def _report(target: Path, found: Diagnosis, check: Path | None) -> None:
    from dgkit.engines.gpu_report import write_report

    usual = Path("runs/gpu")
    folder = check or (usual if (usual / "steps.csv").is_file() else None)
    content = write_report(target, found, folder)
    results = (
        "no results of gpu-check"
        if folder is None
        else f"{count_of(len(content['check']['steps']), 'step')} of gpu-check"
    )
    say(f"{target}: {size_text(target.stat().st_size)}, {count_of(len(content['engines']), 'engine')}, {results}")
    if folder is None:
        say("make gpu-check measures this GPU; run it first for a report about speed or wrong results")


def _memory(model: str, controlnet: str | None, dtype: str, batches: str) -> dict[str, Any]:
    """Return the estimated bytes of GPU memory of each network, and of a run, for each number of samples."""
    from dgkit.diffusion.loading import open_model
    from dgkit.diffusion.model_memory import model_needs
    from dgkit.engines.memory_estimate import together
    from dgkit.errors import UsageError

    parts = [part.strip() for part in batches.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UsageError(f"--batches {batches!r}; expected positive numbers", "for example --batches 1,8,32")
    source, rows = open_model(model, controlnet), []
    for batch in map(int, parts):
        needs = model_needs(source, dtype, batch)
        networks = [{"network": need.network, "dtype": need.dtype, "batch": need.batch, "weights": need.weights,
                     "activations": need.activations} for need in needs]  # fmt: skip
        rows.append({"batch": batch, "total": together(needs), "networks": networks})
    return {"model": source.info.name, "dtype": dtype, "runs": rows}


def _print_memory(console: Console, memory: dict[str, Any]) -> None:
    console.print(f"[bold]GPU memory[/bold] of {memory['model']} in {memory['dtype']}, estimated", markup=True)
    for run in memory["runs"]:
        console.print(f"  --batch {run['batch']}: {size_text(run['total'])}")
        for need in run["networks"]:
            figures = f"weights {size_text(need['weights'])}, activations {size_text(need['activations'])}"
            console.print(f"    {need['network']:<13} {need['dtype']} at batch {need['batch']:<4} {figures}")


def _machine(console: Console, found: Diagnosis) -> None:
    from rich.markup import escape

    console.print("[bold]Machine[/bold]")
    console.print(f"  python      {found.python} on {found.platform}")
    console.print(f"  processor   {found.cpu.name}, {found.cpu.cores} of {found.cpu.cores_total} cores")
    console.print(f"  features    {', '.join(found.cpu.features) or 'unknown on this system'}")
    total, free = found.memory_total / 2**30, found.memory_available / 2**30
    console.print(f"  memory      {total:.1f} GiB, {free:.1f} GiB available")
    for device in found.devices:
        console.print(f"  {_mark(device.usable)} {device.name:<9} {escape(device.detail)}")


def _engines(console: Console, found: Diagnosis) -> None:
    from rich.markup import escape

    from dgkit.engines.runner import RUNNERS

    console.print("[bold]Libraries that run the networks[/bold]")
    for library in found.libraries:
        choice = f"--engine {library.engine}" if library.engine in RUNNERS else "--engine trt, without tensorrt"
        console.print(f"  {_mark(library.usable)} {library.package:<12} {escape(library.detail)} ({choice})")
        if library.remedy:
            console.print(f"    {'':<12} {library.remedy}", markup=False)


def _packages(console: Console, found: Diagnosis) -> None:
    console.print("[bold]Packages[/bold]")
    for package, number in found.versions.items():
        console.print(f"  {package:<24}{number}", markup=False)
    console.print("[bold]Extras[/bold]")
    for extra in found.extras:
        remedy = f": {extra.remedy}" if extra.remedy else "; not needed on this machine"
        absent = f"lacks {', '.join(extra.missing)}{remedy}"
        detail = absent if extra.missing else "complete"
        console.print(f"  {extra.name:<7} {detail}", markup=False)


def _summary(console: Console, found: Diagnosis) -> None:
    from rich.markup import escape

    from dgkit.diagnosis import engine_advice

    model = found.embedded_model or "absent from this installation; generate needs --model"
    advice = f"{engine_advice(found.fastest)}; dgkit bench generate measures them"
    console.print(f"[bold]Fastest engine here[/bold]  {advice}")
    console.print(f"[bold]Embedded model[/bold]  {escape(model)}")
    for problem in found.problems:
        console.print("[bold red]Problem[/bold red]  " + escape(problem))


def _mark(usable: bool) -> str:
    return "[green]yes[/green]" if usable else "[red]no[/red] "
