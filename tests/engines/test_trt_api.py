"""Every attribute of TensorRT that the code uses exists in TensorRT 10, by its type stubs, and in TensorRT-RTX.

TensorRT-RTX 1.7 has the interface of TensorRT 11, which no longer has flags for number formats.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from dgkit.engines import trt, trt_build, trt_library, trt_session

MODULES = (trt, trt_build, trt_library, trt_session)
FILES = [Path(str(module.__file__)) for module in MODULES]
# Used only where the library is TensorRT-RTX.
RTX_ONLY = {
    "trt.BuilderFlag.REQUIRE_USER_ALLOCATION",
    "trt.DynamicShapesKernelSpecializationStrategy.EAGER",
    "trt.EngineInvalidityDiagnostics.__members__.items",
}
RTX_CALLS = {
    "create_runtime_config",
    "create_runtime_cache",
    "set_runtime_cache",
    "get_engine_validity",
    "dynamic_shapes_kernel_specialization_strategy",
}
SETTINGS = """
[mypy]
python_version = 3.11
follow_imports = skip
ignore_missing_imports = True
implicit_reexport = True
check_untyped_defs = True
mypy_path = {path}
[mypy-tensorrt.*,tensorrt_bindings.*]
follow_imports = normal
"""


def chains() -> Iterator[str]:
    """Yield what the code reads from the module, such as ``trt.BuilderFlag.TF32``, each as long as it is written."""
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        for node in ast.walk(tree):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) and id(node) not in inner else ""
            if re.fullmatch(r"trt(\.\w+)+", text):
                yield text


def stubs() -> Path:
    spec = find_spec("tensorrt_bindings")
    places = list(spec.submodule_search_locations or []) if spec else []
    found = [path for place in places if (path := Path(place) / "tensorrt.pyi").is_file()]
    if not found:
        pytest.skip("needs tensorrt-stubs: pip install --no-deps tensorrt-stubs")
    return found[0]


def repaired(source: str) -> str:
    """Return stubs whose invalid signatures, a default before a parameter without one, accept any arguments."""
    lines = source.splitlines()
    while True:
        try:
            ast.parse("\n".join(lines))
        except SyntaxError as error:
            number = (error.lineno or 1) - 1
            name = re.match(r"(\s*def \w+)\(", lines[number])
            assert name, error
            lines[number] = f"{name[1]}(self, *args, **kwargs):" + (" ..." if lines[number].endswith("...") else "")
        else:
            return "\n".join(lines)


def declared(source: str) -> dict[str, set[str]]:
    """Return the members of each class in the text of a stub file, without those it inherits."""
    found = {}
    for node in ast.parse(repaired(source)).body:
        if isinstance(node, ast.ClassDef):
            names = {part.target.id for part in node.body if isinstance(part, ast.AnnAssign) and _is_name(part.target)}
            found[node.name] = names | {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


def _is_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Name)


def test_every_attribute_exists_in_tensorrt_rtx() -> None:
    library = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'dgkit[rtx]'")
    used = set(chains())
    assert used > RTX_ONLY and len(used) > 10
    for chain in used:
        functools.reduce(getattr, chain.split(".")[1:], library)


def test_every_attribute_exists_in_tensorrt_10() -> None:
    classes = declared(stubs().read_text(encoding="utf-8"))
    for chain in set(chains()) - RTX_ONLY:
        _, name, *members = chain.split(".")
        assert name in classes, chain
        assert not members or members[0] in classes[name], chain
    for chain in RTX_ONLY:  # else it belongs to both
        _, name, member, *_ = chain.split(".")
        assert member not in classes.get(name, ())


def type_errors(folder: Path, types: str) -> list[str]:
    """Return mypy's errors in the code if the stub file of the module ``tensorrt`` contains ``types``."""
    api = pytest.importorskip("mypy.api", reason="needs mypy: pip install 'dgkit[dev]'")
    (folder / "types").mkdir(exist_ok=True)
    # A sequence by __getitem__ and __len__, which mypy does not iterate over.
    types = types.replace("class Dims:", "class Dims:\n    def __iter__(self) -> typing.Iterator[int]: ...")
    head = "from __future__ import annotations\n"
    stub = f"{head}import typing\n{repaired(types).replace(head, '')}"
    (folder / "types" / "tensorrt.pyi").write_text(stub, encoding="utf-8")
    settings = folder / "mypy.ini"
    settings.write_text(SETTINGS.format(path=folder / "types"), encoding="utf-8")
    options = ["--config-file", str(settings), "--cache-dir", str(folder / "cache")]
    found, problems, _ = api.run([*options, *map(str, FILES)])
    assert not problems
    names = tuple(file.name for file in FILES)  # the stubs have errors of their own
    return [line for line in found.splitlines() if ": error: " in line and Path(line.partition(":")[0]).name in names]


@pytest.mark.slow
def test_types_agree_with_tensorrt_10(tmp_path: Path) -> None:
    only = {name for chain in RTX_ONLY for name in chain.split(".")[1:]} | RTX_CALLS
    for line in type_errors(tmp_path, stubs().read_text(encoding="utf-8")):
        assert any(f'"{name}"' in line for name in only), line


@pytest.mark.slow
def test_types_agree_with_tensorrt_rtx(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx: pip install 'dgkit[rtx]'")
    stubgen = pytest.importorskip("mypy.stubgenc", reason="needs mypy: pip install 'dgkit[dev]'")
    module, file = "tensorrt_rtx_bindings.tensorrt_rtx", tmp_path / "generated.pyi"
    stubgen.generate_stub_for_c_module(module, str(file), known_modules=[module])
    types = file.read_text(encoding="utf-8")
    assert "\n".join(type_errors(tmp_path, types)) == ""
    renamed = ("create_runtime_config", "set_input_shape", "deserialize_cuda_engine", "TF32")
    found = type_errors(tmp_path, re.sub("|".join(renamed), "renamed", types))
    for name in renamed:  # the check can fail
        assert any(f'"{name}"' in line for line in found), name
