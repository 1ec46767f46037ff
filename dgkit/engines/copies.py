"""Copies of engine files outside the store, for other programs."""

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from dgkit.engines.sidecar import SIDECAR
from dgkit.engines.store import Engine
from dgkit.errors import OutputError
from dgkit.files import output_error, temporary_path


def copy_out(engine: Engine, folder: Path, texts: Mapping[str, str] | None = None) -> Path:
    """Copy the files of ``engine`` and its side-car to ``folder``, which is complete or absent afterwards.

    ``texts`` are further files by name.

    Files are copied, not linked: onnx refuses a weights file with several hard links. A folder of an earlier export is
    replaced. Raises OutputError if ``folder`` is another existing folder or cannot be written.
    """
    if folder.exists() and not (folder / SIDECAR).is_file():
        raise OutputError(f"{folder} exists and is not an exported engine", "choose another output folder")
    temporary, old = (temporary_path(folder) for _ in range(2))
    try:
        temporary.mkdir(parents=True)
        for name in (*(entry.path for entry in engine.sidecar.files), SIDECAR):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(engine.folder / name, temporary / name)
        for name, text in (texts or {}).items():
            (temporary / name).write_text(text, encoding="utf-8")
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        temporary.rename(folder)
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        for path in (temporary, old):
            shutil.rmtree(path, ignore_errors=True)
    return folder
