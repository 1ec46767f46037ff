"""Does generated data help a frozen foundation encoder? Networks trained with and without it, on unseen sets.

    python benchmarks/studies/foundation.py WORK --also camvid=DIR
    python benchmarks/studies/foundation.py WORK --model M --source gta=DIR --on cityscapes=DIR --on bdd=DIR \\
        --on mapillary=DIR --on acdc=DIR --on darkzurich=DIR --generated 6000 --protocols half,dginstyle \\
        --network rein-s=training/segmenter/rein_dinov2_small.py \\
        --network rein-l=training/segmenter/rein_dinov2_large.py \\
        --network daformer="training/segmenter/daformer_mitb5.py pretrained=nvidia/mit-b5"

Each network is trained on the source alone, with colour augmentation, with generated images as a quarter and as a half
of the samples, and with filtered labels; sets, options and resuming are those of generalisation.py. All networks share
the scenes and the filter, whose teacher is the first network trained with colour augmentation. Without --network,
EfficientNet-Lite0 is fine-tuned, frozen, and frozen with Rein (foundation.yaml), which a CPU can train. Writes
benchmarks/results/foundation.csv (one line per network, arm, seed, protocol and set) and prints the table.
"""

import argparse
import copy
import dataclasses
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from foundation_table import answer, table
from generalisation import Study, Training, make_parser, parse
from generalisation_arms import ARMS, BASELINE, FULL
from records import Row, write_rows

LITE = str(Path(__file__).with_suffix(".yaml"))
NETWORKS = {
    "lite0": f"{LITE} freeze=norms",
    "lite0-frozen": f"{LITE} freeze=true",
    "lite0-rein": f"{LITE} freeze=true rein={{}}",
}
WANTED = ("source", BASELINE, "quarter", FULL, "filter")
WHOLE = "whole"


class NetworkStudy(Study):
    """The study of one network under one protocol; ``teacher`` is the network that filters labels."""

    def __init__(self, given: argparse.Namespace, network: str, protocol: str, teacher: str) -> None:
        recipe, *sets = shlex.split(given.networks[network])
        own = copy.copy(given)
        own.recipe, own.set = Path(recipe), [*sets, *given.set]
        if protocol != WHOLE:
            own.protocol = {"protocol": protocol}
        super().__init__(own)
        self.network, self.protocol, self.teacher = network, protocol, teacher

    def training(self, name: str, seed: int, source: str = "gta=", on: tuple[str, ...] = ()) -> Training:
        """Return the training in a folder of the network, with its result under the protocol."""
        made = super().training(name, seed, source, on)
        # Recipes name a generated and a validation set of their own.
        free = () if ARMS[name].generated is not None else ("data.generated=[]", "data.share=0")
        out = self.work / "runs" / self.network / made.out.name
        return dataclasses.replace(made, out=out, sets=(*made.sets, "data.val=null", *free), label=self.protocol)

    def filter(self, name: str) -> None:
        """Write the filtered labels with the teacher, unless this network is another."""
        if self.network == self.teacher:
            super().filter(name)

    def rows(self, name: str, seed: int) -> Iterator[Row]:
        """Yield the rows of a training, with network and protocol."""
        for row in super().rows(name, seed):
            yield {"network": self.network, "protocol": self.protocol, **row}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--network", action="append", default=[], metavar='NAME="RECIPE KEY=VALUE ..."',
        help=f"network to train; default: {', '.join(NETWORKS)}",
    )  # fmt: skip
    parser.add_argument("--protocols", type=lambda text: text.split(","), help="protocols of dgkit eval for --on")
    parser.set_defaults(arms=list(WANTED), preset="fast", seeds=1)
    given: Any = parse(parser)
    given.networks = dict(text.split("=", 1) for text in given.network) or NETWORKS
    protocols = given.protocols or (["half", "dginstyle"] if given.on else [WHOLE])
    teacher = next(iter(given.networks))
    studies = [NetworkStudy(given, name, one, teacher) for name in given.networks for one in protocols]
    rows: list[Row] = []
    try:
        for study in studies:
            rows += study.results() if given.report else study.run()
    except KeyboardInterrupt:
        sys.exit("stopped; run the same command to resume")
    if not rows:
        sys.exit(f"{given.work} holds no results yet")
    write_rows(given.results / "foundation.csv", rows)
    print(f"{table(rows)}\n\n{answer(rows)}")


if __name__ == "__main__":
    main()
