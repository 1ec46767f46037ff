"""Cells of presets.py and preset_cost.py, each a name and the settings of a sampler preset."""

from argparse import ArgumentParser, Namespace
from typing import Any

from dgkit.diffusion.presets import PRESETS

SINGLE = {
    "late start 0.75": "second_start=0.75", "late start 0.5": "second_start=0.5",
    "late start 0.35": "second_start=0.35", "late start 0.2": "second_start=0.2",
    "10 steps": "steps=10", "2M 12 steps": "steps=12,solver=dpm++2m",
    "2M 10 steps": "steps=10,solver=dpm++2m", "2M 8 steps": "steps=8,solver=dpm++2m",
    "2M 6 steps": "steps=6,solver=dpm++2m", "stride 1/2": "stride=0.5",
    "stride 1/2 smooth": "stride=0.5,weights=smooth",
    "stride 1": "stride=1", "cover": "windows=cover", "cover smooth": "windows=cover,weights=smooth",
    "guided above 0.5": "guidance_low=0.5", "guided 0.5 to 0.95": "guidance_low=0.5,guidance_high=0.95",
    "not guided": "guidance_scale=1", "latent bridge": "bridge=latent", "half area": "large_area=15000",
    "fixed noise": "fuse_noise=fixed",
}  # fmt: skip
_TOGETHER = "solver=dpm++2m,windows=cover,weights=smooth"
TOGETHER = {  # from which the settings of fast and turbo were chosen: steps, start of the second pass, guidance
    **{
        f"{steps} from {start}{name}": f"steps={steps},second_start={start},{_TOGETHER}{guidance}"
        for steps in (6, 8, 10, 12)
        for start in (0.34, 0.5, 0.7)
        for name, guidance in (("", ""), (" not guided", ",guidance_scale=1"))
    },
    **{
        f"10 from 0.5 {name}": f"steps=10,second_start=0.5,{_TOGETHER},{setting}"
        for name, setting in (
            ("fixed noise", "fuse_noise=fixed"), ("latent bridge", "bridge=latent"),
            ("guided above 0.5", "guidance_low=0.5"), ("small area", "large_area=8000"),
            ("all", "large_area=1000000"), ("ddim", "solver=ddim"),
        )
    },
    **{f"one pass {steps}": f"two_pass=false,steps={steps},solver=dpm++2m" for steps in (6, 8, 10, 12)},
}  # fmt: skip
CELLS = {
    **{name: name for name in ("official", "exact", "one-pass", "fast", "turbo")},
    **{name: f"exact:{settings}" for name, settings in {**SINGLE, **TOGETHER}.items()},
}
SETTINGS = {  # by which fast differs from exact: name -> fields of the preset
    "solver and steps": ("solver", "steps"),
    "late start": ("second_start",),
    "guidance interval": ("guidance_low", "guidance_high"),
    "windows where needed": ("windows",),
    "smooth weights": ("weights",),
}
Cells = dict[str, tuple[str, str]]  # name -> settings, and the cell that it is compared with


def ablation_cells() -> Cells:
    """Return ``exact`` with each setting of ``fast`` alone, ``fast`` itself, and ``fast`` without each setting."""
    exact, fast = PRESETS["exact"], PRESETS["fast"]

    def settings(base: str, fields: tuple[str, ...], values: Any) -> str:
        return f"{base}:{','.join(f'{field}={getattr(values, field)}' for field in fields)}"

    return {
        "exact": ("exact", "exact"),
        **{name: (settings("exact", fields, fast), "exact") for name, fields in SETTINGS.items()},
        "fast": ("fast", "exact"),
        **{f"fast without {name}": (settings("fast", fields, exact), "fast") for name, fields in SETTINGS.items()},
    }


def add_options(parser: ArgumentParser) -> None:
    """Add the options that choose cells and labels."""
    parser.add_argument("--cells", help="names, comma-separated, or settings such as exact:steps=8; default: all")
    # --leads is the former name.
    parser.add_argument("--ablation", "--leads", action="store_true",
                        help="exact with each setting of fast alone, fast without each")  # fmt: skip
    parser.add_argument("--model", help="folder or random:NAME; default: the embedded model")
    parser.add_argument("--count", type=int, default=96, help="images of a cell")
    parser.add_argument("--scenes", type=int, default=96, help="scenes of the city that labels are cut from")
    parser.add_argument(
        "--seed", type=int, default=7_000, help="seed of scenes, crops and noise; ideas.py uses 5000 to 5002"
    )


def chosen(given: Namespace, parser: ArgumentParser) -> Cells:
    """Return the cells that the options name, ``exact`` first."""
    if given.ablation and given.cells:
        parser.error("--ablation and --cells cannot be combined")
    if given.ablation:
        return ablation_cells()
    wanted = given.cells.split(";" if ";" in given.cells else ",") if given.cells else list(CELLS)
    return {name: (CELLS.get(name, name), "exact") for name in dict.fromkeys(("exact", *wanted))}
