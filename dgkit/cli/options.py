"""Options that several commands share, and options built from the config class of a command."""

from __future__ import annotations

import copy
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

Command = Callable[..., None]
SIMPLE = (bool, int, float, Path, str)  # types that Typer parses itself
RANDOM = "Use random weights instead: sd15, sd21, sdxl, city, or tiny"
POLICY = "never, auto (missing or stale) or always"

# Values that a shell completes: a tuple, or the mapping or sequence at module:name, plus an ending.
COMPLETIONS: Mapping[str, tuple[str | tuple[str, ...], str]] = {
    "preset": ("dgkit.diffusion.presets:PRESETS", ""),
    "style_mix": ("dgkit.data.style_mixes:STYLE_MIXES", ""),
    "styles": ("dgkit.styles:KNOWN_STYLES", ""),
    "class_words": ("dgkit.labels:CLASSES", "="),
    "encoding": ("dgkit.labels:ENCODINGS", ""),
    "taxonomy": (("cityscapes19", "camvid11"), ""),  # dgkit.taxonomies would import numpy
    "protocol": ("dgkit.evaluation.benchmark.protocols:PROTOCOLS", ""),
    "dataset": ("dgkit.data.layouts:LAYOUTS", "="),
    "on": ("dgkit.data.layouts:LAYOUTS", "="),
    "engine": (("torch", "compile", "ort", "openvino", "trt"), ""),  # dgkit.engines.runner would import torch
    "metrics": (("accuracy", "boundary", "calibration", "conditions", "sizes", "all"), ""),
    "split": (("train", "val", "test", "all"), ""),
}

Generated: TypeAlias = Annotated[Path, typer.Argument(metavar="OUT", help="Folder written by dgkit generate or merge")]
Scenes: TypeAlias = Annotated[Path, typer.Argument(metavar="OUT", help="Folder with images/ and labels/")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout")]
Threads: TypeAlias = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="CPU threads; default: all cores")
]
Model: TypeAlias = Annotated[
    str | None,
    typer.Option("--model", metavar="M", help="Diffusers model folder or hub id; default: embedded model"),
]
ControlNet: TypeAlias = Annotated[
    str | None,
    typer.Option("--controlnet", metavar="C", help="ControlNet folder or hub id; default: the model's own"),
]
Taxonomy: TypeAlias = Annotated[
    str | None,
    typer.Option("--taxonomy", metavar="T", help="Classes: cityscapes19, camvid11 or FILE.yaml; default: cityscapes19"),
]
Loras: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="LORA[:SCALE]", help="LoRA file or hub id to fuse into the prior; repeatable"),
]
Random: TypeAlias = Annotated[str | None, typer.Option("--random", metavar="NAME", help=RANDOM)]
Networks: TypeAlias = Annotated[str, typer.Option("--networks", metavar="N,N", help="Networks, separated by commas")]
Rebuild: TypeAlias = Annotated[str, typer.Option("--rebuild", metavar="POLICY", help=f"Engine builds: {POLICY}")]
MmsegConfig: TypeAlias = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE.py", help="mmsegmentation config of the checkpoint; it is executed"),
]


def option(metavar: str, text: str) -> Any:
    """Return an option named after its parameter, with its placeholder and help."""
    return typer.Option(metavar=metavar, help=text)


def settings(example: str) -> Any:
    """Return the option ``--set`` with an example in its help."""
    return typer.Option("--set", metavar="KEY=VALUE", help=f"Any other setting, such as {example}; repeatable")


def recipe_file(example: str) -> Any:
    """Return the option ``--recipe`` with an example in its help."""
    return typer.Option("--recipe", metavar="FILE", help=f"YAML file of settings, such as {example}")


def options_of(target: str, panels: Mapping[str, str]) -> Callable[[Command], Command]:
    """Return a decorator that replaces the parameter ``flags`` of a command by options for fields of a config class.

    ``target`` is ``module:Class``; it is imported when the options are first needed, so that ``dgkit --help`` stays
    fast. ``panels`` maps panel titles of the help (empty: the usual one) to names separated by spaces, in the order of
    the help: fields of the class or parameters of the command. Help, type and default of an option are those of the
    field. ``flags`` receives the values that were given, ready for :func:`dgkit.config.load_config`.

    Register the command with ``cls=ConfigCommand``.
    """

    def decorate(command: Command) -> Command:
        def placeholder() -> None:
            """Stand in for the command until its options are needed."""

        placeholder.__name__, placeholder.__doc__ = command.__name__, command.__doc__
        vars(placeholder)["complete"] = functools.partial(_complete, command, target, panels)
        return placeholder

    return decorate


class ConfigCommand(TyperCommand):
    """A command decorated by :func:`options_of`: its options are built on first use."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options and arguments, ``--help`` included."""
        complete = vars(self.callback).pop("complete", None)
        if complete:
            app = typer.Typer(add_completion=False)
            app.command()(complete())
            full = typer.main.get_command(app)
            self.params, self.callback = [*full.params, *self.params], full.callback
        return super().get_params(ctx)


def _complete(command: Command, target: str, panels: Mapping[str, str]) -> Command:
    """Return ``command`` with a signature that Typer reads all options from."""
    module, _, name = target.partition(":")
    fields = getattr(importlib.import_module(module), name).model_fields
    own = dict(inspect.signature(command, eval_str=True).parameters)
    own.pop("flags")

    def run(ctx: typer.Context, **values: Any) -> None:
        given = {name: value for name, value in values.items() if _on_command_line(ctx, name)}
        flags = {name: value for name, value in given.items() if name not in own}
        command(flags=flags, **{name: values[name] for name in own})

    panel_of = {name: panel or None for panel, names in panels.items() for name in names.split()}
    parameters = [inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for name in (*(name for name in own if name not in panel_of), *panel_of):
        panel = panel_of.get(name)
        parameters.append(_in_panel(own[name], panel) if name in own else _option(name, fields[name], panel))
    vars(run)["__signature__"] = inspect.Signature(parameters)
    return run


def _on_command_line(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _option(name: str, field: FieldInfo, panel: str | None) -> inspect.Parameter:
    """Return the option for a field, as a parameter of a command."""
    from dgkit.config import Metavar, flag_of

    kind, default = _option_type(field), field.default
    if field.is_required():
        default = ...
    elif kind == list[str]:
        default = default or None
    elif kind is str and default is not None:
        default = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    flag = flag_of(name, field)
    option = typer.Option(
        None if default == "" else default,
        f"{flag}/--no-{flag[2:]}" if default is True else flag,
        metavar=next((item.text for item in field.metadata if isinstance(item, Metavar)), None),
        help=field.description,
        rich_help_panel=panel,
        autocompletion=None if kind is bool else _completer(name, field),
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind)


def _completer(name: str, field: FieldInfo) -> Callable[[str], list[str]]:
    """Return a function that completes values of an option; it knows none of one with free values."""

    def complete(incomplete: str) -> list[str]:
        known, ending = COMPLETIONS.get(name, (_literals(field), ""))
        if isinstance(known, str):
            module, _, attribute = known.partition(":")
            known = tuple(getattr(importlib.import_module(module), attribute))
        return [f"{value}{ending}" for value in known if value.startswith(incomplete)]

    return complete


def _literals(field: FieldInfo) -> tuple[str, ...]:
    """Return the allowed values of a field that is a Literal, or a union with one."""
    kinds = (field.annotation, *typing.get_args(field.annotation))
    literals = [kind for kind in kinds if typing.get_origin(kind) is typing.Literal]
    return tuple(str(value) for kind in literals for value in typing.get_args(kind))


def _option_type(field: FieldInfo) -> Any:
    """Return the type that Typer shows and parses; ``str`` where the config class itself parses a text."""
    from pydantic import BeforeValidator

    from dgkit.config import Repeated

    annotation = field.annotation
    if any(isinstance(item, Repeated) for item in field.metadata):
        return list[str]
    if any(isinstance(item, BeforeValidator) for item in field.metadata):
        return str
    if typing.get_origin(annotation) is tuple:
        return list[str]
    is_union = typing.get_origin(annotation) in (types.UnionType, typing.Union)
    kinds = [kind for kind in (typing.get_args(annotation) if is_union else (annotation,)) if kind in SIMPLE]
    return kinds[0] if kinds else str


def _in_panel(parameter: inspect.Parameter, panel: str | None) -> inspect.Parameter:
    """Return a keyword-only copy of ``parameter`` shown in ``panel`` of the help."""
    kind, option = typing.get_args(parameter.annotation)
    option = copy.copy(option)
    option.rich_help_panel = panel
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[kind, option])
