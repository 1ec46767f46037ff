"""``dgkit engines``: list, inspect and prune the cache of exported and built engines."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import print_json, print_table, size_text
from dgkit.cli.options import Json
from dgkit.cli.terminal import console
from dgkit.texts import count_of

if TYPE_CHECKING:
    from dgkit.engines.contents import EngineContents
    from dgkit.engines.inventory import StoredEngine

engines = typer.Typer(help="Manage the cache of exported and built engines.", no_args_is_help=True)


@engines.command("list")
def list_engines(as_json: Json = False) -> None:
    """List the engines and check each against its side-car and this machine.

    The state is `ok`, or `stale` with the first field that differs.
    """
    from dgkit.engines.inventory import entries
    from dgkit.engines.store import EngineStore

    store = EngineStore()
    found = entries(store)
    if as_json:
        rows = [_as_dict(entry) for entry in found]
        print_json({"folder": str(store.root), "bytes": sum(entry.size for entry in found), "engines": rows})
    elif found:
        _print_table(found)
        typer.echo(
            f"{count_of(len(found), 'engine')}, {size_text(sum(entry.size for entry in found))}, in {store.root}"
        )
    else:
        typer.echo(f"no engines in {store.root}")


@engines.command("inspect")
def inspect(
    identity: Annotated[str, typer.Argument(metavar="ID", help="Name of an engine, or start of its name or digest")],
    layers: Annotated[bool, typer.Option("--layers", help="List every layer or kernel with its number format")] = False,
    as_json: Json = False,
) -> None:
    """Show one engine: what it depends on, its files, layers, number formats, profiles and memory.

    TensorRT engines are not opened, so this needs no GPU. Differences to this machine are listed, too.
    """
    from dgkit.engines.contents import EngineContents, read_contents
    from dgkit.engines.inventory import find
    from dgkit.engines.store import EngineStore, rebuild_command

    entry = find(EngineStore(), identity)
    content = entry.sidecar.model_dump(mode="json", exclude={"checksum"}) if entry.sidecar else None
    remedy = rebuild_command(entry.sidecar.key, entry.sidecar.model) if entry.sidecar and entry.differences else ""
    found = read_contents(entry.folder, entry.sidecar) if entry.sidecar else EngineContents()
    if as_json:
        print_json({**_as_dict(entry), "side_car": content, "rebuild": remedy, "contents": found.as_dict()})
        return
    for name, value in (("id", entry.name), ("folder", entry.folder), ("state", entry.state)):
        typer.echo(f"{name}: {value}")
    for difference in entry.differences:
        typer.echo(f"  {difference}")
    if remedy:
        typer.echo(f"rebuild: {remedy}")
    for name in ("types", "profiles"):  # shown below
        (content or {}).get("notes", {}).pop(name, None)
    _print_tree(content or {}, "")
    _print_contents(found, layers)


@engines.command("prune")
def prune(
    older_than: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Remove engines unused for this many days")
    ] = None,
    stale: Annotated[bool, typer.Option("--stale", help="Remove engines that dgkit engines list calls stale")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be removed")] = False,
    as_json: Json = False,
) -> None:
    """Remove engines, and leftovers of killed builds. Engines are rebuilt when needed.

    With both options, an engine is removed if either applies.
    """
    from dgkit.engines.inventory import prune as remove
    from dgkit.engines.store import EngineStore
    from dgkit.errors import UsageError

    if older_than is None and not stale:
        raise UsageError("nothing to remove was selected", "add --stale, --older-than DAYS, or both")
    removed = remove(EngineStore(), unused_days=older_than, stale=stale, dry_run=dry_run)
    freed = sum(entry.size for entry in removed)
    if as_json:
        print_json({"removed": [_as_dict(entry) for entry in removed], "bytes": freed, "dry_run": dry_run})
        return
    for entry in removed:
        typer.echo(f"{entry.name} ({entry.state}, {size_text(entry.size)}, used {_age(entry.used)} ago)")
    done = "would remove" if dry_run else "removed"
    console().print(f"{done} {count_of(len(removed), 'engine')}, {size_text(freed)}")


@engines.command("export-timings")
def export_timings(out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the files")]) -> None:
    """Copy TensorRT's timing caches to a folder, to build faster on other machines with the same GPU."""
    from dgkit.engines.store import EngineStore
    from dgkit.engines.timing_caches import export_caches

    for path in export_caches(EngineStore(), out):
        typer.echo(path)


@engines.command("import-timings")
def import_timings(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of export-timings, or one of its files")],
) -> None:
    """Copy timing caches into the engine store; builds with the same TensorRT and GPU use them."""
    from dgkit.engines.store import EngineStore
    from dgkit.engines.timing_caches import import_caches

    for path in import_caches(EngineStore(), source):
        typer.echo(path)


def _as_dict(entry: StoredEngine) -> dict[str, Any]:
    side_car = entry.sidecar
    key = side_car.key if side_car else None
    return {
        "id": entry.name,
        "folder": str(entry.folder),
        "network": key.network if key else None,
        "backend": key.backend if key else None,
        "dtype": key.dtype if key else None,
        "shapes": key.shapes if key else None,
        "bytes": entry.size,
        "created": side_car.created if side_car else None,
        "used": datetime.fromtimestamp(entry.used, UTC).isoformat(timespec="seconds"),
        "state": entry.state,
        "differences": [{"field": item.field, "wanted": item.wanted, "have": item.have} for item in entry.differences],
    }


def _print_table(found: list[StoredEngine]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for heading in ("id", "network", "backend", "dtype", "shapes", "size", "age", "used", "state"):
        table.add_column(heading, justify="right" if heading in ("size", "age", "used") else "left", overflow="fold")
    for entry in found:
        row = ["", "", "", "", ""]
        if entry.sidecar:
            key = entry.sidecar.key
            built = datetime.fromisoformat(entry.sidecar.created).timestamp()
            row = [key.network, key.backend, key.dtype, _shapes(key.shapes), _age(built)]
        name = entry.name.rpartition("-")[2][:8] if entry.sidecar else entry.name
        *facts, age = row
        table.add_row(escape(name), *facts, size_text(entry.size), age, _age(entry.used), escape(entry.state))
    print_table(table)


def _print_tree(values: dict[str, Any], indent: str) -> None:
    for name, value in values.items():
        if value in ({}, ""):
            continue
        if isinstance(value, dict):
            typer.echo(f"{indent}{name}:")
            _print_tree(value, indent + "  ")
        elif isinstance(value, list):
            typer.echo(f"{indent}{name}:")
            for item in value:
                typer.echo(f"{indent}  {' '.join(str(part) for part in item.values())}")
        else:
            typer.echo(f"{indent}{name}: {value}")


def _print_contents(found: EngineContents, layers: bool) -> None:
    for heading, counts in (("layers", found.layers), ("kernels", found.kernels)):
        if counts:
            typer.echo(f"{heading}, by number format of the output:")
        for kind, formats in counts.items():
            typer.echo(f"  {kind}: {', '.join(f'{number} {dtype}' for dtype, number in formats.items())}")
    for number, profile in enumerate(found.profiles):
        typer.echo(f"profile {number}, minimum, optimum and maximum shapes:")
        for name, shapes in profile.items():
            typer.echo(f"  {name}: {', '.join('x'.join(map(str, shape)) for shape in shapes)}")
    for name, size in found.memory.items():
        typer.echo(f"{name} of the largest call: {size:g} MiB")
    for line in found.lines if layers else ():
        typer.echo(line)


def _shapes(shapes: dict[str, int | str]) -> str:
    """Return the sizes that the network itself does not fix."""
    from dgkit.engines.spec import FIXED_SYMBOLS

    return ", ".join(f"{symbol} {size}" for symbol, size in shapes.items() if symbol not in FIXED_SYMBOLS)


def _age(since: float) -> str:
    seconds = max(0.0, time.time() - since)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"
