"""``dgkit swap``: join a prior pipeline and a ControlNet trained on another UNet."""

from __future__ import annotations

from typing import Annotated

import typer

from dgkit.cli.common import print_json, say
from dgkit.cli.options import Json, Loras, option


def swap(
    prior: Annotated[str, typer.Argument(metavar="PRIOR", help="Pipeline folder or hub id (owner/name)")],
    controlnet: Annotated[
        str,
        typer.Argument(metavar="CONTROLNET", help="ControlNet folder or hub id (owner/name or owner/name/subfolder)"),
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="New model folder, for dgkit and diffusers")],
    taxonomy: Annotated[
        str | None, option("T", "Classes of a ControlNet that states none: camvid11 or FILE.yaml")
    ] = None,
    lora: Loras = None,
    as_json: Json = False,
) -> None:
    """Join a prior and a ControlNet in one model folder, checking every key and shape both ways.

    The published pair: dgkit swap stable-diffusion-v1-5/stable-diffusion-v1-5 yurujaja/DGInStyle/ControlNet_UNet-S OUT
    """
    from dataclasses import asdict

    from dgkit.diffusion.style_swap import swap as join
    from dgkit.taxonomies import find_taxonomy

    report = join(prior, controlnet, out, None if taxonomy is None else find_taxonomy(taxonomy), lora or ())
    if as_json:
        facts = asdict(report)
        print_json({key: value if isinstance(value, (int, dict)) else str(value) for key, value in facts.items()})
        return
    weights = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in report.parameters.items())
    say(f"{report.out}: {'already there' if report.existed else 'written'}")
    say(f"weights: {weights}; {report.residuals} residuals fit; images of {report.size} px")
    say(f"next: dgkit generate scenes --model {report.out}")
