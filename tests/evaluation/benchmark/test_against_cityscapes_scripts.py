"""Scores equal those of cityscapesScripts, which runs in a virtual environment of its own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dgkit.data.scores import class_iou, confusion, mean_iou
from dgkit.labels import CLASSES, ENCODINGS, IGNORE, NUM_CLASSES

PACKAGES = ("cityscapesScripts==2.2.4", "numpy<2")
PROGRAM = """
import json, sys
import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as evaluator
args = evaluator.args
args.evalInstLevelScore, args.JSONOutput, args.quiet, args.evalPixelAccuracy = False, False, True, False
found = evaluator.evaluateImgLists(json.loads(sys.argv[1]), json.loads(sys.argv[2]), args)
print("RESULT" + json.dumps({"mean": found["averageScoreClasses"], "classes": found["classScores"]}))
"""


def label_ids(train_ids: np.ndarray) -> np.ndarray:
    """Cityscapes labelIds of train ids; ignore becomes 0 (unlabelled)."""
    table = np.zeros(256, np.uint8)
    for label_id, train_id in enumerate(ENCODINGS["cityscapes_ids"].table):
        if 0 <= train_id < NUM_CLASSES:
            table[train_id] = label_id
    return table[train_ids]


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parity
def test_equal_to_cityscapes_scripts(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    rng = np.random.default_rng(0)
    total = np.zeros((NUM_CLASSES, NUM_CLASSES), np.int64)
    files: dict[str, list[str]] = {"prediction": [], "label": []}
    # No class 15 and 16 in the labels; 15 is predicted, 16 never is.
    for number in range(3):
        blocks = rng.choice([*range(15), 17, 18, IGNORE], (12, 20)).astype(np.uint8)
        label = np.kron(blocks, np.ones((8, 8), np.uint8))
        noise = rng.choice([0, 2, 8, 13, 15], label.shape)
        predicted = np.where((rng.random(label.shape) < 0.7) & (label != IGNORE), label, noise).astype(np.uint8)
        total += confusion(label, predicted)
        for kind, values in (("prediction", predicted), ("label", label)):
            name = f"a_{number:06d}_000019" + ("_gtFine_labelIds" if kind == "label" else "_pred") + ".png"
            path = tmp_path / kind / name
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(label_ids(values)).save(path)
            files[kind].append(str(path))
    command = [python, "-c", PROGRAM, json.dumps(files["prediction"]), json.dumps(files["label"])]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads(shown.partition("RESULT")[2].splitlines()[0])
    assert mean_iou(total, absent="zero") == pytest.approx(found["mean"], abs=1e-9)
    iou = class_iou(total, absent="zero")
    assert iou[15] == 0 and np.isnan(iou[16])
    for name, value in zip(CLASSES, iou, strict=True):
        assert value == pytest.approx(found["classes"][name], abs=1e-9, nan_ok=True)
