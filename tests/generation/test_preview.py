"""A preview: label maps in every style on one sheet, which leaves no run behind."""

import json
from pathlib import Path

import pytest

import dgkit
from dgkit.cli.app import main
from dgkit.data.pictures import picture_size
from dgkit.errors import UsageError
from dgkit.outputs.card import write_card
from dgkit.outputs.report_page import report
from tests.scenes import FAST, FAST_FLAGS, make_label


def test_a_preview_is_one_sheet_and_no_run(
    micro: Path, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    usual = ["generate", str(out), "--labels", str(labels), "--model", str(micro), "--count", "2", *FAST_FLAGS,
             "--style", "snowy", "--style", "dusk=at dusk, long shadows", "--preset", "one-pass"]  # fmt: skip
    assert main([*usual, "--preview", "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found == {"preview": str(out / "preview.png"), "labels": 2, "styles": ["snowy", "dusk"], "count": 2}
    assert "omit --preview to make the 2 scenes" in captured.err
    assert "dusk (at, dusk, long, shadows)" in captured.err and "snowy (" not in captured.err
    assert [path.name for path in out.iterdir()] == ["preview.png"]
    assert picture_size(out / "preview.png")[0] > 2 * 192

    assert main(usual) == 0  # the run itself, next to the preview
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert {line["style"] for line in lines} == {"snowy", "dusk"}
    assert all(line["prompt"].endswith(", at dusk, long shadows.") for line in lines if line["style"] == "dusk")
    assert main(usual) == 0 and main([*usual[:-4], "--style", "dusk=at dusk", *usual[-2:]]) == 1
    assert "was made with other settings (styles: " in (text := capsys.readouterr().err) and "omit --style" in text


@pytest.mark.parametrize(
    "settings", [{"shard": "1/2"}, {"ray": "local"}, {"jobs": "jobs.csv", "labels": None}], ids=["shard", "ray", "jobs"]
)
def test_runs_that_have_no_preview(settings: dict[str, object], labels: Path, micro: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--preview and --{next(iter(settings))} cannot be combined"):
        dgkit.preview(tmp_path / "out", model=str(micro), **{"labels": labels, **settings})
    assert not (tmp_path / "out").exists()


def test_words_of_a_run_are_recorded(micro: Path, tmp_path: Path) -> None:
    dusk = dgkit.Style("dusk", "at dusk", negative_prompt="daylight", guidance_scale=2)
    settings = {
        "model": str(micro), "count": 2, "styles": [dusk, "night"], "negative_prompt": "cartoon",
        "prompt_template": "{classes} seen {style}", "class_words": ["road=wet asphalt", "sky=off"], **FAST,
    }  # fmt: skip
    maps = [make_label(number)[:64, :64] for number in range(2)]
    first = dgkit.generate(tmp_path / "out", labels=maps, **settings)
    records = {record.style: record for record in first.records}
    assert "at dusk" in (first.out / "config.yaml").read_text()
    write_card(first.out)
    card = (first.out / "README.md").read_text()
    assert "| dusk: at dusk |" in card and "| night: in night weather |" in card
    assert "| prompt_template | `{classes} seen {style}` |" in card and "| negative_prompt | `cartoon` |" in card
    page = report(first.out).page.read_text()
    assert "seen at dusk | negative prompt: daylight" in page
    assert records["dusk"].negative_prompt == "daylight" and records["dusk"].guidance_scale == 2
    assert records["night"].negative_prompt == "cartoon" and records["night"].guidance_scale is None
    assert records["dusk"].prompt.endswith(" seen at dusk") and "wet asphalt" in records["dusk"].prompt
    assert "sky" not in records["night"].prompt
    again = dgkit.generate(tmp_path / "out", labels=maps, **settings)
    assert again.written == 0 and [record.prompt for record in again.records] == [r.prompt for r in first.records]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--style", "sunset"], "style 'sunset' has no clause"),
        (["--style", "a=b", "--style", "a=c"], "style 'a' is defined twice"),
        (["--style-mix", "windy"], "unknown style mix 'windy'"),
        (["--prompt-template", "A street"], "has no {style}"),
        (["--prompt-template", "{style} {when}"], "holds '{when}'"),
        (["--class-word", "cars=vans"], "class word for 'cars': no such class"),
        (["--class-word", "car"], "is not CLASS=WORDS"),
        (["--class-limit", "-1"], "class_limit=-1"),
        (["--negative-prompt", "a\tb"], "unprintable character"),
        (["--set", "styles.dusk.weight=.nan"], "style 'dusk': weight nan"),
        (["--set", "styles.dusk.guidance_scale=.nan"], "guidance scale nan"),
        (["--set", "styles.dusk.claus=x"], "unknown key 'claus'"),
        (["--set", "styles={fog: {weight: 0}}"], "sum to 0"),
        (["--preview", "--format", "parquet"], "--preview and --format cannot be combined"),
    ],
)
def test_words_that_are_refused(
    flags: list[str], words: str, micro: Path, labels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["generate", str(out), "--labels", str(labels), "--model", str(micro), *flags]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error and "hint: " in error
    assert not out.exists()
