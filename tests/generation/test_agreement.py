"""Images that a judge rejects are generated again, with the same result however the run is interrupted."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import dgkit
from dgkit.cli.app import main
from dgkit.config import load_config
from dgkit.data.crops import CropBox
from dgkit.data.filtering import judge
from dgkit.data.labelmap import read_label
from dgkit.diffusion.sampler import SceneResult
from dgkit.errors import EngineError, InputError, OutputError, UsageError
from dgkit.generation.agreement import AgreementCheck
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.jobs import Job, attempt_seed
from dgkit.generation.merging import merge
from dgkit.labels import CLASSES, PALETTE
from dgkit.segmenters.onnx import open_onnx_segmenter
from tests.scenes import FAST, FAST_FLAGS, snapshot
from tests.segmenters.onnx_files import palette_model

pytest.importorskip("onnxruntime")
COUNT = 4


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return palette_model(tmp_path_factory.mktemp("net") / "s.onnx", sharpness=30)


@pytest.fixture(scope="module")
def scored(
    micro: Path, labels: Path, segmenter: Path, tmp_path_factory: pytest.TempPathFactory
) -> dgkit.GenerateResult:
    """A run whose images are scored, without redraws."""
    out = tmp_path_factory.mktemp("scored") / "out"
    return dgkit.generate(out, labels=labels, model=str(micro), count=COUNT, judge=segmenter, **FAST)


@pytest.fixture(scope="module")
def required(scored: dgkit.GenerateResult) -> float:
    """An agreement that some of the images do not reach."""
    found = sorted(record.agreement or 0.0 for record in scored.records)
    assert found[0] < found[-1]
    return found[-1]


@pytest.fixture(scope="module")
def settings(micro: Path, labels: Path, segmenter: Path, required: float) -> dict:
    common = {"labels": labels, "model": str(micro), "count": COUNT, "judge": segmenter}
    return {**common, "min_agreement": required, "redraws": 2, **FAST}


@pytest.fixture(scope="module")
def strict_run(settings: dict, tmp_path_factory: pytest.TempPathFactory) -> dgkit.GenerateResult:
    return dgkit.generate(tmp_path_factory.mktemp("strict_run") / "out", **settings)


def test_a_judge_alone_changes_no_image(
    scored: dgkit.GenerateResult, micro: Path, labels: Path, segmenter: Path, tmp_path: Path
) -> None:
    plain = dgkit.generate(tmp_path / "out", labels=labels, model=str(micro), count=COUNT, **FAST)
    network = open_onnx_segmenter(segmenter)
    for mine, theirs in zip(scored.records, plain.records, strict=True):
        paths = {"image": theirs.image, "label": theirs.label, "vis": theirs.vis}
        assert [Path(path).name for path in paths.values()] == [
            Path(p).name for p in (mine.image, mine.label, mine.vis)
        ]
        assert dataclasses.replace(mine, attempts=(), **paths) == theirs
        image = np.asarray(Image.open(mine.image))
        assert (
            mine.agreement
            == judge(network.image_logits(image), network.classes, read_label(Path(mine.label))).agreement
        )
        assert mine.accepted and [attempt.seed for attempt in mine.attempts] == [mine.seed]
    assert "attempts" not in plain.manifest.read_text()


def test_the_best_attempt_is_kept_and_every_one_is_in_the_manifest(
    scored: dgkit.GenerateResult, strict_run: dgkit.GenerateResult, required: float, segmenter: Path
) -> None:
    network = open_onnx_segmenter(segmenter)
    lines = [json.loads(line) for line in strict_run.manifest.read_text().splitlines()]
    assert [{**line, "image": "", "label": "", "vis": ""} for line in lines] == [
        {**record.to_json(), "image": "", "label": "", "vis": ""} for record in strict_run.records
    ]
    assert max(len(record.attempts) for record in strict_run.records) > 1
    for first, record in zip(scored.records, strict_run.records, strict=True):
        agreements = [attempt.agreement for attempt in record.attempts]
        assert record.attempts[0] == first.attempts[0] and (record.label_sha256, record.prompt) == (
            first.label_sha256,
            first.prompt,
        )
        seeds = [first.seed, *(attempt_seed(0, record.index, number) for number in (1, 2))]
        assert [attempt.seed for attempt in record.attempts] == seeds[: len(agreements)]
        assert record.agreement == max(agreements) and record.accepted == (max(agreements) >= required)
        assert len(agreements) == 3 or (agreements[-1] >= required and max([0, *agreements[:-1]]) < required)
        image = np.asarray(Image.open(record.image))
        assert (
            record.agreement
            == judge(network.image_logits(image), network.classes, read_label(Path(record.label))).agreement
        )


def test_an_interrupted_run_ends_with_the_same_bytes(
    strict_run: dgkit.GenerateResult, settings: dict, tmp_path: Path
) -> None:
    def interrupt(stage: str, done: float, total: float) -> None:
        if stage == "generate" and done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dgkit.generate(tmp_path / "out", **settings, progress=interrupt)
    dgkit.generate(tmp_path / "out", **settings)
    assert snapshot(tmp_path / "out") == snapshot(strict_run.out)
    lost = next(record for record in strict_run.records if len(record.attempts) > 1)
    (tmp_path / "out" / Path(lost.image).relative_to(strict_run.out)).unlink()
    assert dgkit.generate(tmp_path / "out", **settings).written == 1
    assert snapshot(tmp_path / "out") == snapshot(strict_run.out)


@pytest.mark.slow
def test_workers_make_the_same_attempts(strict_run: dgkit.GenerateResult, settings: dict, tmp_path: Path) -> None:
    made = dgkit.generate(tmp_path / "out", **settings | {"workers": 2})
    ids = [(record.id, len(record.attempts)) for record in made.records]
    assert ids == [(record.id, len(record.attempts)) for record in strict_run.records]


@pytest.mark.slow
def test_merged_shards_are_the_run_filtered_labels_included(
    strict_run: dgkit.GenerateResult, settings: dict, tmp_path: Path
) -> None:
    parts = [dgkit.generate(tmp_path / f"{n}", **settings, shard=f"{n}/2").out for n in (1, 2)]
    assert not (parts[0] / "labels_filtered").exists()
    assert snapshot(merge(tmp_path / "merged", parts).out) == snapshot(strict_run.out)


def test_filtered_labels_exclude_rejected_images(strict_run: dgkit.GenerateResult) -> None:
    lines = [json.loads(line) for line in (strict_run.out / "labels_filtered/manifest.jsonl").read_text().splitlines()]
    accepted = [record for record in strict_run.records if record.accepted]
    assert [line["id"] for line in lines] == [record.id for record in accepted]
    assert [line["agreement"] for line in lines] == [record.agreement for record in accepted]


def test_near_duplicates_are_excluded_from_filtered_labels(scored: dgkit.GenerateResult, tmp_path: Path) -> None:
    shutil.copytree(scored.out, tmp_path / "out")
    config = load_config(GenerateConfig, scored.out / "config.yaml")
    dgkit.generate(tmp_path / "out", config.model_copy(update={"duplicates": 32}))  # random pictures differ in about 32
    left_out = json.loads((tmp_path / "out/labels_filtered/filter.json").read_text())["left_out"]
    assert left_out and all("near-duplicate of" in reason for reason in left_out.values())


def test_a_boundary_alone_writes_filtered_labels(micro: Path, labels: Path, tmp_path: Path) -> None:
    run = {"labels": labels, "model": str(micro), "count": 2, **FAST}
    plain = dgkit.generate(tmp_path / "out", **run)
    assert not (plain.out / "labels_filtered").exists()
    result = dgkit.generate(tmp_path / "out", **run, boundary=2)  # it changes no image, so it may be added later
    first, second = (
        read_label(result.out / f / Path(result.records[0].label).name) for f in ("labels", "labels_filtered")
    )
    assert ((second != first) & (second == 255)).any() and (second[second != 255] == first[second != 255]).all()


def test_another_judge_or_agreement_is_refused(
    strict_run: dgkit.GenerateResult, settings: dict, segmenter: Path, tmp_path: Path
) -> None:
    other = palette_model(tmp_path / "other.onnx", sharpness=31)
    with pytest.raises(OutputError, match="judge_digest"):
        dgkit.generate(strict_run.out, **settings | {"judge": other})
    with pytest.raises(OutputError, match="min_agreement"):
        dgkit.generate(strict_run.out, **settings | {"min_agreement": 0.0})
    shutil.copy(segmenter, tmp_path / "same.onnx")
    shutil.copy(segmenter.with_suffix(".yaml"), tmp_path / "same.yaml")
    config = load_config(GenerateConfig, strict_run.out / "config.yaml")
    moved = config.model_copy(update={"judge": tmp_path / "same.onnx"})
    assert dgkit.generate(strict_run.out, moved).written == 0
    with pytest.raises(InputError, match="the judge has digest"):
        dgkit.generate(tmp_path / "new", config.model_copy(update={"judge": other}))
    with pytest.raises(InputError, match="No such file"):
        dgkit.generate(tmp_path / "new", **settings | {"judge": tmp_path / "none.onnx"})


def test_command_line(settings: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--labels", str(settings["labels"]), "--model", settings["model"], "--count", "2", *FAST_FLAGS]
    flags += ["--judge", str(settings["judge"]), "--min-agreement", "0.99", "--redraws", "1", "--boundary", "1"]
    assert main(["generate", str(tmp_path / "out"), *flags, "--balance-classes", "--balance-styles"]) == 0
    text = capsys.readouterr().err
    assert "2 redrawn at least once" in text and "2 below the requested label agreement" in text
    config = load_config(GenerateConfig, tmp_path / "out" / "config.yaml")
    assert (config.min_agreement, config.redraws, config.boundary) == (0.99, 1, 1)
    assert config.balance_classes and config.balance_styles
    assert main(["generate", str(tmp_path / "new"), *flags[:-8], "--min-agreement", "0.5"]) == 2
    assert "hint: add --judge FILE.onnx" in capsys.readouterr().err


def test_settings_that_exclude_each_other_are_refused(segmenter: Path) -> None:
    with pytest.raises(UsageError, match="--min-agreement needs a judge"):
        load_config(GenerateConfig, min_agreement=0.5)
    with pytest.raises(UsageError, match="redraws"):
        load_config(GenerateConfig, judge=segmenter, redraws=-1)


def job(index: int, label: np.ndarray) -> Job:
    return Job(index, f"{index}", "s", None, CropBox(0, 0, 32, 32), 1.0, True, "p", "none", index, label)


def test_only_rejected_images_are_sampled_again_and_together(segmenter: Path) -> None:
    label = np.kron(np.array([[0, 10], [0, 10]]), np.ones((16, 16), int)).astype(np.uint8)
    jobs = [job(index, label) for index in range(4)]
    jobs[3] = job(3, np.full((32, 32), 255, np.uint8))
    # Rows of 32 that the 1st, 2nd and 3rd attempt of each job show correctly.
    rows = {0: (32,), 1: (10, 32), 2: (12, 20, 16), 3: (0,)}
    calls: list[list[int]] = []

    def sample(again: Sequence[Job]) -> list[SceneResult]:
        calls.append([one.index for one in again])
        results = []
        for one in again:
            shown = label.copy()
            shown[rows[one.index][len(calls) - 1] :] = 8
            results.append(SceneResult(PALETTE[shown], None, "p"))
        return results

    config = GenerateConfig(judge=segmenter, min_agreement=0.9, redraws=2, seed=7)
    images = AgreementCheck(config).generate(jobs, sample)
    assert calls == [[0, 1, 2, 3], [1, 2], [2]]
    assert [one.accepted for one in images] == [True, True, False, True]
    assert [a.agreement for a in images[2].attempts] == [12 / 32, 20 / 32, 16 / 32]
    assert images[2].job.seed == images[2].attempts[1].seed == attempt_seed(7, 2, 1)
    assert (images[2].result.image == np.concatenate([PALETTE[label[:20]], PALETTE[np.full((12, 32), 8)]])).all()
    assert images[3].attempts[0].agreement is None
    assert [one.job.index for one in images] == [0, 1, 2, 3]


def test_notes_on_the_judge_are_given_once(
    micro: Path, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dgkit.cli.common.WEAK_SEGMENTER", 1.01)
    judge = palette_model(tmp_path / "s.onnx")
    sidecar = judge.with_suffix(".yaml")
    names = ["lorry" if name == "truck" else name for name in CLASSES]
    sidecar.write_text(yaml.safe_dump({**yaml.safe_load(sidecar.read_text()), "classes": names}))
    command = ["generate", str(tmp_path / "out"), "--labels", str(labels), "--model", str(micro), "--count", "1"]
    assert main([*command, *FAST_FLAGS, "--json", "--judge", str(judge)]) == 0
    said = capsys.readouterr().err
    assert said.count("lorry") == 1 and f"{judge}: " in said
    assert "warning: the segmenter sees only " in said
    monkeypatch.setattr("dgkit.cli.common.WEAK_SEGMENTER", 0.0)
    assert main([*command, *FAST_FLAGS, "--judge", str(judge)]) == 0
    said = capsys.readouterr().err
    assert "lorry" not in said and "warning" not in said  # nothing was left to judge


def test_a_judge_whose_logits_are_not_finite(settings: dict, tmp_path: Path) -> None:
    broken = palette_model(tmp_path / "nan.onnx", bias_of_wall=float("nan"))
    with pytest.raises(EngineError, match=r"nan\.onnx: output 'logits' is NaN or infinite for "):
        dgkit.generate(tmp_path / "out", **{**settings, "judge": broken})
