"""Records of generated images: the manifest line keeps its keys and their order."""

from dataclasses import replace
from typing import Any

import pytest

from dgkit.data.records import Attempt, Record, file_names, parse_record

RECORD = Record(
    index=3, id="000003_x_car", image="images/000003_x_car.png", label="labels/000003_x_car_labelTrainIds.png",
    vis="vis/000003_x_car.png", source="x", class_name="car", crop=(1, 2, 48, 32), label_scale=1.0, rule_met=True,
    prompt="p", prompt_used="q", style="night", seed=2**63 - 1, retried=False, image_sha256="a", label_sha256="b",
)  # fmt: skip
KEYS = [
    "index", "id", "image", "label", "vis", "source", "class", "crop", "label_scale", "rule_met", "prompt",
    "prompt_used", "style", "seed", "retried", "image_sha256", "label_sha256",
]  # fmt: skip


def test_the_line_has_its_keys_in_order() -> None:
    line = RECORD.to_json()
    assert list(line) == KEYS and line["class"] == "car" and line["crop"] == [1, 2, 48, 32]
    judged = replace(RECORD, attempts=(Attempt(1, 0.5), Attempt(2**63 - 1, None)), accepted=False).to_json()
    assert list(judged) == [*KEYS, "agreement", "accepted", "attempts"]
    assert (judged["agreement"], judged["accepted"]) == (None, False)
    assert judged["attempts"] == [{"seed": 1, "agreement": 0.5}, {"seed": 2**63 - 1, "agreement": None}]


@pytest.mark.parametrize("attempts", [(), (Attempt(2**63 - 1, 0.5), Attempt(2, None))])
@pytest.mark.parametrize("class_name", ["car", None])
def test_a_record_survives_its_line(attempts: tuple[Attempt, ...], class_name: str | None) -> None:
    record = replace(RECORD, attempts=attempts, class_name=class_name)
    assert Record.from_json(record.to_json() | {"further": 1}) == parse_record(record.to_json()) == record
    assert record.agreement == (0.5 if attempts else None)


@pytest.mark.parametrize(
    "changed",
    [{"crop": [1, 2, 3]}, {"vis": "../elsewhere.png"}, {"id": "a/b"}, {"label_scale": "wide"}, {"attempts": [{}]}],
)
def test_a_changed_line_is_not_a_record(changed: dict[str, Any]) -> None:
    assert parse_record(RECORD.to_json() | changed) is None


@pytest.mark.parametrize("key", KEYS)
def test_a_line_without_one_of_its_keys_is_not_a_record(key: str) -> None:
    assert parse_record({k: v for k, v in RECORD.to_json().items() if k != key}) is None


def test_file_names() -> None:
    assert {kind: getattr(RECORD, kind) for kind in ("image", "label", "vis")} == file_names(RECORD.id)
