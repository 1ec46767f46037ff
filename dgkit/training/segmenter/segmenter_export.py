"""Export of a trained segmenter to an ONNX file with a side-car YAML that describes its input."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dgkit.errors import ModelError
from dgkit.optional import first_line
from dgkit.segmenters.base import LOGITS, SCORES
from dgkit.segmenters.mm_checkpoint import read_checkpoint
from dgkit.segmenters.onnx_writer import MULTIPLE, write_segmenter
from dgkit.taxonomies import CITYSCAPES19, Taxonomy
from dgkit.training.loop.integrity import check_finite
from dgkit.training.segmenter.hrda import HRDASegmentor
from dgkit.training.segmenter.query_heads import QueryHead


class SegmenterLogits(nn.Module):
    """The exported part of a network.

    Images float32 [N,3,H,W], RGB, (value / 255 - mean) / std -> logits [N,K,H/stride,W/stride].
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits."""
        return self.network._forward(image)


def export_segmenter(network: Any, path: Path, crop: int, taxonomy: Taxonomy = CITYSCAPES19) -> float:
    """Write ``path`` and ``path.with_suffix(".yaml")``, and compare the file with ``network`` in eval mode.

    Height and width are free (multiples of 32, or of the patch of a ViT), except for HRDA, whose detail crop slides
    over the image, and Swin, whose windows are traced: their size is fixed to ``crop``, the training crop. Returns the
    relative L2 error of the logits. Raises what :func:`dgkit.segmenters.onnx_writer.write_segmenter` raises.
    """
    return write_segmenter(
        SegmenterLogits(network),
        path,
        classes=taxonomy.names,
        mean=_shares(network.data_preprocessor.mean),
        std=_shares(network.data_preprocessor.std),
        side=crop,
        fixed=isinstance(network, HRDASegmentor) or getattr(network.backbone, "kind", None) == "swin",
        taxonomy=taxonomy,
        multiple=getattr(network.backbone, "patch", MULTIPLE),
        values=SCORES if isinstance(network.decode_head, QueryHead) else LOGITS,
    )


def _shares(values: Tensor) -> list[float]:
    """Return values of channels in 0..255 as shares of 255; the config has at most three decimals."""
    return [round(float(value), 3) / 255 for value in values.flatten()]


def load_checkpoint(network: nn.Module, path: Path) -> None:
    """Load the weights of a checkpoint of ``dgkit train segmenter`` into ``network``.

    Raises ModelError if they do not fit or are not finite.
    """
    state = read_checkpoint(path)["state_dict"]
    check_finite(state, str(path), "delete it and run the training again")
    try:
        network.load_state_dict(state)
    except RuntimeError as error:  # other names or shapes
        raise ModelError(
            f"{path} is not a checkpoint of this network: {first_line(error)}", "choose another file"
        ) from error
