"""An ONNX file that recognises the style of an image."""

from pathlib import Path

import numpy as np

from dgkit.data.pictures import centre_square
from dgkit.errors import InputError, one_line
from dgkit.prompts import STYLE_NAMES
from dgkit.resources import usable_cores
from dgkit.segmenters.base import not_finite
from dgkit.segmenters.onnx_session import open_session
from dgkit.segmenters.segmenter_sidecar import read_segmenter_sidecar, sidecar_path
from dgkit.texts import count_of

DEFAULT_SIZE = 128  # pixels, where neither the file nor its side-car states one


class StyleClassifier:
    """A network with logits [N,styles]; its side-car names the styles under ``classes``."""

    def __init__(self, path: Path | str) -> None:
        """Open the file at ``path``.

        Raises InputError for a missing file or a bad side-car, EngineError for a file that cannot be opened.
        """
        self.path = Path(path)
        self.sidecar = read_segmenter_sidecar(self.path)
        self.styles = self.sidecar.classes or STYLE_NAMES
        unknown = [name for name in self.styles if name not in STYLE_NAMES]
        if unknown:
            raise InputError(
                f"{sidecar_path(self.path)} names unknown styles: {one_line(', '.join(unknown))}. Known styles: "
                f"{', '.join(STYLE_NAMES)}",
                f"correct 'classes' in {sidecar_path(self.path)}",
            )
        self._session = open_session(self.path, "ort", "auto", threads=len(usable_cores()), tf32=True)
        height, width = self._session.shape[2:]
        self._side = height if height and width else self.sidecar.size or DEFAULT_SIZE
        self.digest = self._session.digest

    def predict(self, image: np.ndarray, name: str = "the image") -> str:
        """Return the style of ``image``, uint8 [H,W,3] RGB; only its centre square is used. ``name`` is for messages.

        Raises EngineError or InputError.
        """
        square = self.sidecar.normalize(centre_square(image, self._side))
        output = self._session.outputs[0].name
        logits = self._session.run(square, [output])[0][0].ravel()
        if len(logits) != len(self.styles):
            raise InputError(
                f"{self.path} has {count_of(len(logits), 'output')} but names {count_of(len(self.styles), 'style')}",
                f"name every style under 'classes' in {sidecar_path(self.path)}",
            )
        if not np.isfinite(logits).all():
            raise not_finite(self.path, output, name)
        return self.styles[int(logits.argmax())]
