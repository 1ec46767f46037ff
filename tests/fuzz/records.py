"""Files that dgkit wrote itself: training state, engines, scores, captions, latents."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.checks import attempt, command
from tests.fuzz.documents import damage_json, damage_lines
from tests.fuzz.images import make_pair
from tests.fuzz.mutations import (
    odd_file,
)


def make_state(folder: Path) -> None:
    state = {
        "step": 200,
        "settings": {"steps": 400, "batch": 2, "lr": 1e-4, "seed": 0},
        "identity": {"digest": "x", "sizes": [1, 2]},
        "meter": {"pending": [0.1, 0.2], "recent": [0.3]},
    }
    (folder / "step_00000200").mkdir()
    (folder / "step_00000200" / "state.json").write_text(json.dumps(state))


def damage_state(rng: random.Random, folder: Path) -> None:
    damage_json(rng, folder / "step_00000200" / "state.json")


def read_state_file(rng: random.Random, folder: Path) -> None:
    from dgkit.training.loop.checkpoint import check_settings, read_state

    state = read_state(folder / "step_00000200")
    wanted = {
        "settings": {"steps": 400, "batch": 2, "lr": 1e-4, "seed": 0},
        "identity": {"digest": "x", "sizes": [1, 2]},
    }
    check_settings(folder, state, wanted)


def make_engines(folder: Path) -> None:
    from dgkit.engines.store import EngineStore
    from tests.engines.stored import KEY, build

    EngineStore(folder / "engines").obtain(KEY, build)


def damage_engine(rng: random.Random, folder: Path) -> None:
    (engine,) = (path for path in (folder / "engines").iterdir() if not path.name.startswith("."))
    name = rng.choice(("engine.json", "engine.json", "verified.json", "model.bin"))
    if name == "model.bin":
        odd_file(rng, engine / name)
    else:
        damage_json(rng, engine / name)


def read_engine(rng: random.Random, folder: Path) -> None:
    from dgkit.engines.inventory import entries, prune
    from dgkit.engines.store import EngineStore
    from tests.engines.stored import KEY

    store = EngineStore(folder / "engines")
    attempt(
        lambda: [(entry.state, entry.size) for entry in entries(store)],
        lambda: prune(store, stale=True, dry_run=True),
        lambda: store.open(KEY),
        lambda: _engine_command(rng, folder),
    )


def _engine_command(rng: random.Random, folder: Path) -> None:
    if rng.random() < 0.1:
        kept = os.environ.get("DGKIT_CACHE")
        os.environ["DGKIT_CACHE"] = str(folder)
        try:
            command("engines", "list", "--json")
        finally:
            os.environ.pop("DGKIT_CACHE") if kept is None else os.environ.__setitem__("DGKIT_CACHE", kept)


def make_journal(folder: Path) -> None:
    from dgkit.evaluation.benchmark.score_journal import ScoreJournal

    make_pair(folder)
    journal = ScoreJournal(folder, {"protocol": "x", "crop": [1, 2]})
    journal.add("cityscapes", _sample(folder), np.eye(19, 20, dtype=np.int64))


def _sample(folder: Path) -> Any:
    from dgkit.data.samples import Sample

    return Sample("a", folder / "labels" / "a.png", folder / "images" / "a.jpg", "train_ids")


def damage_journal(rng: random.Random, folder: Path) -> None:
    path = folder / "scores.jsonl"
    lines = path.read_text().splitlines()
    line = json.loads(lines[1])
    files = []
    for name in ("images/a.jpg", "labels/a.png"):
        status = (folder / name).stat()
        files += [str(folder / name), status.st_size, status.st_mtime_ns]
    path.write_text("\n".join([lines[0], json.dumps({**line, "files": files})]) + "\n")
    damage_lines(rng, path)


def read_journal(rng: random.Random, folder: Path) -> None:
    from dgkit.evaluation.benchmark.score_journal import ScoreJournal

    journal = ScoreJournal(folder, {"protocol": "x", "crop": [1, 2]})
    journal.matrix("cityscapes", _sample(folder))
    journal.add("cityscapes", _sample(folder), np.eye(19, 20, dtype=np.int64))


def make_captions(folder: Path) -> None:
    make_pair(folder)
    rows = [{"file_name": "images/a.jpg", "text": "a street", "style": "snowy"}] * 2
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "index.jsonl").write_text('{"version": 1, "digest": "x", "factor": 8}\n[["a", [2, 4, 3, 4], 0]]\n')
    (folder / "moments.f16").write_bytes(bytes(192))
    (folder / "times.json").write_text('{"a": 1.5}')


def damage_captions(rng: random.Random, folder: Path) -> None:
    path = folder / rng.choice(("metadata.jsonl", "metadata.jsonl", "index.jsonl", "times.json"))
    damage_json(rng, path) if path.suffix == ".json" else damage_lines(rng, path)


def read_captions_file(rng: random.Random, folder: Path) -> None:
    from dgkit.training.data.image_files import read_captions
    from dgkit.training.data.latents import LatentCache
    from dgkit.training.loop.times import timed

    def time() -> None:
        with timed(folder, "a", None):
            pass

    def latents() -> None:
        cache = LatentCache(folder)
        cache.window("a", 0, 0, 8)

    attempt(lambda: read_captions(folder), time, latents)
