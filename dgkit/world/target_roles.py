"""The five target roles: towns in other countries, seen by other cameras. None shares a setting with ``prior``."""

from dgkit.styles import NO_STYLE
from dgkit.world.light import target_climates
from dgkit.world.role import CHANCES, Furniture, Palette, Plan, Role, Traffic, View

# -- Cityscapes: grey-beige German towns, high camera behind a bonnet, slim posts, many bicycles ----------------------

_GREY_BEIGE = Palette(
    houses=((172, 164, 148), (150, 144, 132), (188, 178, 156), (134, 130, 124), (164, 148, 124), (142, 128, 112),
            (178, 176, 170)),
    trims=((196, 192, 182), (110, 106, 100), (168, 160, 146)),
    roofs=((112, 74, 60), (92, 84, 80), (84, 66, 58)),
    leaves=((52, 66, 40), (64, 76, 46), (44, 58, 38), (78, 84, 50)),
    grass=(92, 98, 64), road=(88, 89, 90), paving=(132, 128, 122), kerb=(150, 147, 142), paint=(206, 206, 200),
)  # fmt: skip
_SANDSTONE = Palette(
    houses=((156, 132, 108), (170, 150, 122), (140, 120, 106), (184, 172, 150), (128, 116, 106)),
    trims=((184, 172, 150), (96, 88, 80)),
    roofs=((82, 78, 78), (104, 66, 54)),
    leaves=((58, 70, 38), (50, 62, 42), (88, 86, 44)),
    grass=(98, 102, 62), road=(82, 84, 86), paving=(120, 118, 116), kerb=(146, 142, 136), paint=(200, 200, 196),
)  # fmt: skip
CITYSCAPES = Role(
    palettes=(_GREY_BEIGE, _SANDSTONE),
    styles=((NO_STYLE, 0.68), ("sunny", 0.32)),
    bonnet=1.0,
    labelled=True,
    centre_paint=True,
    cars=((24, 25, 28), (60, 62, 66), (140, 143, 148), (196, 198, 200), (34, 44, 66), (86, 24, 28), (224, 224, 222),
          (44, 48, 50), (112, 116, 120)),
    clothes=((34, 36, 42), (58, 60, 66), (40, 48, 72), (92, 84, 76), (120, 36, 40), (150, 146, 138), (52, 58, 48)),
    chances={**CHANCES, "cyclist": 0.5, "bicycle": 0.5, "near_person": 0.25, "truck": 0.24, "bus": 0.24, "park": 0.26,
             "signal": 0.5},
    view=View(height=(1.15, 1.35), pitch=(0.01, 0.07), focal=(1.95, 2.3), yaw=0.05, place=(0.3, 0.75)),
    plan=Plan(open_sky=0.8, lane=(2.8, 3.3), second_lane=0.25, verge=0.3, pavement=(2.2, 4.6), lawn=0.36, parking=0.72,
              tall=(9.0, 20.0), low=(6.0, 12.0), modern=0.18, shop=0.5, gable=0.6, brick=0.3, balcony=0.2, trees=0.66,
              tree_height=(6.0, 11.0), tree_kinds=(0.78, 0.08, 0.14), barriers=(0.34, 0.36, 0.3)),
    traffic=Traffic(cars=0.7, gap=(6.0, 30.0), parked=0.85, walkers=(2, 6),
                    kinds=("sedan", "hatch", "wagon", "wagon", "van", "mini", "suv")),
    furniture=Furniture(lamps=("stick", "globe", "twin"), lamp_gap=(20.0, 34.0), lamp_height=(5.0, 9.0),
                        glow=((255, 206, 132),), posts=((108, 112, 114), (84, 90, 88), (132, 134, 134)),
                        signs=("limit", "limit", "no_parking", "no_parking", "priority", "yield", "mandatory",
                               "diamond", "town", "detour", "blue_guide"),
                        sign_radius=(0.27, 0.33), signs_per_side=(2, 4), signals="slim",
                        signal_boxes=((22, 24, 24), (30, 44, 36)), bollards=0.3),
    climate=target_climates.CITYSCAPES,
)  # fmt: skip

# -- BDD100K: wide American streets behind a windscreen ---------------------------------------------------------------

_STUCCO = Palette(
    houses=((198, 186, 164), (170, 160, 150), (214, 208, 198), (146, 124, 104), (120, 124, 132), (184, 160, 130)),
    trims=((226, 224, 218), (92, 84, 76), (150, 146, 142)),
    roofs=((96, 88, 84), (124, 104, 92), (70, 70, 74)),
    leaves=((74, 92, 44), (60, 80, 40), (102, 108, 56)),
    grass=(140, 138, 82), road=(122, 122, 120), paving=(178, 174, 166), kerb=(186, 184, 178), paint=(226, 178, 40),
)  # fmt: skip
_DOWNTOWN = Palette(
    houses=((112, 100, 94), (136, 136, 140), (92, 84, 82), (160, 152, 142), (76, 88, 100), (128, 82, 64)),
    trims=((168, 164, 158), (60, 60, 62)),
    roofs=((64, 64, 68), (88, 82, 78)),
    leaves=((52, 76, 44), (70, 88, 46)),
    grass=(112, 124, 70), road=(104, 104, 106), paving=(160, 158, 154), kerb=(172, 170, 166), paint=(220, 172, 36),
)  # fmt: skip
BDD = Role(
    palettes=(_STUCCO, _DOWNTOWN),
    styles=((NO_STYLE, 0.42), ("sunny", 0.2), ("night", 0.2), ("rainy", 0.1), ("snowy", 0.05), ("foggy", 0.03)),
    bonnet=0.35,
    labelled=True,
    centre_paint=True,
    cars=((238, 238, 236), (200, 202, 204), (28, 28, 30), (70, 72, 74), (150, 152, 156), (140, 22, 26), (30, 48, 92),
          (176, 164, 138)),
    clothes=((40, 42, 48), (210, 208, 202), (80, 90, 110), (150, 60, 50), (70, 70, 70), (44, 70, 60)),
    chances={**CHANCES, "cyclist": 0.3, "bicycle": 0.26, "motorcycle": 0.3, "near_person": 0.3, "truck": 0.4,
             "signal": 0.6, "crossroads": 0.48, "train": 0.16, "park": 0.16},
    view=View(height=(1.2, 1.5), pitch=(-0.05, 0.02), focal=(0.92, 1.15), yaw=0.06, place=(0.2, 0.85)),
    plan=Plan(lane=(3.4, 4.1), second_lane=0.75, verge=0.36, pavement=(2.0, 4.4), lawn=0.42, parking=0.6,
              tall=(4.0, 34.0), low=(4.0, 8.0), modern=0.45, shop=0.55, gable=0.3, brick=0.4, balcony=0.1, trees=0.5,
              tree_height=(4.0, 8.0), tree_kinds=(0.6, 0.1, 0.3), barriers=(0.3, 0.55, 0.15)),
    traffic=Traffic(cars=0.85, gap=(3.0, 18.0), parked=0.8, walkers=(1, 4),
                    kinds=("suv", "suv", "jeep", "jeep", "sedan", "van", "coupe")),
    furniture=Furniture(lamps=("cobra",), lamp_gap=(28.0, 40.0), lamp_height=(6.5, 8.5),
                        glow=((255, 184, 96), (255, 226, 180)), posts=((142, 144, 144), (96, 100, 96), (70, 84, 72)),
                        signs=("speed", "speed", "stop", "street", "street", "highway", "no_turn", "warning", "works"),
                        sign_radius=(0.3, 0.4), signs_per_side=(1, 4), signals="mast",
                        signal_boxes=((206, 164, 30), (34, 34, 34)), bollards=0.06, utility_poles=0.45),
    climate=target_climates.BDD,
)  # fmt: skip

# -- Mapillary: every continent, every camera -------------------------------------------------------------------------

_TROPICAL = Palette(
    houses=((92, 168, 160), (226, 120, 96), (240, 206, 92), (206, 208, 204), (112, 148, 196), (196, 134, 150)),
    trims=((244, 244, 240), (60, 92, 96), (150, 60, 50)),
    roofs=((146, 146, 150), (170, 92, 70), (108, 122, 128)),
    leaves=((34, 92, 40), (52, 116, 34), (24, 74, 44)),
    grass=(96, 128, 48), road=(134, 122, 110), paving=(170, 150, 132), kerb=(198, 184, 90), paint=(240, 240, 232),
)  # fmt: skip
_WHITEWASH = Palette(
    houses=((238, 234, 226), (228, 218, 196), (206, 190, 160), (242, 240, 236), (216, 170, 120)),
    trims=((60, 110, 150), (92, 66, 48), (220, 214, 204)),
    roofs=((188, 106, 70), (172, 120, 90)),
    leaves=((92, 104, 66), (116, 118, 72), (70, 90, 60)),
    grass=(176, 160, 104), road=(146, 140, 132), paving=(200, 186, 162), kerb=(214, 206, 192), paint=(248, 248, 242),
)  # fmt: skip
_TIMBER = Palette(
    houses=((132, 44, 38), (222, 206, 150), (70, 84, 78), (236, 234, 230), (92, 70, 54), (158, 160, 150)),
    trims=((244, 244, 242), (40, 36, 34)),
    roofs=((48, 48, 52), (90, 44, 40)),
    leaves=((30, 62, 44), (46, 76, 42), (132, 128, 40)),
    grass=(82, 116, 52), road=(78, 80, 86), paving=(138, 140, 144), kerb=(166, 166, 168), paint=(236, 236, 230),
)  # fmt: skip
_TILED = Palette(
    houses=((190, 192, 196), (150, 156, 164), (206, 198, 184), (128, 110, 100), (172, 178, 170), (96, 104, 112)),
    trims=((120, 124, 130), (232, 232, 232)),
    roofs=((54, 62, 78), (74, 76, 80)),
    leaves=((50, 84, 52), (40, 70, 46), (66, 96, 58)),
    grass=(98, 116, 74), road=(112, 114, 118), paving=(166, 152, 140), kerb=(190, 186, 182), paint=(250, 250, 248),
)  # fmt: skip
MAPILLARY = Role(
    palettes=(_TROPICAL, _WHITEWASH, _TIMBER, _TILED),
    styles=((NO_STYLE, 0.62), ("sunny", 0.26), ("rainy", 0.05), ("foggy", 0.03), ("snowy", 0.02), ("night", 0.02)),
    bonnet=0.15,
    labelled=True,
    centre_paint=False,
    cars=((236, 236, 232), (170, 34, 30), (34, 92, 150), (180, 184, 188), (52, 54, 58), (224, 186, 60), (66, 120, 96),
          (190, 130, 90)),
    clothes=((220, 60, 50), (240, 240, 234), (40, 110, 150), (244, 196, 70), (50, 52, 58), (150, 90, 150),
             (90, 150, 100)),
    chances={**CHANCES, "motorcycle": 0.55, "cyclist": 0.4, "truck": 0.34, "near_person": 0.3, "park": 0.3},
    view=View(height=(1.0, 3.1), pitch=(-0.1, 0.16), focal=(0.78, 1.5), yaw=0.2, place=(-0.2, 0.95)),
    plan=Plan(lane=(2.6, 3.8), second_lane=0.35, verge=0.4, pavement=(1.6, 5.0), lawn=0.45, parking=0.4,
              tall=(3.2, 26.0), low=(3.2, 9.0), modern=0.35, shop=0.6, gable=0.5, brick=0.35, balcony=0.5, trees=0.55,
              tree_height=(3.5, 10.0), tree_kinds=(0.5, 0.2, 0.3), barriers=(0.45, 0.35, 0.2)),
    traffic=Traffic(cars=0.7, gap=(4.0, 34.0), parked=0.65, walkers=(1, 5),
                    kinds=("mini", "hatch", "van", "jeep", "sedan", "coupe", "wagon")),
    furniture=Furniture(lamps=("cobra", "lantern", "twin", "stick", "globe"), lamp_gap=(18.0, 40.0),
                        lamp_height=(4.6, 8.5), glow=((255, 220, 160), (236, 244, 255)),
                        posts=((150, 150, 148), (60, 92, 70), (40, 42, 44), (182, 176, 160), (110, 96, 80)),
                        signs=("limit", "stop", "diamond", "arrows", "blue_guide", "brown", "works", "hatch", "street",
                               "no_parking", "warning"),
                        sign_radius=(0.26, 0.42), signs_per_side=(1, 4), signals="level",
                        signal_boxes=((40, 60, 48), (26, 26, 28), (190, 150, 40)), bollards=0.2, utility_poles=0.5),
    climate=target_climates.MAPILLARY,
)  # fmt: skip

# -- ACDC: Swiss roads in bad weather ---------------------------------------------------------------------------------

_ALPINE = Palette(
    houses=((206, 196, 176), (188, 186, 180), (164, 134, 100), (222, 214, 196), (148, 152, 150), (186, 160, 128)),
    trims=((120, 72, 48), (70, 90, 78), (214, 210, 202)),
    roofs=((106, 62, 46), (78, 70, 66), (124, 82, 60)),
    leaves=((48, 72, 44), (38, 60, 46), (70, 86, 44), (112, 92, 40)),
    grass=(92, 112, 58), road=(80, 82, 86), paving=(122, 122, 122), kerb=(156, 154, 152), paint=(232, 200, 70),
)  # fmt: skip
_LAKESIDE = Palette(
    houses=((150, 158, 162), (200, 188, 160), (176, 170, 166), (128, 120, 116), (196, 172, 150)),
    trims=((206, 206, 204), (84, 70, 60)),
    roofs=((90, 54, 46), (70, 72, 78)),
    leaves=((54, 76, 48), (44, 68, 54)),
    grass=(84, 104, 60), road=(90, 90, 92), paving=(134, 132, 130), kerb=(160, 158, 154), paint=(230, 196, 64),
)  # fmt: skip
_SWISS_SIGNS = ("limit", "no_parking", "yield", "mandatory", "diamond", "blue_guide", "arrows", "hatch")
_SWISS_CARS = ("hatch", "wagon", "suv", "mini", "van", "coupe")
ACDC = Role(
    palettes=(_ALPINE, _LAKESIDE),
    styles=(("foggy", 0.25), ("night", 0.25), ("rainy", 0.25), ("snowy", 0.25)),
    bonnet=0.0,
    labelled=True,
    centre_paint=True,
    cars=((226, 226, 224), (40, 42, 46), (92, 96, 102), (160, 164, 168), (128, 30, 32), (40, 66, 110), (64, 74, 62)),
    clothes=((30, 34, 46), (66, 66, 70), (150, 40, 40), (40, 80, 120), (200, 170, 60), (80, 96, 70)),
    chances={**CHANCES, "train": 0.3, "cyclist": 0.34, "near_person": 0.3, "bicycle": 0.3, "park": 0.36, "truck": 0.26},
    view=View(height=(1.3, 1.6), pitch=(-0.02, 0.06), focal=(1.4, 1.75), yaw=0.07, place=(0.2, 0.8)),
    plan=Plan(open_sky=0.75, lane=(2.9, 3.5), second_lane=0.2, verge=0.55, pavement=(1.8, 3.8), lawn=0.62, parking=0.3,
              tall=(6.0, 18.0), low=(5.0, 11.0), modern=0.3, shop=0.35, gable=0.75, brick=0.15, balcony=0.45,
              trees=0.66, tree_height=(5.0, 11.0), tree_kinds=(0.45, 0.35, 0.2), barriers=(0.4, 0.3, 0.3)),
    traffic=Traffic(cars=0.6, gap=(8.0, 34.0), parked=0.6, walkers=(1, 4), kinds=_SWISS_CARS),
    furniture=Furniture(lamps=("stick", "cobra"), lamp_gap=(22.0, 36.0), lamp_height=(6.0, 8.5),
                        glow=((255, 158, 60), (255, 176, 84)), posts=((124, 128, 130), (96, 98, 100)),
                        signs=_SWISS_SIGNS, sign_radius=(0.28, 0.36), signs_per_side=(1, 4), signals="slim",
                        signal_boxes=((26, 28, 28),), bollards=0.2, utility_poles=0.2),
    climate=target_climates.ACDC,
    round_robin=True,
)  # fmt: skip

# -- Dark Zurich: the same town's centre at night, by a noisy, shaky camera -------------------------------------------

_OLD_TOWN = Palette(
    houses=((150, 140, 122), (128, 122, 112), (172, 160, 136), (112, 112, 116), (160, 138, 116)),
    trims=((136, 130, 120), (70, 76, 70)),
    roofs=((84, 56, 46), (66, 62, 62)),
    leaves=((58, 72, 42), (48, 64, 48), (76, 78, 40)),
    grass=(72, 84, 50), road=(96, 94, 92), paving=(140, 134, 126), kerb=(160, 154, 146), paint=(228, 190, 60),
)  # fmt: skip
DARKZURICH = Role(
    palettes=(_OLD_TOWN,),
    styles=(("night", 1.0),),
    bonnet=0.0,
    labelled=True,
    centre_paint=True,
    cars=((206, 206, 204), (54, 56, 60), (104, 106, 110), (160, 162, 166), (96, 30, 32), (48, 62, 96)),
    clothes=((44, 46, 54), (90, 88, 86), (120, 50, 46), (60, 80, 100), (150, 144, 132)),
    chances={**CHANCES, "train": 0.34, "bus": 0.34, "near_person": 0.3, "bicycle": 0.46, "cyclist": 0.36,
             "signal": 0.55},
    view=View(height=(1.35, 1.7), pitch=(-0.06, 0.03), focal=(1.2, 1.45), yaw=0.11, place=(0.2, 0.85)),
    plan=Plan(open_sky=0.7, lane=(2.8, 3.4), second_lane=0.3, verge=0.25, pavement=(2.0, 5.0), lawn=0.3, parking=0.45,
              tall=(10.0, 22.0), low=(6.0, 12.0), modern=0.15, shop=0.62, gable=0.4, brick=0.1, balcony=0.3, trees=0.5,
              tree_height=(5.0, 9.0), tree_kinds=(0.8, 0.05, 0.15), barriers=(0.45, 0.35, 0.2)),
    traffic=Traffic(cars=0.6, gap=(7.0, 30.0), parked=0.75, walkers=(1, 4), kinds=_SWISS_CARS),
    furniture=Furniture(lamps=("twin", "lantern", "stick"), lamp_gap=(16.0, 26.0), lamp_height=(5.5, 8.0),
                        glow=((214, 255, 224), (255, 236, 206), (236, 220, 255)),
                        posts=((118, 122, 118), (84, 92, 86)), signs=_SWISS_SIGNS, sign_radius=(0.28, 0.36),
                        signs_per_side=(1, 4), signals="slim", signal_boxes=((24, 26, 26),), bollards=0.25),
    climate=target_climates.DARKZURICH,
)  # fmt: skip

TARGETS: dict[str, Role] = {
    "cityscapes": CITYSCAPES, "bdd": BDD, "mapillary": MAPILLARY, "acdc": ACDC, "darkzurich": DARKZURICH,
}  # fmt: skip
