"""Climates of the five target roles: skies, surfaces and cameras."""

from dgkit.world.light.climate import Climate, Daylight
from dgkit.world.light.sensor import Sensor
from dgkit.world.light.texture import Texture

CITYSCAPES = Climate(
    day=Daylight(
        zenith=((176, 190, 204), (214, 214, 208)), horizon=((236, 238, 234), (238, 238, 230)),
        cloud=((246, 246, 242), (226, 226, 220)), direct=(0.72, 0.68, 0.58),
        ambient=((0.6, 0.62, 0.63), (0.84, 0.85, 0.82)), overcast=(0.55, 1.0), sun=(0.45, 0.9),
        visibility=(260.0, 600.0), shadows=0.5,
    ),
    texture=Texture(grit=0.13, patches=0.07, slab=0.34, joints=0.3, course=0.32, mortar=0.22, panels=0.14, stains=0.12,
                    cracks=0.45, ruts=0.06, worn=0.16, leaves=0.42, gloss=0.6, detail_range=16.0),
    sensors=(
        Sensor(gamma=(0.92, 1.06), contrast=(0.96, 1.08), saturation=(0.5, 0.7), balance=(0.93, 1.02, 0.95),
               black=(0.02, 0.05), noise=(2.0, 3.5), chroma=(1.5, 2.5), vignette=(0.2, 0.34), soft=(0.002, 0.003),
               zoom=(0.0, 0.007), fringe=(0.0, 0.001), jpeg=(92, 97)),
    ),
    fog=(214, 216, 212), fog_visibility=(30.0, 60.0), rain=(186, 190, 190),
    rain_streaks=(0.2, 0.5), rain_visibility=(90.0, 200.0),
    snow_colour=(226, 230, 232), slush=0.4, snow_cover=(0.6, 0.9),
    night_light=(0.2, 0.19, 0.17), night_sky=((16, 15, 16), (50, 44, 38)), night_wet=0.3,
)  # fmt: skip

BDD = Climate(
    day=Daylight(
        zenith=((92, 140, 204), (170, 178, 190)), horizon=((216, 226, 236), (226, 228, 230)),
        cloud=((252, 252, 252), (206, 210, 216)), direct=(0.78, 0.72, 0.6),
        ambient=((0.4, 0.42, 0.47), (0.62, 0.63, 0.66)), overcast=(0.2, 1.0), sun=(0.35, 1.1),
        visibility=(240.0, 700.0), shadows=0.52, dusk=0.22,
    ),
    texture=Texture(grit=0.1, patches=0.08, slab=1.5, joints=0.34, course=0.2, mortar=0.16, panels=0.2, stains=0.1,
                    cracks=0.5, ruts=0.08, worn=0.24, leaves=0.36, gloss=0.75, detail_range=22.0),
    sensors=(
        Sensor(gamma=(0.8, 1.0), contrast=(0.9, 1.1), saturation=(0.7, 1.0), balance=(0.99, 1.0, 1.04), drift=0.05,
               veil=(0.0, 0.16), drops=(0, 12),
               black=(0.04, 0.12), noise=(2.0, 4.0), chroma=(2.0, 4.0), night=1.5, vignette=(0.05, 0.2),
               soft=(0.0024, 0.0042), motion=(0.0, 0.009), zoom=(0.0, 0.012), fringe=(0.0, 0.002), jpeg=(55, 85)),
        Sensor(gamma=(0.95, 1.2), contrast=(1.05, 1.25), saturation=(0.9, 1.2), balance=(0.97, 1.0, 1.04), drift=0.05,
               veil=(0.0, 0.06), drops=(0, 12),
               black=(0.02, 0.08), noise=(2.0, 4.0), chroma=(2.0, 4.0), night=1.5, vignette=(0.1, 0.3),
               soft=(0.002, 0.0036), motion=(0.0, 0.006), zoom=(0.0, 0.01), fringe=(0.0, 0.002), jpeg=(60, 88)),
    ),
    fog=(200, 204, 206), fog_visibility=(28.0, 60.0), rain=(176, 180, 184),
    rain_streaks=(0.3, 0.8), rain_visibility=(70.0, 170.0),
    snow_colour=(228, 230, 234), slush=0.6, snow_cover=(0.55, 0.9),
    night_light=(0.21, 0.185, 0.17), night_sky=((10, 9, 14), (58, 40, 28)), night_wet=0.25, lamps=1.1,
)  # fmt: skip

MAPILLARY = Climate(
    day=Daylight(
        zenith=((70, 124, 214), (190, 196, 202)), horizon=((206, 222, 232), (230, 230, 228)),
        cloud=((255, 252, 246), (214, 216, 218)), direct=(0.92, 0.84, 0.66),
        ambient=((0.4, 0.43, 0.48), (0.62, 0.62, 0.62)), overcast=(0.0, 0.9), sun=(0.4, 1.3),
        visibility=(200.0, 800.0), shadows=0.6, dusk=0.06,
    ),
    texture=Texture(grit=0.12, patches=0.11, slab=0.62, joints=0.34, course=0.28, mortar=0.24, panels=0.18, stains=0.17,
                    cracks=0.5, ruts=0.03, worn=0.28, leaves=0.45, gloss=0.55, detail_range=20.0),
    sensors=(
        Sensor(gamma=(0.95, 1.15), contrast=(1.05, 1.25), saturation=(0.95, 1.25), drift=0.06, black=(0.0, 0.04),
               noise=(1.0, 3.0), chroma=(1.0, 2.0), vignette=(0.0, 0.15), soft=(0.0014, 0.002), jpeg=(84, 96)),
        Sensor(gamma=(0.78, 0.95), contrast=(0.85, 1.0), saturation=(0.55, 0.85), balance=(1.06, 1.0, 0.9), drift=0.08,
               black=(0.05, 0.14), noise=(3.0, 6.0), chroma=(3.0, 6.0), vignette=(0.25, 0.5), soft=(0.0026, 0.0045),
               motion=(0.0, 0.01), fringe=(0.001, 0.003), jpeg=(50, 80)),
        Sensor(gamma=(1.0, 1.25), contrast=(1.0, 1.2), saturation=(0.8, 1.1), balance=(0.92, 0.98, 1.1), drift=0.06,
               black=(0.0, 0.06), noise=(2.0, 4.0), chroma=(2.0, 3.0), vignette=(0.1, 0.4), soft=(0.0018, 0.003),
               fringe=(0.001, 0.0025), jpeg=(70, 92)),
    ),
    fog=(212, 208, 198), fog_visibility=(30.0, 70.0), rain=(190, 192, 190),
    rain_streaks=(0.2, 0.7), rain_visibility=(80.0, 200.0),
    snow_colour=(238, 238, 236), slush=0.3, snow_cover=(0.5, 0.95),
    night_light=(0.19, 0.17, 0.16), night_sky=((8, 10, 20), (46, 38, 40)), night_wet=0.3,
)  # fmt: skip

ACDC = Climate(
    day=Daylight(
        zenith=((150, 166, 186), (188, 192, 196)), horizon=((222, 226, 228), (216, 218, 218)),
        cloud=((240, 240, 240), (200, 204, 208)), direct=(0.4, 0.38, 0.34),
        ambient=((0.5, 0.52, 0.55), (0.62, 0.63, 0.65)), overcast=(0.4, 1.0), sun=(0.3, 0.8), visibility=(160.0, 420.0),
    ),
    texture=Texture(grit=0.12, patches=0.07, slab=0.44, joints=0.26, course=0.36, mortar=0.2, panels=0.12, stains=0.14,
                    cracks=0.5, ruts=0.06, worn=0.14, leaves=0.4, gloss=0.6, detail_range=18.0),
    sensors=(
        Sensor(gamma=(0.9, 1.08), contrast=(0.98, 1.14), saturation=(0.68, 0.92), balance=(1.0, 1.01, 0.99), drift=0.04,
               drops=(6, 40),
               black=(0.01, 0.06), noise=(2.0, 4.0), chroma=(2.0, 3.5), night=1.5, vignette=(0.15, 0.36),
               soft=(0.0022, 0.0036), motion=(0.0, 0.005), zoom=(0.0, 0.01), fringe=(0.0005, 0.0018), jpeg=(78, 94)),
    ),
    fog=(212, 208, 192), fog_visibility=(15.0, 48.0), rain=(164, 172, 176),
    rain_streaks=(0.6, 1.3), rain_visibility=(45.0, 120.0),
    snow_colour=(224, 228, 232), slush=0.85, snow_cover=(0.5, 0.88),
    night_light=(0.2, 0.155, 0.12), night_sky=((12, 10, 12), (64, 40, 20)), night_wet=0.35, lamps=1.2,
)  # fmt: skip

DARKZURICH = Climate(
    day=ACDC.day,
    texture=Texture(grit=0.12, patches=0.08, slab=0.4, joints=0.26, course=0.4, mortar=0.2, panels=0.1, stains=0.15,
                    cracks=0.4, ruts=0.05, worn=0.14, leaves=0.4, gloss=0.5, detail_range=16.0),
    sensors=(
        Sensor(gamma=(0.86, 1.0), contrast=(0.94, 1.1), saturation=(0.55, 0.85), balance=(1.1, 0.98, 0.86), drift=0.05,
               black=(0.015, 0.05), noise=(2.4, 4.0), chroma=(3.0, 5.0), night=1.35, vignette=(0.2, 0.45),
               soft=(0.003, 0.0055), motion=(0.0, 0.014), zoom=(0.0, 0.012), fringe=(0.0005, 0.002), jpeg=(70, 90)),
    ),
    fog=(206, 202, 190), fog_visibility=(24.0, 60.0), rain=(160, 166, 172),
    rain_streaks=(0.5, 1.1), rain_visibility=(60.0, 140.0),
    snow_colour=(222, 226, 230), slush=0.7, snow_cover=(0.5, 0.85),
    night_light=(0.15, 0.155, 0.135), night_sky=((9, 12, 11), (40, 44, 34)), night_wet=0.3, lamps=1.1,
)  # fmt: skip
