"""Calibration: probabilities of logits and of scores, the error of known confidences, and outputs without any."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dgkit.data.samples import Sample
from dgkit.errors import InputError, UsageError
from dgkit.evaluation.benchmark.confidence_bins import (
    ConfidenceWatch,
    bin_sums,
    calibration_error,
    probabilities,
    refuse_numbers,
)
from dgkit.evaluation.benchmark.eval_sets import EvalSample
from dgkit.labels import IGNORE
from dgkit.segmenters.onnx import OnnxSegmenter
from tests.segmenters.onnx_files import label_model, palette_model

pytest.importorskip("onnxruntime")


@pytest.mark.parity
def test_equal_to_torchmetrics() -> None:
    classification = pytest.importorskip("torchmetrics.classification")
    generator = torch.Generator().manual_seed(0)
    shares = (3 * torch.randn(4, 19, 32, 48, generator=generator)).softmax(1)
    labels = torch.randint(0, 19, (4, 32, 48), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.1] = IGNORE
    metric = classification.MulticlassCalibrationError(19, n_bins=15, norm="l1", ignore_index=IGNORE)
    metric.update(shares, labels)
    confidence, predicted = shares.max(1)
    total = sum(
        bin_sums(one.numpy(), two.numpy(), three.numpy())
        for one, two, three in zip(labels, predicted, confidence, strict=True)
    )
    assert calibration_error(np.asarray(total)) == pytest.approx(float(metric.compute()), abs=1e-6)


def test_a_worked_example() -> None:
    label = np.array([[0, 0, 0, 0, IGNORE]], np.uint8)
    predicted = np.array([[0, 0, 0, 1, 1]], np.uint8)
    confidence = np.array([[1.0, 0.5, 0.5, 0.5, 0.9]], np.float32)
    sums = bin_sums(label, predicted, confidence)
    assert sums[0].tolist() == [0] * 7 + [3] + [0] * 6 + [1]  # 1.0 belongs to the last bin
    # Bin 7 (0.467 to 0.533): accuracy 2 / 3 at confidence 0.5, and the last bin is right.
    assert calibration_error(sums) == pytest.approx(3 / 4 * (2 / 3 - 0.5))
    assert np.isnan(calibration_error(np.zeros((3, 15))))


def test_logits_get_a_softmax_and_scores_are_divided_by_their_sum() -> None:
    shares = torch.tensor([0.5, 0.3, 0.2])
    logits, scores = shares.log().view(3, 1, 1), (4 * shares).view(3, 1, 1)
    for values, map_ in (("logits", logits), ("scores", scores), ("scores", shares.view(3, 1, 1))):
        found = probabilities([map_], (2, 2), values)
        assert torch.allclose(found, shares.view(3, 1, 1).expand(3, 2, 2))
    assert probabilities([torch.zeros(3, 1, 1)], (1, 1), "scores").tolist() == [[[0.0]]] * 3
    turned = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # the second map shows the mirror image
    assert torch.equal(probabilities([turned, turned.flip(-1)], (1, 2), "scores"), turned)


def watched(net: Path) -> tuple[ConfidenceWatch, EvalSample]:
    sample = Sample("a", Path("a.png"), Path("a.jpg"), "train_ids")
    picture = EvalSample("dgkit", sample, np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), np.uint8))
    return ConfidenceWatch(OnnxSegmenter(net, "ort", "fp32", "cpu")), picture


def test_outputs_that_may_not_be_logits_are_refused(tmp_path: Path) -> None:
    net = palette_model(tmp_path / "net.onnx")
    channels, positive = torch.zeros(1, 1, dtype=torch.uint8), torch.arange(19.0).view(19, 1, 1)
    watch, picture = watched(net)
    with pytest.raises(InputError, match=r"output 'logits' is nowhere negative for a\.jpg") as caught:
        watch(picture, [positive], channels)
    assert "'values: scores'" in caught.value.hint
    for stated, share in (("scores", 0), ("logits", float(positive.softmax(0)[0, 0, 0]))):
        with net.with_suffix(".yaml").open("a") as stream:
            stream.write(f"values: {stated}\n")
        watch, picture = watched(net)
        watch(picture, [positive], channels)
        assert watch.take(picture)[0, 0] == pytest.approx(share)
        net.with_suffix(".yaml").write_text(net.with_suffix(".yaml").read_text().replace("values: scores\n", ""))
    with pytest.raises(UsageError, match="gives class numbers"):
        refuse_numbers(OnnxSegmenter(label_model(tmp_path / "labels.onnx"), "ort", "fp32", "cpu"))
