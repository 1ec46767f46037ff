"""Files of an engine outside the store, for other programs."""

import contextlib
import os
import shutil
from pathlib import Path

from dgkit.engines.sidecar import SIDECAR
from dgkit.engines.store import Engine
from dgkit.errors import OutputError
from dgkit.files import output_error


def copy_out(engine: Engine, folder: Path) -> Path:
    """Make ``folder`` hold the files of ``engine`` and its side-car, and nothing else; it is complete or absent.

    Files are copied: onnx refuses weights in a file with several hard links. A folder that an earlier call made is
    replaced. OutputError where another folder is in the way or the disk refuses.
    """
    if folder.exists() and not (folder / SIDECAR).is_file():
        raise OutputError(f"{folder} is there and was not made by an export", "choose another output folder")
    temporary, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        temporary.mkdir(parents=True)
        for name in (*(entry.path for entry in engine.sidecar.files), SIDECAR):
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(engine.folder / name, temporary / name)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        temporary.rename(folder)
    except OSError as error:
        raise output_error(folder, error) from error
    finally:
        for path in (temporary, old):
            shutil.rmtree(path, ignore_errors=True)
    return folder
