"""``merge``: the folders of the shards of one run become the folder that one run would have made."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from dgkit.data.records import Record
from dgkit.errors import DgkitError, InputError, UsageError
from dgkit.files import atomic_path
from dgkit.generation.blocks import blocks
from dgkit.generation.filter_folder import write_second_labels
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.result import GenerateResult
from dgkit.generation.settings import Progress, footnote
from dgkit.generation.verification import inspect
from dgkit.generation.writer import FREE, OutputFolder, differences


def merge(
    out: str | Path, parts: Sequence[str | Path], *, copy: bool = False, progress: Progress | None = None
) -> GenerateResult:
    """Join ``parts``, folders of ``generate`` with ``shard``, in the folder ``out``; the same call again continues.

    Files are hard links where the file system allows them and ``copy`` is off, else copies. The parts stay as they are.
    The result is byte for byte the folder of one run without ``shard``, second labels included where their judge is on
    this machine.

    ``progress`` hears of the stages ``verify`` and ``merge``, and of those of ``filter_folder``. Raises InputError for
    a part that is no folder of a run, is unfinished or damaged, was made with other settings than the first, or has an
    image that another part has, and where the parts together are not the whole run; OutputError for a folder that
    cannot be written or holds other things.
    """
    started = time.perf_counter()
    report = progress or (lambda stage, done, total: None)
    paths = [Path(part) for part in parts]
    if not paths:
        raise UsageError("no parts are given, at least one is needed", "dgkit merge OUT PART PART")
    same = [path for path in paths if path.resolve() == Path(out).resolve()]
    if same:
        raise UsageError(f"{same[0]} is both a part and the folder to make", "choose a new folder for the result")
    whole, homes = _join(paths, report)
    folder = OutputFolder(Path(out))
    with folder.opened(whole):
        for done, (record, home) in enumerate(homes, 1):
            for name in (record.image, record.label, record.vis):
                _place(home / name, folder.path / name, copy)
            folder.records[record.index] = record
            report("merge", done, len(homes))
        model = _model_name(whole)
        folder.finish(f"{len(folder.records)} labelled scenes", footnote(whole, model))
        if whole.judge is None or whole.judge.is_file():  # a judge of another machine: dgkit filter writes them here
            write_second_labels(folder.path, whole, report)
    return GenerateResult(folder.path, folder.in_order(), 0, len(folder.records), time.perf_counter() - started, model)


def _join(paths: Sequence[Path], report: Progress) -> tuple[GenerateConfig, list[tuple[Record, Path]]]:
    """The settings of the whole run, and each image in job order with the part it lies in."""
    whole: GenerateConfig | None = None
    homes: dict[int, tuple[Record, Path]] = {}
    for path in paths:
        config, records = _part(path, report)
        if whole is None:
            whole = config
        changes = differences(whole, config, FREE - {"batch"})
        if changes:
            raise InputError(
                f"{path} and {paths[0]} were made with other settings ({'; '.join(changes)})",
                "merge shards of one run: the same command but for --shard and OUT",
            )
        for index, record in records.items():
            if index in homes:
                raise InputError(
                    f"image {index} is in {homes[index][1]} and in {path}", "name each shard once: they may not overlap"
                )
            homes[index] = record, path
    assert whole is not None  # there is a part
    missing = [numbers for numbers in blocks(whole) if numbers[0] not in homes]
    if missing:
        count = sum(len(numbers) for numbers in missing)
        raise InputError(
            f"{count} of {whole.count} images are in no part, the first is number {missing[0][0]}",
            "name the folders of all shards",
        )
    return whole, [homes[index] for index in sorted(homes)]


def _part(path: Path, report: Progress) -> tuple[GenerateConfig, dict[int, Record]]:
    """Settings of the run that a part is of, and its images; every one of them is looked at."""
    config, found, records = inspect(path, report)
    if found.problems:
        counts = ", ".join(f"{count} {kind}" for kind, count in found.counts.items())
        unfinished = set(found.counts) == {"job"}
        raise InputError(
            f"{path} is not complete ({counts})",
            f"dgkit generate {path} --recipe {path / 'config.yaml'}"
            if unfinished
            else f"dgkit verify {path} --repair, then merge again",
        )
    return config.model_copy(update={"shard": None}), records


def _place(source: Path, target: Path, copy: bool) -> None:
    """``target`` with the content of ``source``: complete or absent."""
    if target.exists() and (source.samefile(target) or source.read_bytes() == target.read_bytes()):
        return
    with atomic_path(target) as temporary:
        temporary.unlink(missing_ok=True)
        if not copy:
            try:
                os.link(source, temporary)
                return
            except OSError:
                pass  # another file system, or one without links
        shutil.copyfile(source, temporary)


def _model_name(config: GenerateConfig) -> str:
    """As a run calls its model, where it is on this machine."""
    from dgkit.diffusion.loading import open_model

    try:
        return open_model(config.model, config.controlnet).info.name
    except DgkitError:
        return Path(config.model or "").name
