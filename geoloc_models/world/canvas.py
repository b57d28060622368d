# SPDX-License-Identifier: Apache-2.0
"""Draws the vectors of a generated world for one date: material and height at each place."""

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np

from geoloc_models.world.materials import CODE, FIRST_FIELD, SOFT, smooth_noise
from geoloc_models.world.roofs import offset_line, roof_extras, roof_surface
from geoloc_models.world.shapes import Building, Layout, blob, densify, directions, rectangle

SUBPIXEL = 4  # fractional bits of OpenCV's drawing coordinates
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
    haze: float  # share of the image that is white veil
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
    def draw(cls, rng: np.random.Generator, summer: bool) -> "Look":
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
            blur_px=rng.uniform(0.65, 1.0),
            sharpen=rng.uniform(0.0, 0.6),
            noise=rng.uniform(1.5, 4.0),
            jpeg_quality=int(rng.integers(72, 93)),
            lean=(float(rng.normal(0, 0.08)), float(rng.normal(0, 0.08))),
        )


class Canvas:
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
                self._line(offset_line(road.points, offset * road.width_m), 1.6, CODE["worn"])
        self._draw_markings()

    def _draw_markings(self) -> None:
        for road in [road for road in self.layout.roads if road.kind == "main"]:
            points = densify(road.points, 2.0)
            sides = [offset_line(points, side * (road.width_m / 2 - 0.4)) for side in (-1, 1)]
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
                spot = road.points[at] + np.array([-span[1], span[0]]) * road.width_m * self.rng.uniform(-0.25, 0.25)
                self._fill(rectangle(spot, angle, self.rng.uniform(3, 14), self.rng.uniform(1, 3)), CODE["patch"])
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
        height, tone = roof_surface(building, np.random.default_rng((building.seed, self.date)), u, v, edge_u, edge_v)
        standing = self.height[rows, columns]
        wall_pixels = (side > 0) & (standing < 0.5 * building.eave_m)
        standing[wall_pixels] = 0.5 * building.eave_m
        self.paint[rows, columns][wall_pixels] = wall
        self.painted[rows, columns][side > 0] = 1
        top = inside & (height > standing)
        standing[top] = height[top]
        colour = building.colour * tone[..., None]
        roof_extras(building, rng, u, v, edge_u, edge_v, colour, height)
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
                crown = sized[key] = cv2.resize(stamps[key[0]], (across, across), interpolation=cv2.INTER_AREA)
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


def _crowns(rng: np.random.Generator) -> list[np.ndarray]:
    """Tree crowns, (64, 64) float32 relative heights with clumps of leaves and ragged outlines."""
    y, x = (np.mgrid[:64, :64] - 31.5) / 31.5
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    stamps = []
    for _ in range(64):
        outline = 0.86 + sum(rng.normal(0, 0.05) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 9))
        r = radius / np.maximum(outline, 0.5)
        dome = np.sqrt(np.clip(1 - r**2, 0, 1))
        clumps = smooth_noise(rng, 9, (64, 64)) + 0.6 * smooth_noise(rng, 18, (64, 64))
        crown = np.where(r < 1, dome * (0.8 + 0.16 * clumps) + 0.12, 0)
        stamps.append(crown.clip(0, 1.3).astype(np.float32))
    return stamps
