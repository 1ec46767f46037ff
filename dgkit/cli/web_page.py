"""``dgkit app``: a page to try label maps and settings in the browser."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dgkit.cli.common import interruptible, progress_bars, say
from dgkit.cli.generate import PANELS as GENERATE_PANELS
from dgkit.cli.options import option, options_of

if TYPE_CHECKING:
    from dgkit.app.page import Page
    from dgkit.generation.generate_config import GenerateConfig

PANELS = {
    "Label maps": "labels dataset world encoding split label_scale",
    "Model": "model controlnet engine dtype device engine_recipe cuda_graph rebuild",
    "Scenes": "preset size seed judge batch",
    "Page": "host port maps",
}
GENERATE_FLAGS = frozenset(" ".join(GENERATE_PANELS.values()).split())
STAGES = {"index": ("Drawing the city", "scenes")}


@options_of("dgkit.generation.generate_config:GenerateConfig", PANELS)
def web_page(
    flags: dict[str, Any],
    preset: Annotated[str, option("P", "Sampler preset that is selected at first")] = "fast",
    host: Annotated[
        str, option("HOST", "Address to listen on; others than 127.0.0.1 are reached from outside")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0: any free one")] = 7860,
    maps: Annotated[Path, option("DIR", "Folder to keep the label maps that scenes are made of")] = Path("dgkit-app"),
) -> None:
    """Open a page to try label maps, styles and settings in the browser.

    Pick, upload or draw a label map, compare scenes side by side, and copy the dgkit generate command that repeats
    them.
    """
    from dgkit.app.page import load_gradio
    from dgkit.app.serving import application, bind, is_local, serve
    from dgkit.config import load_config
    from dgkit.generation.generate_config import GenerateConfig

    config = load_config(GenerateConfig, preset=preset, **flags)
    with contextlib.ExitStack() as stack:
        folder = tempfile.TemporaryDirectory(prefix="dgkit-app-", ignore_cleanup_errors=True)
        temporary = Path(stack.enter_context(folder))
        gradio = load_gradio(temporary)
        listening = stack.enter_context(bind(host, port))
        if not is_local(host):
            say(f"warning: everyone who reaches {host} can use this page: it has no password and no encryption")
        stack.enter_context(interruptible(f"the label maps of the scenes are in {maps}; to open the page again"))
        page = _open(config, maps, temporary, stack)
        app = application(page, gradio, is_local(host))
        name = f"[{host}]" if ":" in host else host
        say(f"Open http://{name}:{listening.getsockname()[1]} in a browser; Ctrl-C ends")
        serve(app, listening)


def _open(config: GenerateConfig, maps: Path, temporary: Path, stack: contextlib.ExitStack) -> Page:
    """Return the page with its model loaded until ``stack`` ends."""
    from dgkit.app.page import Page
    from dgkit.app.picking import open_maps
    from dgkit.app.studio import Studio
    from dgkit.diffusion.loading import load_pipeline, open_model
    from dgkit.files import user_path
    from dgkit.generation.defaults import for_single_scenes
    from dgkit.generation.settings import chosen_engines, chosen_preset, resolve_paths
    from dgkit.progress import within
    from dgkit.taxonomies import CITYSCAPES19, mixed

    chosen_preset(config)  # an unknown preset fails before the model is loaded
    model = open_model(config.model, config.controlnet, config.lora)
    if not model.info.taxonomy.is_default:  # of which the page has the colours and names
        raise mixed(CITYSCAPES19, model.info.taxonomy, f"the model {model.info.name}")
    config = for_single_scenes(config, model.info)
    absolute = resolve_paths(config).model_copy(update={"world": config.world, "engine_recipe": _recipe(config)})
    pipeline = load_pipeline(model, recipe=chosen_engines(config), rebuild=config.rebuild, notify=say)
    size = config.size or (pipeline.size, pipeline.size)
    pipeline.check_size(*size)
    with progress_bars(STAGES) as progress:
        source = open_maps(config, size, pipeline.defaults.label_height, within(progress, "index"))
    stack.enter_context(pipeline)
    studio = Studio(absolute, pipeline, user_path(maps).absolute())
    stack.callback(studio.close)
    return Page(studio, source, GENERATE_FLAGS, temporary)


def _recipe(config: GenerateConfig) -> Any:
    """Return the engine recipe as a file, for command lines, and not as its content."""
    from dgkit.files import user_path

    recipe = config.engine_recipe
    return user_path(recipe).absolute() if isinstance(recipe, Path) else recipe
