"""The training sets that generalisation.py compares."""

from dataclasses import dataclass

BASELINE, FULL, RENDERS = "colour", "full", "renders"


@dataclass(frozen=True)
class Arm:
    """A training set.

    ``generated``: options of ``dgkit generate`` for its set, None for the source alone. ``filtered``: its labels
    without the pixels that a baseline segmenter doubts. ``own_filter``: the filtered labels that ``dgkit generate``
    wrote itself. ``rendered``: its scenes are rendered by the city instead. ``folder``: the arm whose set it uses.
    ``times``: size of the set relative to that of the others. ``share``: of generated
    images among the samples. ``extra``: only trained if named in ``--arms``.
    """

    text: str
    generated: tuple[str, ...] | None = None
    colour: bool = True
    unswapped: bool = False
    filtered: bool = False
    own_filter: bool = False
    rendered: bool = False
    folder: str = ""
    times: int = 1
    share: float = 0.5
    extra: bool = False

    @property
    def made(self) -> bool:
        """Return whether ``dgkit generate`` makes a set for it."""
        return self.generated is not None and not self.folder and not self.rendered


BALANCED = ("--balance-classes", "--balance-styles")
ARMS = {
    "source": Arm("source alone", colour=False),
    BASELINE: Arm("source, colours disturbed"),
    "no-swap": Arm("generated without style swap", (), unswapped=True),
    "no-style": Arm("generated without style prompts", ("--style-mix", "none")),
    "no-fusion": Arm("generated in one pass", ("--preset", "one-pass")),
    "no-rare": Arm("generated without rare class generation", ("--no-rare",)),
    FULL: Arm("generated", ()),
    "quarter": Arm("generated, a quarter of the samples", (), share=0.25, folder=FULL, extra=True),
    "fast": Arm("generated, preset fast", ("--preset", "fast")),
    "turbo": Arm("generated, preset turbo", ("--preset", "turbo")),
    "exact": Arm("generated, preset exact", ("--preset", "exact"), extra=True),
    "official": Arm("generated, preset official", ("--preset", "official"), extra=True),
    "filter": Arm("generated, doubtful pixels ignored", (), filtered=True, folder=FULL),
    "boundary": Arm("generated, two pixels along borders ignored", ("--boundary", "2"), own_filter=True, extra=True),
    "balance": Arm("generated, classes and styles balanced", BALANCED, extra=True),
    "balance-filter": Arm("balanced, doubtful pixels ignored", (), filtered=True, folder="balance", extra=True),
    "many": Arm("balanced, three times as many", BALANCED, times=3, extra=True),
    RENDERS: Arm("the same scenes and styles, rendered", (), rendered=True),
}
