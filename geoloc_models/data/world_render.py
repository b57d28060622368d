# SPDX-License-Identifier: Apache-2.0
"""Draws a laid-out world as one aerial picture of one date: ground, heights, light, then the sensor.

Every pixel has an index into a table of materials (fields have a row each), which gives two colours and how
much coarse, middle and fine noise they carry. Roofs, trees and cars bring heights; slopes are shaded by the
sun and cast shadows. Work goes in strips of rows, so that memory stays near the size of the picture.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np

from geoloc_models.data.world_layout import Building, Layout, blob, densify, directions, rectangle

STRIP_ROWS = 256
STREAK_PX = 1024
SUBPIXEL = 4  # fractional bits of OpenCV's drawing coordinates


@dataclass(frozen=True)
class Material:
    """Colours of a surface when plants are green and when they rest, and its texture in per cent."""

    green: tuple[tuple[int, int, int], tuple[int, int, int]]
    resting: tuple[tuple[int, int, int], tuple[int, int, int]]
    coarse: float
    middle: float
    fine: float


def _hard(first: tuple[int, int, int], second: tuple[int, int, int], *texture: float) -> Material:
    return Material((first, second), (first, second), *texture)


MATERIALS = {
    "grass": Material(((92, 104, 62), (136, 128, 88)), ((118, 108, 76), (134, 116, 88)), 7, 8, 8),
    "lawn": Material(((84, 106, 58), (124, 126, 80)), ((112, 110, 74), (136, 122, 90)), 4, 5, 5),
    "garden": Material(((86, 98, 60), (132, 116, 86)), ((108, 98, 72), (128, 106, 82)), 7, 12, 10),
    "yard": Material(((138, 124, 98), (108, 110, 74)), ((140, 122, 100), (116, 106, 80)), 6, 9, 8),
    "verge": Material(((102, 112, 66), (146, 136, 94)), ((128, 116, 82), (146, 126, 96)), 6, 8, 9),
    "forest": Material(((62, 70, 44), (86, 80, 56)), ((100, 84, 64), (84, 72, 56)), 6, 10, 12),
    "soil": _hard((158, 128, 98), (134, 104, 78), 8, 9, 7),
    "bank": _hard((128, 110, 82), (104, 96, 68), 6, 10, 9),
    "gravel": _hard((164, 154, 138), (142, 130, 112), 4, 6, 7),
    "concrete": _hard((188, 184, 174), (170, 164, 152), 3, 4, 3),
    "paving": _hard((176, 164, 150), (158, 142, 128), 3, 5, 5),
    "asphalt": _hard((124, 122, 120), (108, 106, 106), 4, 4, 3),
    "worn": _hard((136, 133, 129), (118, 116, 114), 4, 4, 3),
    "patch": _hard((96, 95, 96), (88, 87, 88), 3, 3, 3),
    "sidewalk": _hard((170, 164, 154), (152, 146, 136), 3, 5, 4),
    "marking": _hard((206, 204, 196), (176, 174, 168), 3, 8, 4),
    "track": _hard((168, 146, 116), (142, 122, 94), 6, 8, 7),
    "fence": _hard((98, 82, 66), (84, 74, 60), 4, 10, 12),
    "pool": _hard((92, 172, 190), (84, 160, 184), 1, 1, 1),
    "water": _hard((76, 92, 84), (70, 84, 78), 4, 2, 3),
    "pond": _hard((92, 110, 92), (82, 98, 84), 4, 2, 3),
}
NAMES = list(MATERIALS)
CODE = {name: index for index, name in enumerate(NAMES)}
FIRST_FIELD = 64
SOFT = ("lawn", "garden", "yard", "soil")  # drawn under walks and drives

# Crop: first and second colour, coarse, middle and fine texture, streaks along the rows (fine, broad) in per
# cent, distance of the wheel tracks in metres (0: none).
CROPS_GREEN = [
    ((186, 164, 112), (168, 146, 98), 5, 4, 5, 6, 5, 20.0),  # ripe grain
    ((206, 184, 132), (180, 156, 110), 5, 5, 6, 11, 7, 0.0),  # stubble
    ((86, 98, 60), (102, 110, 68), 4, 5, 6, 8, 4, 0.0),  # maize
    ((106, 116, 70), (124, 128, 80), 5, 5, 5, 6, 4, 24.0),  # beet
    ((126, 136, 78), (146, 142, 90), 5, 5, 5, 6, 6, 20.0),  # grain, turning
    ((148, 118, 92), (126, 98, 76), 7, 6, 6, 10, 8, 0.0),  # tilled
    ((104, 116, 68), (142, 132, 88), 8, 8, 7, 3, 6, 0.0),  # clover
]
CROPS_RESTING = [
    ((136, 112, 88), (114, 94, 76), 9, 6, 6, 9, 9, 0.0),  # ploughed
    ((118, 98, 80), (102, 84, 68), 8, 6, 6, 12, 8, 0.0),  # ploughed, wet
    ((156, 130, 102), (136, 110, 86), 8, 6, 6, 10, 9, 0.0),  # harrowed
    ((168, 148, 112), (146, 124, 94), 6, 6, 7, 12, 8, 0.0),  # old stubble
    ((108, 112, 70), (130, 116, 82), 7, 6, 5, 7, 6, 20.0),  # winter grain
    ((122, 116, 76), (104, 104, 64), 8, 8, 7, 4, 6, 0.0),  # catch crop
]
MEADOW = (
    ((104, 116, 68), (142, 134, 90), 6, 8, 7, 4, 7, 0.0),
    ((122, 112, 78), (142, 122, 92), 6, 8, 8, 3, 5, 0.0),
)
SCRUB = (
    ((112, 108, 72), (148, 126, 92), 9, 13, 10, 0, 0, 0.0),
    ((126, 106, 82), (150, 122, 96), 9, 13, 10, 0, 0, 0.0),
)

WATERS = np.array(
    [(70, 88, 78), (98, 110, 88), (54, 66, 62), (112, 114, 92), (88, 118, 102), (62, 80, 84)]
)
"""Rivers and ponds: algae, silt, depth."""

CAR_COLOURS = np.array(
    [(226, 226, 224), (232, 232, 230), (170, 172, 174), (120, 122, 126), (60, 60, 64), (36, 36, 40), (120, 34, 34),
     (44, 62, 104), (150, 140, 120), (88, 96, 92)]
)  # fmt: skip


@dataclass(frozen=True)
class Look:
    """Season, light and sensor of one date."""

    greenness: float  # 1 summer, 0 winter
    sun_azimuth_rad: float  # direction to the sun, clockwise from north
    sun_elevation_rad: float
    ambient: float  # share of light that reaches shadow
    haze: float  # share of the picture that is white veil
    gain: tuple[float, float, float]
    gamma: float
    saturation: float
    contrast: float
    blur_px: float
    sharpen: float
    noise: float  # 8-bit levels
    jpeg_quality: int
    lean: tuple[float, float]  # metres right and down that roofs move a metre of height

    @property
    def bareness(self) -> float:
        """Share of the ground that shows through crowns without leaves."""
        return max(0.0, 0.75 - 1.6 * self.greenness)

    @classmethod
    def draw(cls, rng: np.random.Generator, summer: bool) -> Look:
        """A plausible acquisition: high sun and green in summer, else low sun and resting plants."""
        elevation = rng.uniform(48, 62) if summer else rng.uniform(28, 42)
        warm = rng.normal(0, 0.035)
        return cls(
            greenness=rng.uniform(0.65, 1.0) if summer else rng.uniform(0.0, 0.4),
            sun_azimuth_rad=math.radians(rng.uniform(120, 240)),
            sun_elevation_rad=math.radians(elevation),
            ambient=rng.uniform(0.36, 0.5),
            haze=rng.uniform(0.0, 0.16),
            gain=(1 + warm, 1 + rng.normal(0, 0.015), 1 - warm),
            gamma=rng.uniform(0.85, 1.2),
            saturation=rng.uniform(0.7, 1.0),
            contrast=rng.uniform(0.92, 1.15),
            blur_px=rng.uniform(0.5, 0.95),
            sharpen=rng.uniform(0.0, 0.6),
            noise=rng.uniform(1.5, 4.0),
            jpeg_quality=int(rng.integers(72, 93)),
            lean=(float(rng.normal(0, 0.08)), float(rng.normal(0, 0.08))),
        )


def fractal(
    rng: np.random.Generator,
    size_px: int,
    gsd_m: float,
    wavelengths_m: tuple[float, ...],
    gains: tuple[float, ...],
) -> np.ndarray:
    """(size_px, size_px) int8 noise of several octaves; 32 is one standard deviation."""
    small_px = math.ceil(size_px / 4)  # long waves are made small and enlarged once
    small = np.zeros((small_px, small_px), np.float32)
    fine = []
    for wavelength, gain in zip(wavelengths_m, gains, strict=True):
        if wavelength >= 16 * gsd_m:
            small += np.float32(gain) * _octave(rng, small_px, wavelength / gsd_m / 4)
        else:
            fine.append((gain, wavelength / gsd_m))
    total: np.ndarray = np.asarray(cv2.resize(small, (size_px, size_px), interpolation=cv2.INTER_LINEAR))
    for gain, wavelength_px in fine:
        total += np.float32(gain) * _octave(rng, size_px, wavelength_px)
    sample = total[::7, ::7]
    total *= np.float32(32 / max(float(sample.std()), 1e-6))
    return np.clip(total, -127, 127, out=total).astype(np.int8)


def _octave(rng: np.random.Generator, size_px: int, wavelength_px: float) -> np.ndarray:
    """(size_px, size_px) float32 smooth noise of unit variance, roughly, and one wavelength."""
    if wavelength_px <= 1.5:
        return rng.standard_normal((size_px, size_px), dtype=np.float32)
    knots = math.ceil(size_px / wavelength_px) + 4
    grid = rng.standard_normal((knots, knots), dtype=np.float32)
    # A random shift keeps the grids of the octaves from lining up.
    right, down = rng.uniform(1, 2, 2)
    matrix = np.array([[1 / wavelength_px, 0, right], [0, 1 / wavelength_px, down]])
    how = (cv2.INTER_CUBIC if wavelength_px > 6 else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
    return np.asarray(
        cv2.warpAffine(grid, matrix, (size_px, size_px), flags=how, borderMode=cv2.BORDER_REFLECT)
    )


class Ground:
    """Noise that belongs to the land itself and so is common to both dates."""

    def __init__(self, size_px: int, gsd_m: float, rng: np.random.Generator) -> None:
        self.coarse = fractal(rng, size_px, gsd_m, (240, 90, 35, 14), (1.0, 0.9, 0.7, 0.5))
        self.middle = fractal(rng, size_px, gsd_m, (7, 3, 1.4), (1.0, 0.9, 0.7))
        self.bend = fractal(rng, size_px, gsd_m, (150, 70), (1.0, 0.25))
        streak = rng.standard_normal((STREAK_PX, STREAK_PX), dtype=np.float32)
        fine = _wrapped_blur(streak, 22, 0.7)
        broad = _wrapped_blur(rng.standard_normal((STREAK_PX, STREAK_PX), dtype=np.float32), 60, 7)
        self.streaks = (fine / fine.std(), broad / broad.std())


def _wrapped_blur(image: np.ndarray, along_px: float, across_px: float) -> np.ndarray:
    """Gaussian blur, different along rows and columns, of a picture that repeats."""
    pad = int(4 * max(along_px, across_px))
    padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_WRAP)
    return cv2.GaussianBlur(padded, (0, 0), sigmaX=along_px, sigmaY=across_px)[pad:-pad, pad:-pad]


def draw_date(layout: Layout, ground: Ground, date: int, look: Look, gsd_m: float, seed: int) -> np.ndarray:
    """(n, n, 3) uint8 RGB picture of date 0 or 1, without misregistration."""
    rng = np.random.default_rng((seed, 10 + date))
    canvas = _Canvas(layout, date, look, gsd_m, rng)
    canvas.draw_ground()
    canvas.draw_buildings()
    canvas.draw_cars()
    canvas.draw_trees()
    picture = _light(canvas, ground, look, rng)
    return _sense(picture, look, rng)


class _Canvas:
    """Planes of one date: material index, painted colours, height, tree cover."""

    def __init__(self, layout: Layout, date: int, look: Look, gsd_m: float, rng: np.random.Generator) -> None:
        self.layout, self.date, self.look, self.gsd_m, self.rng = layout, date, look, gsd_m, rng
        size = round(layout.size_m / gsd_m)
        self.index = np.full((size, size), CODE["grass"], np.uint16)
        self.paint = np.zeros((size, size, 3), np.uint8)
        self.painted = np.zeros((size, size), np.uint8)
        self.height = np.zeros((size, size), np.float32)
        self.tones: list[str] = []  # materials of the table's rows after the fields
        self.cover = np.zeros((size, size), np.uint8)  # 0: no tree, 1-127: deciduous, 128-255: evergreen

    def _fixed(self, points: np.ndarray) -> np.ndarray:
        """Metres to OpenCV's fixed-point pixels (pixel centres are whole numbers)."""
        return np.round((points / self.gsd_m - 0.5) * (1 << SUBPIXEL)).astype(np.int32)

    def _toned(self, material: str) -> int:
        """A row of the material table for one area, a little off the common tone."""
        self.tones.append(material)
        return FIRST_FIELD + len(self.layout.fields) + len(self.tones) - 1

    def _fill(self, outline: np.ndarray, code: int) -> None:
        cv2.fillPoly(self.index, [self._fixed(outline)], code, cv2.LINE_8, SUBPIXEL)

    def _line(self, points: np.ndarray, width_m: float, code: int, closed: bool = False) -> None:
        width_px = max(1, round(width_m / self.gsd_m))
        cv2.polylines(self.index, [self._fixed(points)], closed, code, width_px, cv2.LINE_8, SUBPIXEL)

    def draw_ground(self) -> None:
        layout = self.layout
        for number, parcel in enumerate(layout.fields):
            self._fill(parcel.outline, FIRST_FIELD + number)
        for parcel in layout.fields:
            self._line(parcel.outline, 1.2, CODE["verge"])
        if layout.woods is not None:
            size = self.index.shape[0]
            woods = cv2.resize(layout.woods.astype(np.float32), (size, size), interpolation=cv2.INTER_LINEAR)
            self.index[woods > 0.5] = CODE["forest"]
        for outline in layout.built_up:
            self._fill(outline, CODE["grass"])
        self._draw_water()
        for area in layout.areas:
            if area.dates[self.date] and area.material in SOFT:
                self._fill(area.outline, self._toned(area.material))
        for _ in range(round((layout.size_m / 170) ** 2)):  # bare patches come and go
            centre = self.rng.uniform(0, layout.size_m, 2)
            self._soil_patch(centre, float(self.rng.uniform(2, 11)))
        for outline in layout.fences:
            self._line(outline, 0.3, CODE["fence"])
        self._draw_roads()

    def _soil_patch(self, centre: np.ndarray, radius_m: float) -> None:
        cell = np.clip((centre / self.gsd_m).astype(int), 0, self.index.shape[0] - 1)
        # On open ground only: no row of its own means no plot, yard or water.
        if self.index[cell[1], cell[0]] >= FIRST_FIELD + len(self.layout.fields):
            return
        self._fill(blob(self.rng, centre, radius_m, 1.4), CODE["soil"])

    def _draw_water(self) -> None:
        river = self.layout.river
        if river is not None:
            for code, extra in ((CODE["bank"], 5.0), (self._toned("water"), 0.0)):
                for start, end in itertools.pairwise(river):
                    self._line(np.array([start[:2], end[:2]]), float(start[2]) + extra, code)
        for outline in self.layout.ponds:
            centre = outline.mean(axis=0)
            self._fill(centre + (outline - centre) * 1.1, CODE["bank"])
            self._fill(outline, self._toned("pond"))

    def _draw_roads(self) -> None:
        roads = self.layout.roads
        order = ("path", "track", "lane", "street", "main")
        for kind in ("lane", "main"):
            for road in [road for road in roads if road.kind == kind]:
                self._line(road.points, road.width_m + 3.0, CODE["verge"])
        for road in [road for road in roads if road.kind == "street"]:
            self._line(road.points, road.width_m + 3.4, CODE["sidewalk"])
        for area in self.layout.areas:
            if area.dates[self.date] and area.material not in SOFT:
                self._fill(area.outline, self._toned(area.material))
        surface = {"path": "track", "track": "track", "lane": "worn", "street": "asphalt", "main": "asphalt"}
        for kind in order:
            for road in [road for road in roads if road.kind == kind]:
                self._line(road.points, road.width_m, CODE[surface[kind]])
        for road in [road for road in roads if road.kind == "track"]:
            self._line(road.points, 0.7, CODE["verge"])  # grass between the wheels
        for road in [road for road in roads if road.kind in ("main", "street")]:
            for offset in (-0.25, 0.25):  # lanes are polished where wheels run
                self._line(_offset(road.points, offset * road.width_m), 1.6, CODE["worn"])
        self._draw_markings()

    def _draw_markings(self) -> None:
        for road in [road for road in self.layout.roads if road.kind == "main"]:
            points = densify(road.points, 2.0)
            sides = [_offset(points, side * (road.width_m / 2 - 0.4)) for side in (-1, 1)]
            clear = self._clear_of_junctions(points)
            for start in range(0, len(points) - 3, 6):
                if clear[start : start + 4].all():
                    self._line(points[start : start + 3], 0.2, CODE["marking"])
                    for side in sides:
                        self._line(side[start : start + 7], 0.2, CODE["marking"])
        for road in [road for road in self.layout.roads if road.kind in ("main", "street")]:
            for _ in range(int(len(road.points) * 0.02)):  # repairs
                at = int(self.rng.integers(len(road.points) - 1))
                span = directions(road.points)[at]
                angle = math.atan2(span[1], span[0])
                spot = road.points[at] + np.array([-span[1], span[0]]) * road.width_m * self.rng.uniform(
                    -0.25, 0.25
                )
                self._fill(
                    rectangle(spot, angle, self.rng.uniform(3, 14), self.rng.uniform(1, 3)), CODE["patch"]
                )
        for bay in self.layout.bays:
            if len(bay) < 3:
                continue
            for x, y, angle in bay:
                across = np.array([-math.sin(angle), math.cos(angle)]) * 1.35
                along = np.array([math.cos(angle), math.sin(angle)]) * 2.4
                corner = np.array([x, y]) + across
                self._line(np.array([corner - along, corner + along]), 0.15, CODE["marking"])

    def _clear_of_junctions(self, points: np.ndarray) -> np.ndarray:
        clear = np.ones(len(points), bool)
        for place in self.layout.junctions:
            clear &= np.linalg.norm(points - place, axis=1) > 9.0
        return clear

    def draw_buildings(self) -> None:
        for building in self.layout.buildings:
            if building.dates[self.date]:
                self._draw_building(building)

    def _window(self, outline: np.ndarray) -> tuple[slice, slice, np.ndarray, np.ndarray] | None:
        """Rows, columns and the pixel centres' x and y in metres around an outline; None if outside."""
        size = self.index.shape[0]
        low = np.clip(np.floor(outline.min(axis=0) / self.gsd_m).astype(int) - 1, 0, size)
        high = np.clip(np.ceil(outline.max(axis=0) / self.gsd_m).astype(int) + 1, 0, size)
        if np.any(high - low < 1):
            return None
        x = (np.arange(low[0], high[0]) + 0.5) * self.gsd_m
        y = (np.arange(low[1], high[1]) + 0.5) * self.gsd_m
        return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0])), x[None, :], y[:, None]

    def _draw_building(self, building: Building) -> None:
        rng = np.random.default_rng(building.seed)
        lean = np.array(self.look.lean) * building.eave_m
        base = building.outline()
        roof = base + lean
        hull = cv2.convexHull(np.concatenate([base, roof]).astype(np.float32))[:, 0].astype(np.float64)
        window = self._window(hull)
        if window is None:
            return
        rows, columns, x, y = window
        wall = rng.uniform(120, 205) * np.array([1.0, 0.97, 0.92])
        fixed = self._fixed(hull) - (np.array([columns.start, rows.start]) << SUBPIXEL)
        side = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
        cv2.fillPoly(side, [fixed.astype(np.int32)], 1, cv2.LINE_8, SUBPIXEL)
        cos, sin = math.cos(building.angle_rad), math.sin(building.angle_rad)
        dx, dy = x - building.centre[0] - lean[0], y - building.centre[1] - lean[1]
        u, v = dx * cos + dy * sin, dy * cos - dx * sin
        edge_u, edge_v = building.length_m / 2 - np.abs(u), building.width_m / 2 - np.abs(v)
        inside = (edge_u >= 0) & (edge_v >= 0)
        height, tone = _roof(
            building, np.random.default_rng((building.seed, self.date)), u, v, edge_u, edge_v
        )
        standing = self.height[rows, columns]
        wall_pixels = (side > 0) & (standing < 0.5 * building.eave_m)
        standing[wall_pixels] = 0.5 * building.eave_m
        self.paint[rows, columns][wall_pixels] = wall
        self.painted[rows, columns][side > 0] = 1
        top = inside & (height > standing)
        standing[top] = height[top]
        colour = building.colour * tone[..., None]
        _roof_extras(building, rng, u, v, edge_u, edge_v, colour, height)
        standing[top] = np.maximum(standing[top], height[top])
        self.paint[rows, columns][top] = np.clip(colour, 8, 250)[top]

    def draw_cars(self) -> None:
        rng = self.rng
        for bay in self.layout.bays:
            filled = rng.uniform(0.2, 0.85)
            for x, y, angle in bay[rng.random(len(bay)) < filled]:
                self._draw_car(np.array([x, y]) + rng.normal(0, 0.15, 2), angle + rng.normal(0, 0.04))
        for road in self.layout.roads:
            gap = {"main": 55.0, "street": 60.0, "lane": 200.0}.get(road.kind)
            if gap is None:
                continue
            tangent = directions(road.points)
            step = float(np.linalg.norm(road.points[1] - road.points[0]))
            for at in np.flatnonzero(rng.random(len(road.points)) < step / gap):
                side = rng.choice([-1.0, 1.0])
                parked = road.kind == "street" and rng.random() < 0.7
                offset = (road.width_m / 2 - 1.1) if parked else road.width_m / 4
                normal = np.array([-tangent[at, 1], tangent[at, 0]])
                self._draw_car(
                    road.points[at] + normal * side * offset,
                    math.atan2(tangent[at, 1], tangent[at, 0]),
                    rng.random() < 0.07,
                )

    def _draw_car(self, centre: np.ndarray, angle: float, lorry: bool = False) -> None:
        rng = self.rng
        length, width, tall = (rng.uniform(7, 14), 2.5, 3.2) if lorry else (rng.uniform(3.9, 4.9), 1.8, 1.4)
        window = self._window(rectangle(centre, angle, length, width))
        if window is None:
            return
        rows, columns, x, y = window
        cos, sin = math.cos(angle), math.sin(angle)
        u, v = (x - centre[0]) * cos + (y - centre[1]) * sin, (y - centre[1]) * cos - (x - centre[0]) * sin
        body = (np.abs(u) < length / 2) & (np.abs(v) < width / 2) & (self.height[rows, columns] < 0.5)
        colour = np.broadcast_to(
            CAR_COLOURS[rng.integers(len(CAR_COLOURS))] + rng.normal(0, 6, 3), (*body.shape, 3)
        ).copy()
        if not lorry:
            glass = ((u > 0.5) & (u < 1.2)) | ((u < -1.3) & (u > -1.9))
            colour[glass] *= 0.45
        self.height[rows, columns][body] = tall
        self.paint[rows, columns][body] = np.clip(colour, 8, 250)[body]
        self.painted[rows, columns][body] = 1

    def draw_trees(self) -> None:
        trees = self.layout.trees
        assert trees is not None
        stamps = _crowns(np.random.default_rng(7))
        sized: dict[tuple[int, int], np.ndarray] = {}
        size = self.index.shape[0]
        grown = 1.0 if self.date else 0.92
        which = self.rng.integers(len(stamps), size=len(trees))
        gone = self.rng.random(len(trees)) < 0.02
        lean = np.array(self.look.lean) * 0.7
        tint = np.where(trees[:, 4] > 0.5, 1 + trees[:, 5] * 126, 128 + trees[:, 5] * 127).astype(np.uint8)
        # Leafless crowns cast thin shadows: to the sun they are lower.
        thin = np.where(trees[:, 4] > 0.5, 1 - 0.7 * self.look.bareness, 1.0) * grown
        for number in np.flatnonzero(~gone):
            x, y, radius, tall = trees[number, :4]
            tall *= thin[number]
            across = max(3, round(2 * radius * grown / self.gsd_m))
            key = (int(which[number]), across)
            crown = sized.get(key)
            if crown is None:
                crown = sized[key] = cv2.resize(
                    stamps[key[0]], (across, across), interpolation=cv2.INTER_AREA
                )
            left = round((x + lean[0] * tall) / self.gsd_m - across / 2)
            top = round((y + lean[1] * tall) / self.gsd_m - across / 2)
            x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + across, size), min(top + across, size)
            if x1 <= x0 or y1 <= y0:
                continue
            crown = crown[y0 - top : y1 - top, x0 - left : x1 - left] * np.float32(tall)
            standing = self.height[y0:y1, x0:x1]
            over = (crown > standing) & (crown > 0.3)
            standing[over] = crown[over]
            self.cover[y0:y1, x0:x1][over] = tint[number]


def _offset(points: np.ndarray, distance_m: float) -> np.ndarray:
    """The polyline moved sideways."""
    tangent = directions(points)
    return points + np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * distance_m


def _roof(
    building: Building,
    rng: np.random.Generator,
    u: np.ndarray,
    v: np.ndarray,
    edge_u: np.ndarray,
    edge_v: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Height in metres and relative brightness over a roof."""
    blotches = _smooth_noise(rng, 5, u.shape)
    tone = rng.normal(1, 0.09) + 0.035 * blotches + 0.03 * rng.standard_normal(u.shape)
    metal = building.colour.min() > 140 or building.length_m > 24
    if metal:
        tone = tone + 0.025 * np.sign(np.sin(2 * math.pi * u / rng.uniform(1.0, 2.2)))
    else:
        streaks = rng.standard_normal(64) * 0.045
        tone = tone + streaks[np.floor((u + 1000) / 0.7).astype(int) % 64]
    if building.roof == "flat":
        height = np.where(np.minimum(edge_u, edge_v) < 0.6, building.eave_m + 0.5, building.eave_m)
        tone = np.where(np.minimum(edge_u, edge_v) < 0.6, tone * 1.1, tone)
        return height, tone
    fall = np.minimum(edge_u, edge_v) if building.roof == "hip" else edge_v
    height = building.eave_m + building.slope * np.maximum(fall, 0)
    ridge = fall > building.width_m / 2 - 0.25
    tone = np.where(ridge, tone * 1.1, tone)
    return height, np.where(np.minimum(edge_u, edge_v) < 0.35, tone * 0.88, tone)


def _roof_extras(
    building: Building,
    rng: np.random.Generator,
    u: np.ndarray,
    v: np.ndarray,
    edge_u: np.ndarray,
    edge_v: np.ndarray,
    colour: np.ndarray,
    height: np.ndarray,
) -> None:
    """Chimneys, windows, solar panels, plant and skylights; changes colour and height in place."""
    length, width = building.length_m, building.width_m
    if building.length_m > 24:
        if rng.random() < 0.6:  # rows of skylights
            pitch = rng.uniform(6, 12)
            light = (np.abs((u % pitch) - pitch / 2) < 0.8) & (edge_v > 2) & (np.abs(v) > width * 0.08)
            colour[light] = colour[light] * 0.4 + np.array([220, 226, 230]) * 0.6
        for _ in range(int(rng.integers(2, 12))):
            centre = rng.uniform(-0.42, 0.42, 2) * [length, width]
            size = rng.uniform(0.8, 3.0, 2)
            box = (np.abs(u - centre[0]) < size[0] / 2) & (np.abs(v - centre[1]) < size[1] / 2)
            colour[box] = rng.uniform(110, 220)
            height[box] += rng.uniform(0.8, 2.0)
        return
    for _ in range(int(rng.integers(0, 3))):
        centre = rng.uniform(-0.4, 0.4, 2) * [length, width]
        box = np.maximum(np.abs(u - centre[0]), np.abs(v - centre[1])) < 0.4
        colour[box] = rng.uniform(70, 170)
        height[box] += 1.2
    if building.roof != "flat" and rng.random() < 0.4:
        side = rng.choice([-1, 1])
        for place in rng.uniform(-0.4, 0.4, 3) * length:
            pane = (np.abs(u - place) < 0.4) & (np.abs(v - side * width * 0.22) < 0.6)
            colour[pane] = (70, 80, 92)
    if rng.random() < 0.14:
        side = rng.choice([-1, 1])
        array = (np.abs(u) < length * rng.uniform(0.2, 0.42)) & (v * side > width * 0.08) & (edge_v > 0.8)
        grid = (np.abs((u % 1.7) - 0.85) > 0.78) | (np.abs((v % 1.1) - 0.55) > 0.48)
        colour[array] = (38, 44, 66)
        colour[array & grid] = (84, 90, 106)


def _smooth_noise(rng: np.random.Generator, knots: int, shape: tuple[int, ...]) -> np.ndarray:
    """(h, w) float32 noise with knots x knots free values."""
    grid = rng.standard_normal((knots, knots), dtype=np.float32)
    return np.asarray(cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))


def _crowns(rng: np.random.Generator) -> list[np.ndarray]:
    """Tree crowns, (64, 64) float32 relative heights with clumps of leaves and ragged outlines."""
    y, x = (np.mgrid[:64, :64] - 31.5) / 31.5
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    stamps = []
    for _ in range(64):
        outline = 0.86 + sum(
            rng.normal(0, 0.05) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 9)
        )
        r = radius / np.maximum(outline, 0.5)
        dome = np.sqrt(np.clip(1 - r**2, 0, 1))
        clumps = _smooth_noise(rng, 9, (64, 64)) + 0.6 * _smooth_noise(rng, 18, (64, 64))
        crown = np.where(r < 1, dome * (0.8 + 0.16 * clumps) + 0.12, 0)
        stamps.append(crown.clip(0, 1.3).astype(np.float32))
    return stamps


def _materials(canvas: _Canvas) -> np.ndarray:
    """(14, rows) float32: two colours, coarse, middle, fine, streaks fine and broad, cos, sin, wheel tracks."""
    look, rng = canvas.look, canvas.rng
    fields = canvas.layout.fields
    table = np.zeros((FIRST_FIELD + len(fields) + len(canvas.tones), 14), np.float32)
    green = look.greenness
    for name, material in MATERIALS.items():
        row = table[CODE[name]]
        row[:6] = green * np.ravel(material.green) + (1 - green) * np.ravel(material.resting)
        # The same asphalt is light in one acquisition and dark in another: wet, worn, seen against the sun.
        row[:6] += rng.normal(0, 10) + np.tile(rng.normal(0, 2, 3), 2)
        row[6:9] = material.coarse, material.middle, material.fine
    crops = CROPS_GREEN if green > 0.5 else CROPS_RESTING
    for number, parcel in enumerate(fields):
        if parcel.use == "crop":
            crop = crops[rng.integers(len(crops))]
        elif parcel.use == "scrub":
            crop = SCRUB[green < 0.5]
        else:
            crop = MEADOW[green < 0.5]
        row = table[FIRST_FIELD + number]
        row[:6] = np.ravel(crop[:2]) + np.tile(rng.normal(0, 2.5, 3) + rng.normal(0, 7), 2)
        row[6:11] = crop[2:7]
        row[11:13] = math.cos(parcel.angle_rad), math.sin(parcel.angle_rad)
        row[13] = crop[7]
    for number, name in enumerate(canvas.tones):
        row = table[FIRST_FIELD + len(fields) + number]
        row[:] = table[CODE[name]]
        if name in ("water", "pond"):
            row[:6] = np.tile(WATERS[rng.integers(len(WATERS))] + rng.normal(0, 4, 3), 2)
            row[3:6] -= 8
            continue
        row[:6] += np.tile(rng.normal(0, 2, 3) + rng.normal(0, 9), 2)
        row[:6] += rng.normal(0, 0.25) * np.tile(row[3:6] - row[:3], 2)  # greener or drier
    table[:, 6:11] /= 100
    return np.ascontiguousarray(table.T)


def _tree_colours(look: Look, rng: np.random.Generator) -> np.ndarray:
    """(256, 3) float32 colour of each tree tint."""
    t = np.linspace(0, 1, 127)[:, None]
    leafy = (1 - t) * np.array([66, 84, 46]) + t * np.array([108, 116, 66])
    autumn = (1 - t) * np.array([112, 92, 66]) + t * np.array([126, 106, 84])
    t = np.linspace(0, 1, 128)[:, None]
    needles = (1 - t) * np.array([46, 62, 42]) + t * np.array([74, 86, 54])
    colours = np.zeros((256, 3), np.float32)
    colours[1:128] = look.greenness * leafy + (1 - look.greenness) * autumn + rng.normal(0, 4, (127, 3))
    colours[128:] = needles + rng.normal(0, 3, (128, 3)) + rng.normal(0, 3, 3)
    return colours


def _shadows(canvas: _Canvas, look: Look) -> np.ndarray:
    """(n, n) uint8 share of sunlight, 255 full, after cast shadows.

    The highest ray from the sun's side is carried on in steps that double, so 128 pixels cost seven shifts.
    """
    unit_m = 0.12
    height = cv2.convertScaleAbs(canvas.height, alpha=1 / unit_m)
    right, down = -math.sin(look.sun_azimuth_rad), math.cos(look.sun_azimuth_rad)  # away from the sun
    drop = math.tan(look.sun_elevation_rad) * canvas.gsd_m / unit_m
    ray = height.copy()
    step = 1
    while step <= 128:
        matrix = np.array([[1, 0, step * right], [0, 1, step * down]], np.float64)
        shifted = cv2.warpAffine(ray, np.round(matrix), ray.shape[::-1], flags=cv2.INTER_NEAREST)
        lower = np.clip(np.arange(256) - step * drop, 0, 255).astype(np.uint8)
        ray = np.maximum(ray, cv2.LUT(shifted, lower))
        step *= 2
    lit = np.where(ray <= cv2.LUT(height, np.minimum(np.arange(256) + 3, 255).astype(np.uint8)), 255, 0)
    return cv2.GaussianBlur(lit.astype(np.uint8), (0, 0), 0.8)


def _light(canvas: _Canvas, ground: Ground, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Colours from materials and noise, shaded by slope and shadow: (n, n, 3) uint8 RGB."""
    size = canvas.index.shape[0]
    sun = _shadows(canvas, look)
    table, trees = _materials(canvas), _tree_colours(look, rng)
    bare = np.zeros(256, np.float32)
    bare[1:128] = look.bareness
    own = fractal(rng, size, canvas.gsd_m, (60, 11, 2.2), (1.0, 0.8, 0.7))
    fine = fractal(rng, size, canvas.gsd_m, (0.8, canvas.gsd_m), (0.8, 0.7))
    drift = fractal(rng, size, canvas.gsd_m, (900, 400), (1.0, 0.6))
    out = np.empty((size, size, 3), np.uint8)
    for top in range(0, size, STRIP_ROWS):
        rows = slice(top, min(top + STRIP_ROWS, size))
        noise = [
            plane[rows].astype(np.float32) * np.float32(1 / 32)
            for plane in (ground.coarse, ground.middle, own, fine)
        ]
        colour = _ground_colour(canvas, ground, table, rows, *noise)
        _, middle, _, grain = noise
        painted = canvas.painted[rows] > 0
        colour[painted] = (
            canvas.paint[rows][painted] * (1 + 0.02 * grain[painted] + 0.015 * middle[painted])[:, None]
        )
        cover = canvas.cover[rows]
        under = cover > 0
        crown = trees[cover[under]] * (1 + 0.09 * grain[under] + 0.06 * middle[under])[:, None]
        share = bare[cover[under]] * np.clip(0.8 + 0.5 * grain[under], 0, 1.25)
        colour[under] = crown + (colour[under] - crown) * share[:, None]
        light = _shade(canvas, look, rows, bare) * (1 + 0.03 / 32 * drift[rows])
        lit = sun[rows].astype(np.float32) * np.float32(1 / 255)
        for channel, ambient in enumerate(look.ambient * np.array([0.92, 1.0, 1.12])):
            # Pictures are stored with a display gamma: half the light looks like 0.73 of it.
            gain = np.sqrt(ambient + (1 - ambient) * lit * light)
            out[rows, :, channel] = np.clip(colour[..., channel] * gain, 0, 255)
    return out


def _ground_colour(
    canvas: _Canvas,
    ground: Ground,
    table: np.ndarray,
    rows: slice,
    coarse: np.ndarray,
    middle: np.ndarray,
    own: np.ndarray,
    fine: np.ndarray,
) -> np.ndarray:
    index = canvas.index[rows]
    mix = np.clip(0.5 + 0.22 * coarse + 0.12 * own + 0.2 * middle, 0, 1)
    bright = 1 + table[6][index] * (0.7 * coarse + 0.5 * own) + table[7][index] * middle
    bright += table[8][index] * fine
    # Rows of crops: stretched noise laid along each field's own direction, bent a little.
    bend = ground.bend[rows].astype(np.float32) * np.float32(3 / 32)
    x = (np.arange(index.shape[1], dtype=np.float32) * np.float32(canvas.gsd_m))[None, :] + bend
    y = (np.arange(rows.start, rows.stop, dtype=np.float32) * np.float32(canvas.gsd_m))[:, None] + bend
    cos, sin = table[11][index], table[12][index]
    along, across = x * cos + y * sin, y * cos - x * sin
    offset = index.astype(np.float32) * 37
    for layer, (scale, column) in enumerate(((0.45, 9), (0.6, 10))):
        streak = cv2.remap(
            ground.streaks[layer],
            (along + offset) * np.float32(1 / scale),
            across * np.float32(1 / scale),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_WRAP,
        )
        bright += table[column][index] * streak
    spacing = table[13][index]
    phase = np.abs(np.mod(across, np.maximum(spacing, 1)) - spacing / 2)
    wheels = (spacing > 0) & (np.abs(phase - 0.9) < 0.28)
    bright[wheels] *= 0.86
    colour = np.empty((*index.shape, 3), np.float32)
    for channel in range(3):
        first = table[channel][index]
        colour[..., channel] = (first + (table[3 + channel][index] - first) * mix) * bright
    return colour


def _shade(canvas: _Canvas, look: Look, rows: slice, bare: np.ndarray) -> np.ndarray:
    """Sunlight on the slope relative to level ground."""
    size = canvas.height.shape[0]
    low, high = max(rows.start - 1, 0), min(rows.stop + 1, size)
    height = canvas.height[low:high]
    scale = 1 / (2 * canvas.gsd_m)
    right = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=1, scale=scale)[rows.start - low : rows.stop - low]
    down = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=1, scale=scale)[rows.start - low : rows.stop - low]
    crowns = canvas.cover[rows]
    soft = np.where(crowns > 0, np.float32(0.55), np.float32(1.0)) * (1 - bare[crowns])
    limit = np.float32(1.2)  # edges of roofs and crowns are steps, not slopes
    right = np.clip(right * soft, -limit, limit)
    down = np.clip(down * soft, -limit, limit)
    azimuth, elevation = look.sun_azimuth_rad, look.sun_elevation_rad
    toward = (math.sin(azimuth) / math.tan(elevation), -math.cos(azimuth) / math.tan(elevation))
    facing = 1 - right * np.float32(toward[0]) - down * np.float32(toward[1])
    return np.clip(facing / np.sqrt(1 + right * right + down * down), 0.1, 1.7)


def _sense(picture: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Haze, colour, tone, sharpness, noise and compression of the date's sensor."""
    grey = np.array([0.30, 0.59, 0.11])
    matrix = look.saturation * np.eye(3) + (1 - look.saturation) * np.tile(grey, (3, 1))
    picture = cv2.transform(picture, matrix)
    levels = np.arange(256) / 255
    tone = np.clip(0.42 + (levels - 0.42) * look.contrast, 0, 1) ** (1 / look.gamma)
    veil = np.array([0.74, 0.78, 0.84])
    table = tone[:, None] * np.array(look.gain) * (1 - look.haze) + veil * look.haze
    picture = cv2.LUT(picture, np.clip(255 * table, 0, 255).round().astype(np.uint8)[:, None])
    picture = cv2.GaussianBlur(picture, (0, 0), look.blur_px)
    if look.sharpen > 0.05:
        picture = cv2.addWeighted(
            picture, 1 + look.sharpen, cv2.GaussianBlur(picture, (0, 0), 1.2), -look.sharpen, 0
        )
    for top in range(0, picture.shape[0], STRIP_ROWS):
        strip = picture[top : top + STRIP_ROWS]
        grain = rng.standard_normal(strip.shape, dtype=np.float32) * np.float32(look.noise)
        picture[top : top + STRIP_ROWS] = cv2.add(
            strip, cv2.GaussianBlur(grain, (0, 0), 0.6), dtype=cv2.CV_8U
        )
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, look.jpeg_quality]
    )
    return cv2.cvtColor(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)
