"""``dgkit generate --jobs``: each row of a CSV file is one image."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import dgkit
from dgkit.cli.app import main
from dgkit.config import load_config
from dgkit.data.labelmap import read_label
from dgkit.errors import InputError, OutputError, UsageError
from dgkit.generation.generate_config import GenerateConfig
from dgkit.generation.job_table import read_jobs
from dgkit.generation.verification import verify
from tests.scenes import FAST, FAST_FLAGS

ROWS = """label,prompt,seed,style
labels/0.png,"a street, wet",7,rainy
labels/1.png,,8,snowy
labels/0.png,a street in the sun,,
labels/2.png,,,
"""


@pytest.fixture
def table(tmp_path: Path, labels: Path) -> Path:
    shutil.copytree(labels, tmp_path / "labels")
    path = tmp_path / "jobs.csv"
    path.write_text(ROWS, encoding="utf-8-sig")
    return path


def test_rows_are_made_as_they_say(
    table: Path, micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["generate", str(out), "--jobs", str(table), "--model", str(micro), "--seed", "5", *FAST_FLAGS]
    assert main(command) == 0
    assert "3 of 3 label maps are larger than images of 64x64" in capsys.readouterr().err
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [line["source"] for line in lines] == ["0", "1", "0", "2"]
    assert [line["prompt"] for line in lines][::2] == ["a street, wet", "a street in the sun"]
    assert [line["style"] for line in lines][:3] == ["rainy", "snowy", "none"]
    assert lines[1]["prompt"].endswith("in snowy weather.")
    assert [line["seed"] for line in lines][:2] == [7, 8]
    for line in lines:
        whole = read_label(tmp_path / "labels" / f"{line['source']}.png")
        assert np.array_equal(read_label(out / line["label"]), whole[16:80, 48:112])  # the centre of 96 x 160

    images = {path.name: path.read_bytes() for path in (out / "images").iterdir()}
    (out / lines[1]["image"]).unlink()
    assert verify(out, repair=True).redrawn == 1
    (out / lines[2]["image"]).unlink()
    assert main(["generate", str(out)]) == 0  # config.yaml names the table
    assert {path.name: path.read_bytes() for path in (out / "images").iterdir()} == images
    config = load_config(GenerateConfig, out / "config.yaml")
    assert (config.jobs, config.count, config.jobs_digest) == (table, 4, read_jobs(table).digest)

    table.write_text(ROWS.replace(",7,", ",9,"))
    with pytest.raises(OutputError, match="jobs_digest"):
        dgkit.generate(out, jobs=table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt,seed\na,1\n", "has the columns prompt, seed; known: label, prompt, style, seed"),
        ("label,color\na,1\n", "has the columns label, color"),
        ("", "has the columns none"),
        ("label\n", "has no rows"),
        ("label\nabsent.png\n", "line 2: .*absent.png: no such file"),
        ("label,prompt\nlabels/0.png,road, car\n", "line 2: more cells than columns"),
        ("label,prompt\n,road\n", "line 2: no label"),
        ("label,seed\nlabels/0.png,-1\n", "line 2: seed '-1'"),
        ("label\n\xff\n", "is not a CSV file"),
    ],
)
def test_tables_that_are_wrong(table: Path, text: str, message: str) -> None:
    table.write_text(text, encoding="latin-1")
    with pytest.raises((InputError, UsageError), match=message) as error:
        read_jobs(table)
    assert "has the columns" not in message or error.value.hint.endswith(" label,prompt,style,seed")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 3}, "--count 3 with a table of 4 jobs"),
        ({"labels": "labels"}, "--jobs and --labels cannot be combined"),
        ({"rare": False}, "--jobs and --rare cannot be combined"),
        ({"balance_styles": True}, "--jobs and --balance-styles cannot be combined"),
        ({"split": "val"}, "--jobs and --split cannot be combined"),
    ],
)
def test_settings_that_a_table_excludes(table: Path, tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dgkit.generate(tmp_path / "out", jobs=table, **settings)
    assert not (tmp_path / "out").exists()


def test_an_unknown_style_names_its_line(table: Path, tmp_path: Path) -> None:
    table.write_text("label,style\nlabels/3.png,night\nlabels/3.png,nights\n")
    with pytest.raises(UsageError, match=r"jobs\.csv, line 3: unknown style 'nights'") as error:
        dgkit.generate(tmp_path / "out", jobs=table)
    assert error.value.hint == "did you mean night?" and not (tmp_path / "out").exists()


def test_a_table_of_one_job_per_map_needs_no_prompt(table: Path, micro: Path, tmp_path: Path) -> None:
    table.write_text("label\nlabels/3.png\n")
    (record,) = dgkit.generate(tmp_path / "out", jobs=table, model=str(micro), size=(96, 160), **FAST).records
    assert np.array_equal(read_label(record.label), read_label(tmp_path / "labels" / "3.png"))
