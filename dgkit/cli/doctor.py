"""``dgkit doctor``: show what is installed, what this machine can run, and how to install what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dgkit.cli.common import print_json
from dgkit.cli.options import Json

if TYPE_CHECKING:
    from rich.console import Console

    from dgkit.diagnosis import Diagnosis


def doctor(as_json: Json = False) -> None:
    """Show versions, devices, engines and CPU features of this machine, and how to install what is missing."""
    from dgkit.diagnosis import diagnose

    found = diagnose()
    if as_json:
        print_json(found.as_dict())
        return
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    _machine(console, found)
    _engines(console, found)
    _packages(console, found)
    _summary(console, found)


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

    model = found.embedded_model or "absent from this installation; generate needs --model"
    console.print(f"[bold]Fastest engine here[/bold]  {found.fastest} once built; dgkit bench generate measures it")
    console.print(f"[bold]Embedded model[/bold]  {escape(model)}")
    for problem in found.problems:
        console.print("[bold red]Problem[/bold red]  " + escape(problem))


def _mark(usable: bool) -> str:
    return "[green]yes[/green]" if usable else "[red]no[/red] "
