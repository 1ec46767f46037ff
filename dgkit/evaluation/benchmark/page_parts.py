"""What the pages of ``dgkit eval`` share: the document, the legend of the classes, and images inside the page."""

import base64
import html
import io
from collections.abc import Iterable

from PIL import Image

from dgkit.taxonomies import Taxonomy

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 24px; max-width: 1900px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: 3px 9px; text-align: right; border-bottom: 1px solid #8884; }
td:first-child, th:first-child { text-align: left; }
.scroll { overflow-x: auto; }
.strip { display: flex; gap: 4px; overflow-x: auto; }
.legend span { display: inline-block; margin-right: 12px; white-space: nowrap; }
.legend i { display: inline-block; width: 12px; height: 12px; margin-right: 4px; border: 1px solid #888; }
figure { margin: 14px 0; }
"""


def document(title: str, parts: Iterable[str], style: str = STYLE) -> str:
    """Return an HTML page of ``parts``."""
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{style}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def legend(taxonomy: Taxonomy) -> str:
    """Return the colours and names of the classes, and of ignored pixels."""
    colours = [*(tuple(row) for row in taxonomy.palette.tolist()), (0, 0, 0)]
    spans = (
        f'<span><i style="background:rgb{colour}"></i>{name}</span>'
        for name, colour in zip((*taxonomy.names, "ignored"), colours, strict=True)
    )
    return f'<p class="legend">{"".join(spans)}</p>'


def picture_tag(picture: Image.Image, kind: str) -> str:
    """Return a picture as an image with its data; ``kind`` is "PNG" or "JPEG"."""
    stream = io.BytesIO()
    picture.save(stream, kind)
    return image_tag(stream.getvalue(), kind.lower())


def image_tag(data: bytes, kind: str) -> str:
    """Return an image with its data; ``kind`` is "png" or "jpeg"."""
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
