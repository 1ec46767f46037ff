"""HTML of the page's changing parts. Texts from files and errors are escaped; pictures are data URLs."""

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from dgkit.app.studio import Choice, TriedScene
from dgkit.errors import DgkitError
from dgkit.labels import CLASSES, IGNORE, PALETTE

OVERLAY_SLIDER = (
    '<label class="dg-slider">Label overlay<input type="range" id="dg-overlay" min="0" max="100" value="0" '
    "oninput=\"document.body.style.setProperty('--overlay', this.value / 100)\"></label>"
)


def class_buttons() -> str:
    """Return a radio button per class, and one for ignore, in their colours."""
    classes = [*((i, name, PALETTE[i]) for i, name in enumerate(CLASSES)), (IGNORE, "ignore", (0, 0, 0))]
    return "".join(
        f'<label class="dg-class"><input type="radio" name="dg-class" value="{i}"{" checked" if i == 13 else ""}>'
        f'<i style="background:rgb({red},{green},{blue})"></i>{name}</label>'
        for i, name, (red, green, blue) in classes
    )


def map_buttons(thumbnails: Sequence[tuple[str, np.ndarray | str]], start: int, total: int) -> str:
    """Return a button per label map, and which of ``total`` these are; ``data-map`` is the number of the map."""
    buttons = []
    for number, (name, picture) in enumerate(thumbnails, start):
        if isinstance(picture, str):
            buttons.append(f'<span class="dg-map" title="{escape(picture)}">{escape(name)}: not readable</span>')
        else:
            buttons.append(
                f'<button class="dg-map" data-map="{number}" title="{escape(name)}">'
                f'<img src="{data_url(picture)}" alt="label map {escape(name)}"></button>'
            )
    range_text = f"{start + 1} to {start + len(thumbnails)} of {total}"
    return f'<div class="dg-maps">{"".join(buttons)}</div><p class="dg-note">Label maps {range_text}</p>'


def scene_cards(choices: Sequence[Choice], scenes: Sequence[TriedScene], colours: np.ndarray) -> str:
    """Return a card per choice, those not made yet as placeholders, with the label map as an overlay.

    ``colours``: the coloured label map, uint8 [H, W, 3].
    """
    label = data_url(colours)
    ratio = f"aspect-ratio:{colours.shape[1]}/{colours.shape[0]}"
    cards = [_card(scene, label, ratio) for scene in scenes]
    for choice in choices[len(scenes) :]:
        cards.append(f'<figure class="dg-card"><div class="dg-frame dg-wait" style="{ratio}"></div>{_title(choice)}')
        cards[-1] += "</figure>"
    return f'<div class="dg-grid">{"".join(cards)}</div>'


def _card(scene: TriedScene, label: str, ratio: str) -> str:
    picture = data_url(scene.image)
    facts = [f"{scene.seconds:.1f} s"]
    if scene.agreement is not None:
        facts.append(f"{scene.agreement:.1%} of the pixels agree with their labels")
    return (
        f'<figure class="dg-card"><div class="dg-frame" style="{ratio}">'
        f'<img src="{picture}" alt="{escape(scene.prompt)}"><img class="dg-label" src="{label}" alt=""></div>'
        f'{_title(scene.choice)}<p class="dg-note">{", ".join(facts)} · <a href="{picture}" '
        f'download="{escape(scene.choice.name)}.png">PNG</a></p>'
        f'<p class="dg-note">{escape(scene.prompt)}</p>{"".join(map(note, scene.notes))}</figure>'
    )


def _title(choice: Choice) -> str:
    guidance = "" if choice.guidance is None else f", guidance {choice.guidance:g}"
    text = f"{escape(choice.preset)}{guidance}, seed {choice.seed}"
    return f"<figcaption><b>{escape(choice.style)}</b> {text}</figcaption>"


def note(text: str) -> str:
    """Return a line of text, empty for an empty one."""
    return f'<p class="dg-note" role="status">{escape(text)}</p>' if text else ""


def problem(error: DgkitError) -> str:
    """Return message and hint of an error."""
    hint = f"<br>{escape(error.hint)}" if error.hint else ""
    return f'<p class="dg-problem" role="alert">{escape(error.message)}{hint}</p>'


def data_url(image: np.ndarray) -> str:
    """Return uint8 [H, W, 3] RGB as the data URL of a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
