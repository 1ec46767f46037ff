"""Label maps as text, as page and server exchange them."""

import base64

import numpy as np
import pytest

from dgkit.app.drawing import pack_label, unpack_label
from dgkit.errors import LabelError
from tests.scenes import make_label


def test_a_label_map_returns_as_it_was() -> None:
    label = make_label(1)
    assert np.array_equal(unpack_label(pack_label(label)), label)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "no label map"),
        ("", "no label map"),
        ({"path": "/etc/passwd"}, "no label map"),
        ("2x2:" + base64.b64encode(bytes(3)).decode(), "3 pixels"),
        ("0x0:AA==", "1 pixels"),
        ("99999x99999:AA==", "1 pixels"),
        ("1x1:A", "damaged"),
        ("1x1:" + base64.b64encode(b"\x63").decode(), "unknown ids 99"),
    ],
)
def test_other_texts_are_refused(text: object, reason: str) -> None:
    with pytest.raises(LabelError, match=reason):
        unpack_label(text)
