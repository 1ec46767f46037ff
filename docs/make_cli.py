"""Writes docs/cli.md from the commands themselves: `make docs`. A test fails while the two differ."""

from __future__ import annotations

from pathlib import Path

import click
import typer

PAGE = Path(__file__).resolve().parent / "cli.md"
HEADER = """# Command line

Written by `make docs` from the commands' own help; `dgkit COMMAND --help` shows the same.
"""


def render(app: typer.Typer) -> str:
    """The page: one section for each command, subcommands after their group."""
    root = typer.main.get_command(app)
    context = click.Context(root, info_name="dgkit")
    return HEADER + "".join(_sections(root, context))


def _sections(command: click.Command, context: click.Context) -> list[str]:
    children = [] if not hasattr(command, "list_commands") else command.list_commands(context)
    found = [_section(command, context)]
    for name in children:
        child = command.get_command(context, name)
        if not child.hidden:
            found += _sections(child, type(context)(child, info_name=name, parent=context))
    return found


def _section(command: click.Command, context: click.Context) -> str:
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = [f"\n## {context.command_path}\n", f"`{usage}`\n", _clean(command.help), ""]
    rows = [row for parameter in command.params if (row := _row(parameter, context))]
    if rows:
        lines += ["| option | default | meaning |", "| --- | --- | --- |", *rows, ""]
    return "\n".join(lines)


def _row(parameter: click.Parameter, context: click.Context) -> str | None:
    if getattr(parameter, "hidden", False) or "--help" in parameter.opts:
        return None
    names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    is_argument = parameter.param_type_name == "argument"
    if is_argument:
        names = f"`{(parameter.metavar or parameter.name or '').upper()}`"
    elif not getattr(parameter, "is_flag", False):
        names += f" `{parameter.make_metavar(context)}`"
    default = "required" if parameter.required else _default(parameter)
    return f"| {_cell(names)} | {_cell(default)} | {_cell(_clean(getattr(parameter, 'help', '')))} |"


def _default(parameter: click.Parameter) -> str:
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        return shown
    value = parameter.default
    if value is None or value is False or value == () or callable(value):
        return ""
    return f"`{value}`"


def _clean(text: str | None) -> str:
    return " ".join((text or "").replace("\f", " ").split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Write the page of the installed command line."""
    from dgkit.cli.app import app

    PAGE.write_text(render(app), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
