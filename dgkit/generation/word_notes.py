"""Lines about words that will not do what the user expects: unknown to the model, or without guidance."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dgkit.diffusion.known_words import unknown_words
from dgkit.generation.jobs import JobPlan
from dgkit.styles import NO_STYLE, PUBLISHED
from dgkit.texts import count_of
from dgkit.wording import PLACE, TEMPLATE

if TYPE_CHECKING:
    from dgkit.diffusion.pipeline import Pipeline

SHOWN = 3  # styles that a line spells out


def word_notes(plan: JobPlan, pipeline: "Pipeline", scale: float | None) -> Iterator[str]:
    """Yield a warning about words that the model was not trained on, and one about negative prompts without effect.

    ``scale`` is the guidance scale of styles without their own.
    """
    tokenizer, model = pipeline.tokenizer, pipeline.info.name
    styles = [plan.mix.style(name) for name in _used(plan)]
    unknown = {style.name: unknown_words(tokenizer, style.clause) for style in styles}
    own = [] if plan.wording.template == TEMPLATE else [PLACE.sub("", plan.wording.template)]
    unknown["template and class words"] = unknown_words(tokenizer, " ".join([*own, *plan.wording.words.values()]))
    found = [f"{name} ({', '.join(words)})" for name, words in unknown.items() if words]
    if found:
        known = [style.name for style in PUBLISHED if not unknown_words(tokenizer, style.clause)]
        more = f" and {count_of(len(found) - SHOWN, 'more style')}" if len(found) > SHOWN else ""
        yield (
            f"warning: the model {model} was trained on the styles {', '.join(known) or 'none'}; it does not know "
            f"these words: {', '.join(found[:SHOWN])}{more}"
        )
    steered = [style for style in styles if plan.negative(style)]
    if any((scale if style.guidance_scale is None else style.guidance_scale) == 1.0 for style in steered):
        yield "warning: a negative prompt has no effect at guidance scale 1; use for example --set guidance_scale=3"


def _used(plan: JobPlan) -> tuple[str, ...]:
    """Return the names of the styles that jobs may have."""
    if plan.rows is None:
        return plan.mix.used
    stated = [row.style or NO_STYLE for row in plan.rows if row.style or row.prompt]
    drawn = plan.mix.used if len(stated) < len(plan.rows) else ()
    return tuple(dict.fromkeys([*stated, *drawn]))
