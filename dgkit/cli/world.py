"""`dgkit world`: draw the procedural city."""

from pathlib import Path
from typing import Annotated

import typer


def world(
    out: Annotated[Path, typer.Argument(help="Folder to write; a folder of the same settings is continued.")],
    role: Annotated[str, typer.Option(help="source (GTA5-like, labelled) or prior (captioned, without labels).")] = "source",
    count: Annotated[int, typer.Option(min=1, help="Number of scenes.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the set.")] = 0,
    height: Annotated[int, typer.Option(min=32, help="Picture height in pixels.")] = 256,
    width: Annotated[int, typer.Option(min=32, help="Picture width in pixels.")] = 512,
    workers: Annotated[int, typer.Option(min=1, help="Processes that draw.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON line instead of a progress bar.")] = False,
) -> None:
    """Draw labelled or captioned street scenes from nothing but a seed."""
    import json as encoder

    from rich.console import Console
    from rich.progress import Progress

    from dgkit.world import write_role

    console = Console()
    if json:
        write_role(out, role, count, seed, height=height, width=width, workers=workers)
        facts = {"out": str(out), "role": role, "count": count, "seed": seed, "height": height, "width": width}
        typer.echo(encoder.dumps(facts))
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task(f"drawing {role}", total=count)
        write_role(
            out, role, count, seed, height=height, width=width, workers=workers,
            progress=lambda done: bar.update(task, completed=done),
        )  # fmt: skip
    console.print(f"{count} scenes of role {role} in {out}")
