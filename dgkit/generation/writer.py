"""The output folder of a run: one lock, files that are complete or absent, and a consistent manifest.

Files are written in the order label, image, vis, manifest line: an image is never without its label, and a line never
without its files. The folder alone therefore shows which images are missing, however the last run ended.
"""

import contextlib
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from dgkit.config import dump_config, flag_of, load_config
from dgkit.data.generated import MANIFEST, SETTINGS
from dgkit.data.labelmap import read_label
from dgkit.data.manifest import Manifest
from dgkit.data.pictures import read_picture
from dgkit.data.records import Record, parse_record
from dgkit.errors import DgkitError, OutputError, shown
from dgkit.files import atomic_write, digest_file, is_hidden, output_error, remove_stale_temporaries, write_changed
from dgkit.generation.blocks import belongs
from dgkit.generation.contact_sheet import MAX_CELLS, Cell, choose, contact_sheet
from dgkit.generation.encoding import EncodedImage, png, side_by_side
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.guards import uninterrupted
from dgkit.locks import sole_writer
from dgkit.taxonomies import CITYSCAPES19, Taxonomy

SUBFOLDERS = ("images", "labels", "vis")
PREVIEW = "preview.png"  # made before the run, of which it is no part
# Settings that change neither labels nor prompts nor noise, and pixels only within rounding.
FREE_SETTINGS = frozenset({"batch", "workers", "ray", "device", "cuda_graph", "rebuild", "boundary", "duplicates"})
# These paths may change as long as the digest of their content does not.
PATHS_BY_DIGEST = {
    "source_digest": ("labels", "dataset", "encoding", "split"),
    "model_digest": ("model", "controlnet", "lora"),
    "judge_digest": ("judge",),
    "jobs_digest": ("jobs",),
}
CONTENT = {"source_digest": "label maps", "model_digest": "model", "judge_digest": "judge", "jobs_digest": "jobs table"}


class OutputFolder:
    """The output folder at ``path``; it is written inside ``with folder.opened(...)`` only.

    ``records`` are the complete images in it, by job number.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / SETTINGS
        self.manifest = Manifest(path / MANIFEST)
        self.records: dict[int, Record] = {}
        self._is_locked = False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the folder, which must exist. Raises OutputError if another run is writing to it."""
        if self._is_locked:
            yield
            return
        with sole_writer(self.path):
            self._is_locked = True
            try:
                yield
            finally:
                self._is_locked = False

    def check(self) -> GenerateConfig | None:
        """Return the settings of the run that made this folder, None for a new one.

        Raises OutputError for a file or a folder with other content.
        """
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"{self.path} is a file; the output is a folder", "choose another name")
        try:
            names = sorted(entry.name for entry in self.path.iterdir()) if self.path.exists() else []
        except OSError as error:
            raise output_error(self.path, error) from error
        others = [name for name in names if name not in (*SUBFOLDERS, PREVIEW) and not is_hidden(name)]
        if self.config_path.name not in others:
            inside = [file for name in SUBFOLDERS if name in names for file in (self.path / name).iterdir()]
            if others or not all(is_hidden(file.name) for file in inside):
                shown = ", ".join((others or names)[:3])
                raise OutputError(
                    f"{self.path} holds other files ({shown}) and no config.yaml of a run",
                    "choose a new or an empty folder",
                )
            return None
        try:
            return load_config(GenerateConfig, self.config_path)
        except DgkitError as error:
            raise OutputError(
                f"{self.config_path} does not hold settings of this version of dgkit: {error.message}",
                "choose another output folder",
            ) from error

    @contextlib.contextmanager
    def opened(self, config: GenerateConfig) -> Iterator["OutputFolder"]:
        """Lock the folder, refuse settings other than it was made with, and read the records of the complete images.

        If an error occurs before the first image of a new folder, everything created here is removed again.
        Raises OutputError for a folder in use, with other settings or content, or that cannot be written.
        """
        created = not self.path.exists()
        with _disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        try:
            with self.locked():
                yield from self._filled(config)
        finally:
            if created and not self.records:
                with contextlib.suppress(OSError):
                    self.path.rmdir()  # fails unless the folder is empty

    def _filled(self, config: GenerateConfig) -> Iterator["OutputFolder"]:
        old = self.check()
        if old is not None:
            refuse_changes(self.path, old, config)
        try:
            with _disk_errors(self.path):
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
        write_changed(self.config_path, text)
        self._read_manifest(config)

    def _read_manifest(self, config: GenerateConfig) -> None:
        """Read the records whose files exist and are unchanged; rewrite the manifest if it lists others."""
        self.manifest.repair()
        lines = self.manifest.read()
        for line in lines:
            record = parse_record(line)
            if record is not None and belongs(config, record.index) and self._is_complete(record):
                self.records[record.index] = record
        self._sort_manifest(lines)

    def _sort_manifest(self, lines: Sequence[dict[str, Any]]) -> None:
        expected = [record.to_json() for record in self.in_order()]
        if list(lines) != expected:
            self.manifest.rewrite(expected)

    def _is_complete(self, record: Record) -> bool:
        files = ((record.image, record.image_sha256), (record.label, record.label_sha256))
        try:
            return all(digest_file(self.path / name) == digest for name, digest in files)
        except OSError:
            return False

    def in_order(self) -> tuple[Record, ...]:
        """Return the records in job order."""
        return tuple(self.records[index] for index in sorted(self.records))

    def located_records(self) -> tuple[Record, ...]:
        """Return the records in job order, with absolute paths."""
        return tuple(record.located(self.path) for record in self.in_order())

    def add(self, encoded: EncodedImage) -> Record:
        """Write the files of one image and its manifest line, all or nothing; one thread at a time.

        Raises OutputError if the disk is full or read-only.
        """
        record, files = encoded
        with uninterrupted():
            try:
                for name, data in files.items():
                    atomic_write(self.path / name, data)
                self.manifest.append(record.to_json())
            except BaseException:
                for name in files:
                    (self.path / name).unlink(missing_ok=True)
                with contextlib.suppress(DgkitError):
                    self.manifest.repair()
                raise
            self.records[record.index] = record
        return record

    def finish(self, title: str, footnote: str, taxonomy: Taxonomy = CITYSCAPES19) -> None:
        """Write what is derived from the images: missing vis files, the manifest in job order, the contact sheet."""
        for record in self.in_order():
            if not (self.path / record.vis).is_file():
                label = read_label(self.path / record.label, taxonomy=taxonomy)
                vis = side_by_side(read_picture(self.path / record.image), label, taxonomy)
                atomic_write(self.path / record.vis, png(vis))
        self._sort_manifest(self.manifest.read())
        records = self.in_order()
        chosen = [records[i] for i in choose([record.style for record in records], MAX_CELLS)]
        cells = [Cell(self.path / r.image, self.path / r.label, r.style, _note(r)) for r in chosen]
        data = png(np.asarray(contact_sheet(cells, title, footnote, taxonomy)))
        sheet = self.path / "contact_sheet.png"
        write_changed(sheet, data)

    def _discard(self) -> None:
        """Remove what :meth:`_prepare` created; anything else stays."""
        self.config_path.unlink(missing_ok=True)
        self.manifest.path.unlink(missing_ok=True)
        for name in SUBFOLDERS:
            with contextlib.suppress(OSError):
                (self.path / name).rmdir()


def refuse_changes(path: Path, old: GenerateConfig, new: GenerateConfig) -> None:
    """Raise OutputError that lists the differences if ``new`` gives other images than ``old``."""
    # A shard is every N-th block of jobs, and the batch determines the length of a block.
    free = FREE_SETTINGS - {"batch"} if new.shard else FREE_SETTINGS
    changes = differences(old, new, free | {"count"} if new.count >= old.count else free)
    if changes:
        raise OutputError(f"{path} was made with other settings ({'; '.join(changes)})", _ways_back(changes))


def _ways_back(changes: list[str]) -> str:
    """Return the hint for differences: options to omit, files to restore that changed under the same name."""
    names = {change.partition(":")[0]: change for change in changes}
    options = [
        flag_of(name, GenerateConfig.model_fields[name]) for name, change in names.items()
        if name not in PATHS_BY_DIGEST and not change.endswith(" -> None")
    ]  # fmt: skip
    edited = [
        CONTENT[digest] for digest, paths in PATHS_BY_DIGEST.items()
        if digest in names and not names.keys() & {*paths, "world"}
    ]  # fmt: skip
    steps = [f"omit {', '.join(options)}"] if options else []
    steps += [f"restore the {' and the '.join(edited)} of its first run"] if edited else []
    to_continue = f"{' and '.join(steps)} to continue it, or " if steps else ""
    return f"{to_continue}choose another output folder"


def differences(old: GenerateConfig, new: GenerateConfig, free: Set[str] = FREE_SETTINGS) -> list[str]:
    """Return ``key: old -> new`` for each setting that differs, except ``free`` ones and paths with equal content."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    skipped = set(free)
    for digest, paths in PATHS_BY_DIGEST.items():
        # Without a folder or data set the source is the city, which has a seed and a number of scenes instead.
        if before[digest] is not None and before[digest] == after[digest] and before["world"] == after["world"]:
            skipped.update(paths)
    if None in (before["spacing"], after["spacing"]):  # earlier versions do not record it, see resuming.with_spacing
        skipped.add("spacing")
    keys = [key for key in after if key not in skipped and before[key] != after[key]]
    return [f"{key}: {_short(key, before[key])} -> {_short(key, after[key])}" for key in keys]


def _short(key: str, value: Any) -> Any:
    if isinstance(value, dict):
        return shown(value, 200)
    return value[:12] if key in PATHS_BY_DIGEST and isinstance(value, str) else value


def _note(record: Record) -> str:
    return record.source if record.class_name is None else f"{record.class_name} · {record.source}"


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise output_error(Path(error.filename or path), error) from error
