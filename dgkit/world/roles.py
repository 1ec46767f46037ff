"""All roles by name; the settings of ``source`` and ``prior``, which models are trained on."""

from dgkit.prompts import STYLES
from dgkit.styles import NO_STYLE
from dgkit.world.role import Palette, Role
from dgkit.world.target_roles import TARGETS

__all__ = ["ROLES", "Palette", "Role"]

_WARM_TOWN = Palette(
    houses=((206, 168, 122), (186, 128, 92), (222, 196, 152), (168, 110, 82), (198, 182, 158), (214, 150, 110),
            (150, 128, 108)),
    trims=((240, 226, 200), (250, 240, 222), (122, 84, 62)),
    roofs=((150, 74, 52), (118, 78, 62), (96, 84, 78)),
    leaves=((106, 138, 48), (84, 122, 44), (132, 150, 58)),
    grass=(142, 156, 78), road=(112, 106, 102), paving=(186, 172, 154), kerb=(208, 198, 182), paint=(244, 214, 96),
)  # fmt: skip
_COOL_TOWN = Palette(
    houses=((176, 178, 184), (142, 152, 166), (206, 204, 200), (120, 128, 138), (158, 138, 132), (198, 190, 176)),
    trims=((236, 238, 240), (86, 92, 102), (216, 214, 208)),
    roofs=((82, 84, 92), (104, 92, 90), (70, 76, 84)),
    leaves=((58, 104, 56), (74, 118, 62), (46, 88, 52)),
    grass=(96, 136, 70), road=(98, 100, 106), paving=(158, 160, 164), kerb=(190, 192, 194), paint=(238, 238, 234),
)  # fmt: skip
_BRICK_TOWN = Palette(
    houses=((156, 82, 66), (136, 72, 60), (176, 104, 82), (196, 168, 140), (118, 68, 60), (210, 200, 186)),
    trims=((232, 226, 214), (246, 244, 238), (64, 58, 56)),
    roofs=((74, 66, 66), (112, 62, 50), (90, 86, 88)),
    leaves=((66, 112, 44), (92, 130, 54), (150, 120, 44)),
    grass=(104, 142, 64), road=(92, 92, 94), paving=(172, 164, 156), kerb=(196, 192, 186), paint=(240, 240, 236),
)  # fmt: skip
_PASTEL_TOWN = Palette(
    houses=((230, 202, 134), (218, 152, 132), (158, 186, 196), (196, 212, 172), (236, 222, 196), (206, 176, 198),
            (232, 180, 120)),
    trims=((250, 248, 242), (244, 236, 220), (140, 116, 100)),
    roofs=((168, 84, 60), (146, 92, 74), (94, 98, 110)),
    leaves=((80, 134, 60), (104, 152, 72), (62, 112, 62)),
    grass=(116, 160, 76), road=(108, 108, 112), paving=(190, 184, 176), kerb=(212, 208, 202), paint=(246, 246, 242),
)  # fmt: skip

_EVEN = tuple((style, 0.15) for style in STYLES)

ROLES: dict[str, Role] = {
    "source": Role((_WARM_TOWN,), ((NO_STYLE, 1.0),), 0.5, True, True),
    "prior": Role((_COOL_TOWN, _BRICK_TOWN, _PASTEL_TOWN, _WARM_TOWN), ((NO_STYLE, 0.25), *_EVEN), 0.12, False, False),
    **TARGETS,
}
