"""The Gradio page: controls, and what happens when they are used."""

import functools
import os
from collections.abc import Collection, Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from dgkit.app import markup
from dgkit.app.drawing import pack_label, unpack_label
from dgkit.app.picking import THUMBNAILS, MapSource
from dgkit.app.repeat import SCENES_NOTE, SOURCE_NOTE, command_line, source_command
from dgkit.app.studio import Stopped, Studio, TriedScene, choices
from dgkit.app.uploads import MAX_UPLOAD, read_upload
from dgkit.data.colour_maps import COLOURS
from dgkit.data.datasets import label_arrays
from dgkit.data.labelmap import colorize
from dgkit.data.samples import Sample
from dgkit.diffusion.presets import PRESETS
from dgkit.errors import DgkitError
from dgkit.labels import ENCODINGS
from dgkit.optional import require
from dgkit.progress import Advance
from dgkit.styles import NO_STYLE, STYLE_SETS

WAITING = 8  # events in the queue; later ones are refused
FONTS = ("system-ui", "sans-serif")  # of the machine: nothing is downloaded
_MAP_CLICKS = """element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-map]");
  if (button) trigger("click", { map: +button.dataset.map });
});"""
SELECTED = {"published": ["snowy", "night"], "driving": ["dusk", "heavy-rain"]}  # styles of a set
MODEL = "model"  # name under which Gradio limits the events that use the model: one at a time


def load_gradio(temporary: Path) -> Any:
    """Import Gradio without its telemetry, with ``temporary`` as its folder. Raises MissingDependency."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", GRADIO_TEMP_DIR=str(temporary))
    return require("gradio", "app")


class Page:
    """What the events of the page do; ``temporary`` keeps uploads of this session."""

    def __init__(self, studio: Studio, maps: MapSource, flags: Collection[str], temporary: Path) -> None:
        self.studio, self.maps, self.flags, self.temporary = studio, maps, flags, temporary

    def browse(self, start: int, step: int) -> tuple[int, str]:
        """Return the start of the label maps ``step`` pages further, and their buttons."""
        total = len(self.maps.dataset.samples)
        start = start + step * THUMBNAILS
        start = 0 if start >= total else start if start >= 0 else (total - 1) // THUMBNAILS * THUMBNAILS
        return start, markup.map_buttons(self.maps.thumbnails(start), start, total)

    def pick(self, number: object) -> tuple[Sample, int, str, str]:
        """Return sample, window number, packed window and note of the label map ``number``."""
        samples = self.maps.dataset.samples
        sample = samples[number if isinstance(number, int) and 0 <= number < len(samples) else 0]
        return self.window(sample, 0)

    def window(self, sample: Sample, number: int, note: str = "") -> tuple[Sample, int, str, str]:
        """Return the same for window ``number`` of a sample; an error is the note."""
        try:
            text = pack_label(self.maps.window(sample, number))
        except DgkitError as error:
            return sample, number, "", markup.problem(error)
        return sample, number, text, markup.note(f"{sample.id}, window {number + 1}. {note}".strip())

    def upload(self, name: object, data: object, encoding: str) -> tuple[Sample | None, int, str, str]:
        """Return the same for an uploaded file."""
        try:
            label, note = read_upload(self.temporary, name, data, encoding)
        except DgkitError as error:
            return None, 0, "", markup.problem(error)
        return self.window(replace(label_arrays([label]).samples[0], id="uploaded map"), 0, note)

    def make(
        self, drawing: object, styles: list[str], own: str, presets: list[str], guidances: str, seeds: str,
        progress: Advance,
    ) -> Iterator[tuple[str, str, str]]:  # fmt: skip
        """Yield cards, command lines and status before and after each scene; an error is the status."""
        made: list[TriedScene] = []
        cards = ""
        try:
            label, wanted = unpack_label(drawing), choices(styles, own, presets, guidances, seeds)
            colours = colorize(label)
            self.studio.start()
            for number, choice in enumerate(wanted, 1):
                cards = markup.scene_cards(wanted, made, colours)
                yield cards, self._commands(made), markup.note(f"Scene {number} of {len(wanted)}")
                made.append(self.studio.make(label, choice, progress))
            yield markup.scene_cards(wanted, made, colours), self._commands(made), ""
        except Stopped:
            cards = markup.scene_cards(wanted[: len(made)], made, colours) if made else ""
            yield cards, self._commands(made), markup.note("Stopped")
        except DgkitError as error:
            yield cards, self._commands(made), markup.problem(error)

    def _commands(self, made: list[TriedScene]) -> str:
        if not made:
            return ""
        lines = [command_line(scene.choice.name, scene.config, self.flags) for scene in made]
        whole = source_command(self.studio.base, [scene.config for scene in made], self.flags)
        return "\n".join([SCENES_NOTE, *lines, "", SOURCE_NOTE, whole])


def build(page: Page, gradio: Any) -> Any:
    """Return the page as Gradio blocks; its look is :func:`style`."""
    with gradio.Blocks(title="dgkit", analytics_enabled=False) as blocks:
        gradio.Markdown("## dgkit: labelled street scenes")
        with gradio.Row(elem_classes="dg-columns"):
            with gradio.Column():
                picked = _label_side(page, gradio)
            with gradio.Column():
                controls = _settings_side(page, gradio)
                buttons = _buttons(gradio)
                status = gradio.HTML(elem_classes="dg-status")
                gradio.HTML(markup.OVERLAY_SLIDER)
                cards = gradio.HTML()
                commands = gradio.Textbox(
                    label="Repeat on the command line", lines=4, max_lines=40, interactive=False, buttons=["copy"],
                    elem_classes="dg-commands",
                )  # fmt: skip

        def make(*values: Any, progress: Any = gradio.Progress()) -> Iterator[tuple[str, str, str]]:  # noqa: B008
            drawing, styles, own, presets, guidances, seeds = values
            yield from page.make(
                drawing, styles, own, presets, guidances, seeds,
                lambda done, total: progress((done, total), unit="evaluations"),
            )  # fmt: skip

        buttons[0].click(
            make, [picked, *controls], [cards, commands, status],
            # What is drawn is read when the button is pressed, not sent after every stroke.
            js="(...values) => [window.dgkitDrawing(), ...values.slice(1)]",
            concurrency_id=MODEL, concurrency_limit=1, show_progress_on=status, api_visibility="private",
        )  # fmt: skip
        buttons[1].click(page.studio.stop, queue=False, api_visibility="private")
    blocks.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)
    return blocks


def _label_side(page: Page, gradio: Any) -> Any:
    """Add the label maps and the canvas; return the component that holds the packed label map."""
    start, sample, number = gradio.State(0), gradio.State(None), gradio.State(0)
    gradio.Markdown("### Label map")
    maps = gradio.HTML(page.browse(0, 0)[1], js_on_load=_MAP_CLICKS)
    with gradio.Row():
        several = len(page.maps.dataset.samples) > THUMBNAILS
        back, more = (gradio.Button(text, size="sm", visible=several) for text in ("Previous", "Next"))
        another = gradio.Button("Another window of this map", size="sm")
    note = gradio.HTML()
    canvas = gradio.HTML(
        html_template=_asset("canvas.html").replace("CLASS_BUTTONS", markup.class_buttons()),
        js_on_load=_asset("canvas.js").replace("UPLOAD_BYTES", str(MAX_UPLOAD)),
        apply_default_css=False,
    )
    encoding = gradio.Dropdown(
        _encodings(page.studio.base.encoding),
        value=page.studio.base.encoding or "train_ids",
        label="Ids of uploaded files",
    )
    outputs = [sample, number, canvas, note]
    quiet = {"show_progress": "hidden", "api_visibility": "private"}

    def pick(event: gradio.EventData) -> tuple[Any, ...]:
        return page.pick(_sent(event, "map"))

    def upload(chosen: str, event: gradio.EventData) -> tuple[Any, ...]:
        return page.upload(_sent(event, "name"), _sent(event, "data"), chosen)

    def other(current: Sample | None, shown: int) -> tuple[Any, ...]:
        return page.window(current, shown + 1) if current else page.pick(0)

    maps.click(pick, None, outputs, **quiet)
    canvas.upload(upload, encoding, outputs, **quiet)
    another.click(other, [sample, number], outputs, **quiet)
    for button, step in ((back, -1), (more, 1)):
        button.click(functools.partial(page.browse, step=step), start, [start, maps], **quiet)
    gradio.context.Context.root_block.load(lambda: page.pick(0), None, outputs, **quiet)
    return canvas


def _sent(event: Any, name: str) -> Any:
    """Return a value that the browser sent with an event, None if it sent something else."""
    try:
        return getattr(event, name)
    except (AttributeError, TypeError):
        return None


def _encodings(own: str | None) -> list[tuple[str, str]]:
    """Return text and name of the id systems of uploads, with that of the command line if it is none of dgkit's."""
    known = {e.name: e.description for e in ENCODINGS.values()} | {COLOURS: "Pictures in the Cityscapes colours"}
    return [(text, name) for name, text in ({own: own} | known if own else known).items()]


def _settings_side(page: Page, gradio: Any) -> list[Any]:
    """Add the settings of the scenes; return their components in the order of :meth:`Page.make`."""
    base = page.studio.base
    guidance = "" if base.guidance_scale is None else f"{base.guidance_scale:g}"
    presets = list(dict.fromkeys([*PRESETS, base.preset]))
    gradio.Markdown("### Scenes")
    sets = gradio.Radio(list(STYLE_SETS), value="published", label="Style set")
    styles = gradio.CheckboxGroup(**_styles_of("published"), label="Styles")
    sets.change(lambda name: gradio.CheckboxGroup(**_styles_of(name)), sets, styles, show_progress="hidden",
                api_visibility="private")  # fmt: skip
    return [
        styles,
        gradio.Textbox(label="Own styles", info="One a line, such as dusk=at dusk, long shadows", lines=2),
        gradio.CheckboxGroup(presets, value=[base.preset], label="Presets"),
        gradio.Textbox(guidance, label="Guidance scales", info="Separated by commas; empty: that of preset or model"),
        gradio.Textbox(str(base.seed), label="Seeds", info="Separated by commas"),
    ]


def _styles_of(name: str) -> dict[str, Any]:
    """Return the styles of a set, and those of them that are selected at first."""
    return {"choices": [*(style.name for style in STYLE_SETS[name]), NO_STYLE], "value": SELECTED[name]}


def _buttons(gradio: Any) -> tuple[Any, Any]:
    with gradio.Row():
        return gradio.Button("Generate", variant="primary", elem_id="dg-generate"), gradio.Button("Stop")


def style(gradio: Any) -> dict[str, Any]:
    """Return the look of the page, as arguments of ``gradio.mount_gradio_app``."""
    fonts = [gradio.themes.Font(name) for name in FONTS]
    theme = gradio.themes.Default(font=fonts, font_mono=[gradio.themes.Font("monospace")])
    return {"theme": theme, "css": _asset("style.css")}


def _asset(name: str) -> str:
    return resources.files("dgkit.app").joinpath(name).read_text(encoding="utf-8")
