"""Reads the imports of a package and reports those that break its floors. Nothing is imported to find out."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Floor of each module or package of dgkit, by its first name. cli is the top; dgkit itself only offers names lazily.
FLOORS = {
    **dict.fromkeys(
        (
            "labels",
            "errors",
            "config",
            "documents",
            "optional",
            "provenance",
            "files",
            "locks",
            "markdown",
            "processes",
            "diagnosis",
            "imports",
            "progress",
            "prompts",
            "styles",
            "wording",
            "resources",
            "taxonomies",
            "taxonomy_setting",
            "texts",
        ),
        0,
    ),
    **dict.fromkeys(("data", "world"), 1),
    "engines": 2,
    **dict.fromkeys(("diffusion", "segmenters"), 3),
    **dict.fromkeys(("generation", "training", "evaluation", "bench", "outputs"), 4),
    "app": 5,
    **dict.fromkeys(("cli", "__main__", ""), 6),
}
TOP = 6
LIGHT_FLOORS = (0, TOP)
HEAVY = frozenset(
    [
        "torch",
        "torchvision",
        "diffusers",
        "transformers",
        "accelerate",
        "cv2",
        "scipy",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "tensorrt",
        "tensorrt_rtx",
        "openvino",
        "mmseg",
        "mmcv",
        "mmengine",
        "ray",
        "pyarrow",
        "datasets",
        "gradio",
    ]
)
SEGMENTATION = frozenset({"mmseg", "mmcv", "mmengine"})
SEGMENTATION_FILES = ("dgkit.training.segmenter", "dgkit.segmenters.mmseg")  # modules or packages
RECIPE_FOLDERS = frozenset({"engines", "training", "benchmarks"})


@dataclass(frozen=True)
class Import:
    """One imported name: ``target`` dotted, ``lazy`` where it is not executed by importing the module."""

    module: str
    target: str
    line: int
    lazy: bool


def violations(package: Path) -> list[str]:
    """One sentence for each import under ``package`` (the folder of dgkit) that breaks a rule."""
    modules = {_dotted(path, package): path for path in sorted(package.rglob("*.py"))}
    imports = [found for name, path in modules.items() for found in read_imports(name, path, set(modules))]
    found = [f"{i.module}:{i.line} {reason}" for i in imports for reason in _reasons(i)]
    return found + list(_heavy_chains(imports, set(modules)))


def read_imports(name: str, path: Path, modules: set[str]) -> Iterator[Import]:
    """Every import of a file, relative ones resolved, those through importlib with a literal name included."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node, lazy in _walk(tree, lazy=False):
        for target in _targets(node, package, modules):
            yield Import(name, target, getattr(node, "lineno", 0), lazy)


def _walk(node: ast.AST, lazy: bool) -> Iterator[tuple[ast.AST, bool]]:
    """All nodes, with whether they run only when a function is called (or never, under TYPE_CHECKING)."""
    for child in ast.iter_child_nodes(node):
        deferred = lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield child, deferred
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            yield from ((inner, True) for part in child.body for inner in ast.walk(part))
            for part in child.orelse:
                yield part, deferred
                yield from _walk(part, deferred)
        else:
            yield from _walk(child, deferred)


def _targets(node: ast.AST, package: str, modules: set[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, base] if base else above)
        return [f"{base}.{a.name}" if f"{base}.{a.name}" in modules else base for a in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")) and node.args:
        name = node.args[0]
        return [name.value] if isinstance(name, ast.Constant) and isinstance(name.value, str) else []
    return []


def _reasons(found: Import) -> Iterator[str]:
    top = found.target.partition(".")[0]
    if top in RECIPE_FOLDERS:
        yield f"imports the recipe folder {top}/"
    if top in SEGMENTATION and not f"{found.module}.".startswith(tuple(f"{name}." for name in SEGMENTATION_FILES)):
        yield f"imports {top}; only {' and '.join(sorted(SEGMENTATION_FILES))} may"
    if _floor(found.module) in LIGHT_FLOORS and top in HEAVY and not found.lazy:
        yield f"imports {top} at module level on floor {_floor(found.module)}"
    if top == "dgkit" and found.module != "dgkit":
        yield from _direction(found)


def _direction(found: Import) -> Iterator[str]:
    here, there = _floor(found.module), _floor(found.target)
    if here is None or there is None:
        lost = found.module if here is None else found.target
        yield f"imports {found.target}, but no floor is stated for {lost}"
    elif found.target == "dgkit":
        return  # `from dgkit import __version__`: the package itself, which every module has loaded already
    elif there > here:
        yield f"imports {found.target} upward, from floor {here} to {there}"
    elif there == here and here not in (0, TOP) and _unit(found.module) != _unit(found.target):
        yield f"imports {found.target} sideways on floor {here}"


def _heavy_chains(imports: list[Import], modules: set[str]) -> Iterator[str]:
    """Light modules that load a heavy library by way of other modules of dgkit, with the chain."""
    eager: dict[str, list[str]] = {}
    for found in imports:
        if not found.lazy:
            eager.setdefault(found.module, []).append(found.target)
    for start in sorted(modules):
        if _floor(start) in LIGHT_FLOORS:
            chain = _chain(start, eager, modules)
            if len(chain) > 2:
                yield f"{start} loads {chain[-1]} at import: {' -> '.join(chain)}"


def _chain(start: str, eager: dict[str, list[str]], modules: set[str]) -> list[str]:
    paths, seen = [[start]], {start}
    while paths:
        path = paths.pop(0)
        for target in eager.get(path[-1], []):
            if target.partition(".")[0] in HEAVY:
                return [*path, target]
            parts = target.split(".")
            # Importing a.b.c runs a/__init__.py and a/b/__init__.py first.
            for name in (".".join(parts[: n + 1]) for n in range(len(parts))):
                if name in modules and name not in seen:
                    seen.add(name)
                    paths.append([*path, name])
    return []


def _dotted(path: Path, package: Path) -> str:
    parts = [package.name, *path.relative_to(package).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _unit(module: str) -> str:
    return [*module.split("."), ""][1]


def _floor(module: str) -> int | None:
    return FLOORS.get(_unit(module))
