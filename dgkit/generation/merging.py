"""``merge``: join the shards of a run into the folder that the run would have made without shards."""

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from dgkit.data.records import Record
from dgkit.errors import DgkitError, InputError, UsageError
from dgkit.files import atomic_path, hard_link, user_path
from dgkit.generation.blocks import block_numbers
from dgkit.generation.filter_folder import write_filtered_labels
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.result import GenerateResult
from dgkit.generation.settings import footnote
from dgkit.generation.verification import inspect_folder
from dgkit.generation.writer import FREE_SETTINGS, OutputFolder, differences
from dgkit.progress import Progress, ignore
from dgkit.taxonomies import find_taxonomy
from dgkit.texts import count_of


def merge(
    out: str | Path, parts: Sequence[str | Path], *, copy: bool = False, progress: Progress | None = None
) -> GenerateResult:
    """Join ``parts``, folders of ``generate`` with ``shard``, in the folder ``out``; the same call again resumes.

    Files are hard links if the file system has them and ``copy`` is off, otherwise copies; symbolic links are copied.
    The parts are not changed.
    The result is byte for byte the folder of one run without ``shard``, including filtered labels if their judge is on
    this machine.

    ``progress`` reports the stages "verify" and "merge", in images, and those of ``filter_folder``.

    Raises UsageError without parts or if ``out`` is one of them; InputError for a part that is not a generated folder,
    is incomplete or damaged, was made with other settings than the first or shares an image with another part, and if
    the parts together are not the whole run; OutputError for a folder that cannot be written or holds other files.
    """
    started = time.perf_counter()
    progress = progress or ignore
    out, paths = user_path(out), [user_path(part) for part in parts]
    if not paths:
        raise UsageError("no parts to merge; at least one is required", "dgkit merge OUT PART PART")
    same = [path for path in paths if path.resolve() == out.resolve()]
    if same:
        raise UsageError(f"{same[0]} is both a part and the output folder", "choose a new output folder")
    whole, located = _join(paths, progress)
    folder = OutputFolder(out)
    with folder.opened(whole):
        for done, (record, part) in enumerate(located, 1):
            for name in (record.image, record.label, record.vis):
                _place(part / name, folder.path / name, copy)
            folder.records[record.index] = record
            progress("merge", done, len(located))
        model = _model_name(whole)
        folder.finish(
            count_of(len(folder.records), "labelled scene"), footnote(whole, model), find_taxonomy(whole.taxonomy)
        )
        if whole.judge is None or whole.judge.is_file():  # the judge may be on another machine only
            write_filtered_labels(folder.path, whole, progress)
    seconds = time.perf_counter() - started
    return GenerateResult(folder.path, folder.located_records(), 0, len(folder.records), seconds, model)


def _join(paths: Sequence[Path], progress: Progress) -> tuple[GenerateConfig, list[tuple[Record, Path]]]:
    """Return the settings of the whole run, and each image in job order with the part that holds it."""
    whole: GenerateConfig | None = None
    located: dict[int, tuple[Record, Path]] = {}
    for path in paths:
        config, records = _read_part(path, progress)
        if whole is None:
            whole = config
        changes = differences(whole, config, FREE_SETTINGS - {"batch"})
        if changes:
            raise InputError(
                f"{path} and {paths[0]} were made with different settings ({'; '.join(changes)})",
                "merge shards of one run, made by commands that differ in --shard and OUT only",
            )
        for index, record in records.items():
            if index in located:
                raise InputError(f"image {index} is both in {located[index][1]} and in {path}", "pass each shard once")
            located[index] = record, path
    assert whole is not None  # merge requires a part
    missing = [numbers for numbers in block_numbers(whole) if numbers[0] not in located]
    if missing:
        count = sum(len(numbers) for numbers in missing)
        raise InputError(
            f"{count} of {whole.count} images are in no part; the first is number {missing[0][0]}",
            "pass the folders of all shards",
        )
    return whole, [located[index] for index in sorted(located)]


def _read_part(path: Path, progress: Progress) -> tuple[GenerateConfig, dict[int, Record]]:
    """Return the settings of the whole run and the images of a part, after a check of every image."""
    config, found, records = inspect_folder(path, progress)
    if found.problems:
        counts = ", ".join(f"{count} {kind}" for kind, count in found.counts.items())
        unfinished = set(found.counts) == {"job"}
        raise InputError(
            f"{path} is incomplete or damaged ({counts})",
            f"dgkit generate {path}" if unfinished else f"dgkit verify {path} --repair, then merge again",
        )
    return config.model_copy(update={"shard": None}), records


def _place(source: Path, target: Path, copy: bool) -> None:
    """Link or copy ``source`` to ``target``, which is complete or absent at any time; a symbolic link is copied."""
    present = target.exists() and not target.is_symlink()
    if present and (source.samefile(target) or source.read_bytes() == target.read_bytes()):
        return
    if copy or not hard_link(source, target):
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def _model_name(config: GenerateConfig) -> str:
    """Return the name of the model; the name of its folder if the model is not on this machine."""
    from dgkit.diffusion.loading import open_model

    try:
        return open_model(config.model, config.controlnet, config.lora).info.name
    except DgkitError:
        return Path(config.model or "").name
