"""The output folder of a run: one lock, files that are complete or absent, and a manifest that can be trusted.

The order on disk is label, image, picture for people, manifest line: an image is never without its label, and a line is
never without its files. A folder therefore tells by itself what is still to do, whatever ended the last run.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dgkit.config import dump_config, load_config
from dgkit.data.generated import MANIFEST, SETTINGS
from dgkit.data.manifest import Manifest
from dgkit.data.records import Record, file_names, parse_record
from dgkit.errors import DgkitError, OutputError
from dgkit.files import atomic_write, digest_file, output_error, remove_stale_temporaries
from dgkit.generation.blocks import Scene, belongs, encode, picture, png
from dgkit.generation.contact_sheet import MAX_CELLS, Cell, choose, contact_sheet
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.guards import uninterrupted
from dgkit.generation.jobs import Job
from dgkit.locks import sole_writer

SUBFOLDERS = ("images", "labels", "vis")
# A change of these leaves every label, prompt and noise as it is, and pixels within rounding.
FREE = frozenset({"batch", "workers", "ray", "device", "cuda_graph", "rebuild", "boundary", "duplicates"})
# Where things lie may change as long as what lies there does not.
LOCATIONS = {
    "source_digest": ("labels", "dataset", "encoding", "split"),
    "model_digest": ("model", "controlnet"),
    "judge_digest": ("judge",),
}


class OutputFolder:
    """The folder at ``path``; nothing is written outside ``with folder.opened(...)``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / SETTINGS
        self.manifest = Manifest(path / MANIFEST)
        self.records: dict[int, Record] = {}

    def check(self) -> GenerateConfig | None:
        """The settings of the run that made this folder, None for a new one.

        Raises OutputError where something else is in the way.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file, an output folder is needed", "choose another name")
        try:
            names = sorted(entry.name for entry in self.path.iterdir()) if self.path.exists() else []
        except OSError as error:
            raise output_error(self.path, error) from error
        foreign = [name for name in names if name not in SUBFOLDERS and not name.startswith(".")]
        if self.config_path.name not in foreign:
            if foreign or any(any((self.path / name).iterdir()) for name in SUBFOLDERS if name in names):
                shown = ", ".join((foreign or names)[:3])
                raise OutputError(
                    f"{self.path} holds other files ({shown}) and no config.yaml of a run",
                    "choose a new or empty folder",
                )
            return None
        try:
            return load_config(GenerateConfig, self.config_path)
        except DgkitError as error:
            raise OutputError(
                f"{self.config_path} is not the settings of a run of this version: {error.message}",
                "choose another output folder",
            ) from error

    @contextlib.contextmanager
    def opened(self, config: GenerateConfig) -> Iterator["OutputFolder"]:
        """Lock the folder, refuse other settings than it was made with, and find out which images are there.

        A folder without settings and images is left as it was found when an error ends the run before the first image.
        """
        made = not self.path.exists()
        with _explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        try:
            with sole_writer(self.path):
                yield from self._begun(config)
        finally:
            if made and not self.records:
                with contextlib.suppress(OSError):
                    self.path.rmdir()  # only if nothing is in it

    def _begun(self, config: GenerateConfig) -> Iterator["OutputFolder"]:
        old = self.check()
        if old is not None:
            refuse_changes(self.path, old, config)
        try:
            with _explained(self.path):
                self._prepare(config)
            yield self
        finally:
            if old is None and not self.records:
                self._discard()

    def _prepare(self, config: GenerateConfig) -> None:
        for folder in (self.path, *(self.path / name for name in SUBFOLDERS)):
            folder.mkdir(exist_ok=True)
            remove_stale_temporaries(folder)
        text = dump_config(config).encode()
        if not self.config_path.is_file() or self.config_path.read_bytes() != text:
            atomic_write(self.config_path, text)
        self._read_manifest(config)

    def _read_manifest(self, config: GenerateConfig) -> None:
        """Keep the lines whose files are there and unchanged; the manifest is put in order where it is not."""
        self.manifest.repair()
        lines = self.manifest.read()
        for line in lines:
            record = parse_record(line)
            if record is not None and belongs(config, record.index) and self._is_complete(record):
                self.records[record.index] = record
        self._sort_manifest(lines)

    def _sort_manifest(self, lines: Sequence[dict[str, Any]]) -> None:
        wanted = [record.to_json() for record in self.in_order()]
        if list(lines) != wanted:
            text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in wanted)
            atomic_write(self.manifest.path, text.encode())

    def _is_complete(self, record: Record) -> bool:
        files = ((record.image, record.image_sha256), (record.label, record.label_sha256))
        try:
            return all(digest_file(self.path / name) == digest for name, digest in files)
        except OSError:
            return False

    def in_order(self) -> tuple[Record, ...]:
        return tuple(self.records[index] for index in sorted(self.records))

    def write(self, job: Job, image: np.ndarray, prompt_used: str, retried: bool) -> Record:
        """Write one image (uint8 [H,W,3] RGB) with its label and its manifest line, all or nothing.

        ``prompt_used`` is what the text encoder was given. Raises OutputError where the disk is full or refuses.
        """
        return self.add(encode(job, image, prompt_used, retried))

    def add(self, scene: Scene) -> Record:
        """Write the files of one image and its manifest line, all or nothing; one thread at a time.

        Raises OutputError where the disk is full or refuses.
        """
        record = scene.record
        names = file_names(record.id)
        with uninterrupted():
            try:
                for kind, data in scene.contents.items():
                    atomic_write(self.path / names[kind], data)
                self.manifest.append(record.to_json())
            except BaseException:
                for name in names.values():
                    (self.path / name).unlink(missing_ok=True)
                with contextlib.suppress(DgkitError):
                    self.manifest.repair()
                raise
            self.records[record.index] = record
        return record

    def finish(self, title: str, footnote: str) -> None:
        """Complete what is made from the images: pictures for people that are missing, order, contact sheet."""
        for record in self.in_order():
            if not (self.path / record.vis).is_file():
                with Image.open(self.path / record.image) as image, Image.open(self.path / record.label) as label:
                    atomic_write(self.path / record.vis, png(picture(np.asarray(image), np.asarray(label))))
        self._sort_manifest(self.manifest.read())
        records = self.in_order()
        chosen = [records[i] for i in choose([record.style for record in records], MAX_CELLS)]
        cells = [Cell(self.path / r.image, self.path / r.label, r.style, _note(r)) for r in chosen]
        data = png(np.asarray(contact_sheet(cells, title, footnote)))
        sheet = self.path / "contact_sheet.png"
        if not sheet.is_file() or sheet.read_bytes() != data:
            atomic_write(sheet, data)

    def _discard(self) -> None:
        """Remove what :meth:`_prepare` made; anything else stays."""
        self.config_path.unlink(missing_ok=True)
        self.manifest.path.unlink(missing_ok=True)
        for name in SUBFOLDERS:
            with contextlib.suppress(OSError):
                (self.path / name).rmdir()


def refuse_changes(path: Path, old: GenerateConfig, new: GenerateConfig) -> None:
    """Raise OutputError with each difference where the images of ``new`` would not be those of ``old``."""
    # A shard is every N-th block of jobs, and the batch says how long a block is.
    free = FREE - {"batch"} if new.shard else FREE
    changes = differences(old, new, free | {"count"} if new.count >= old.count else free)
    if changes:
        raise OutputError(
            f"{path} was made with other settings ({'; '.join(changes)})",
            f"choose another folder, or repeat its settings: dgkit generate {path} --recipe {path / 'config.yaml'}",
        )


def differences(old: GenerateConfig, new: GenerateConfig, free: Set[str] = FREE) -> list[str]:
    """``key: old -> new`` of each setting that differs; those of ``free`` may, and places with the same content."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    skipped = set(free)
    for digest, places in LOCATIONS.items():
        if before[digest] is not None and before[digest] == after[digest]:
            skipped.update(places)
    keys = [key for key in after if key not in skipped and before[key] != after[key]]
    return [f"{key}: {_short(key, before[key])} -> {_short(key, after[key])}" for key in keys]


def _short(key: str, value: Any) -> Any:
    return value[:12] if key in LOCATIONS and isinstance(value, str) else value


def _note(record: Record) -> str:
    return record.source if record.class_name is None else f"{record.class_name} · {record.source}"


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise output_error(Path(error.filename or path), error) from error
