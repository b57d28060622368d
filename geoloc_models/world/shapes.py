# SPDX-License-Identifier: Apache-2.0
"""What a generated world is made of: the things on the ground as vectors, and the geometry to place them.

Coordinates are metres from the upper left corner, x to the east and y to the south. Things carry the dates
(first, second) on which they exist; all else is common to both dates.
"""

import itertools
import math
from dataclasses import dataclass, field

import cv2
import numpy as np

Dates = tuple[bool, bool]

BOTH: Dates = (True, True)


@dataclass
class Road:
    """A line of travel."""

    points: np.ndarray  # (n, 2) m
    width_m: float
    kind: str  # "main", "street", "lane", "track" or "path"


@dataclass
class Building:
    """A rectangular body; an L-shaped house is two of them."""

    centre: np.ndarray  # (2,) m
    angle_rad: float  # of its length
    length_m: float
    width_m: float
    roof: str  # "gable", "hip" or "flat"
    eave_m: float
    slope: float
    colour: np.ndarray  # (3,)
    dates: Dates = BOTH
    seed: int = 0

    def outline(self, margin_m: float = 0.0) -> np.ndarray:
        """(4, 2) corners, m."""
        return rectangle(self.centre, self.angle_rad, self.length_m + 2 * margin_m, self.width_m + 2 * margin_m)


@dataclass
class Area:
    """A patch of ground of one material."""

    outline: np.ndarray  # (n, 2) m
    material: str
    dates: Dates = BOTH


@dataclass
class Field:
    """A parcel of farmland; its crop on each date is drawn from its number."""

    outline: np.ndarray  # (n, 2) m
    angle_rad: float  # of the rows
    use: str  # "crop", "meadow", "scrub" or "orchard"


@dataclass
class Layout:
    """The whole world as vectors."""

    size_m: float
    roads: list[Road] = field(default_factory=list)
    junctions: list[np.ndarray] = field(default_factory=list)
    buildings: list[Building] = field(default_factory=list)
    areas: list[Area] = field(default_factory=list)
    fences: list[np.ndarray] = field(default_factory=list)
    fields: list[Field] = field(default_factory=list)
    ponds: list[np.ndarray] = field(default_factory=list)
    river: np.ndarray | None = None  # (n, 3): x, y, width, m
    woods: np.ndarray | None = None  # (h, w) bool on a 2 m grid
    trees: np.ndarray | None = None  # (n, 6): x, y, radius, height, deciduous share 0/1, tint 0..1
    bays: list[np.ndarray] = field(default_factory=list)  # (n, 3) parked places: x, y, angle
    built_up: list[np.ndarray] = field(default_factory=list)  # outlines of settlements


class Occupancy:
    """What ground is taken, on a 1 m grid."""

    def __init__(self, size_m: float) -> None:
        self.size = math.ceil(size_m)
        self.grid = np.zeros((self.size, self.size), np.uint8)

    def add_line(self, points: np.ndarray, width_m: float) -> None:
        cv2.polylines(self.grid, [np.round(points).astype(np.int32)], False, 1, max(1, round(width_m)))

    def add(self, outline: np.ndarray) -> None:
        cv2.fillPoly(self.grid, [np.round(outline).astype(np.int32)], 1)

    def free(self, outline: np.ndarray) -> bool:
        """Whether the whole outline is inside the world and on untaken ground."""
        low = np.floor(outline.min(axis=0)).astype(int)
        high = np.ceil(outline.max(axis=0)).astype(int) + 1
        if low.min() < 0 or high.max() > self.size:
            return False
        window = self.grid[low[1] : high[1], low[0] : high[0]]
        mask = np.zeros_like(window)
        cv2.fillPoly(mask, [np.round(outline - low).astype(np.int32)], 1)
        return not np.any(window & mask)

    def at(self, points: np.ndarray) -> np.ndarray:
        """(n,) whether each point is taken; outside counts as taken."""
        cells = np.floor(points).astype(int)
        inside = np.all((cells >= 0) & (cells < self.size), axis=1)
        taken = np.ones(len(points), bool)
        taken[inside] = self.grid[cells[inside, 1], cells[inside, 0]] > 0
        return taken


class Warp:
    """A smooth bending of the plane: the sum of a few sine waves, so that nothing is quite straight."""

    def __init__(self, rng: np.random.Generator, waves: list[tuple[float, float]]) -> None:
        """waves: (amplitude, wavelength) in metres; two of each are drawn."""
        self.waves = []
        for amplitude, wavelength in waves:
            for _ in range(2):
                angle, shift, phase = rng.uniform(0, 2 * math.pi, 3)
                vector = np.array([math.cos(angle), math.sin(angle)]) * 2 * math.pi / wavelength
                self.waves.append((vector, amplitude * np.array([math.cos(shift), math.sin(shift)]), phase))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        result = np.array(points, dtype=np.float64)
        for vector, amplitude, phase in self.waves:
            result += np.sin(points @ vector + phase)[..., None] * amplitude
        return result


def rectangle(centre: np.ndarray, angle_rad: float, length_m: float, width_m: float) -> np.ndarray:
    """(4, 2) corners of a turned rectangle."""
    along = np.array([math.cos(angle_rad), math.sin(angle_rad)]) * length_m / 2
    across = np.array([-math.sin(angle_rad), math.cos(angle_rad)]) * width_m / 2
    return centre + np.array([along + across, along - across, -along - across, -along + across])


def strip(points: np.ndarray, width_m: float) -> np.ndarray:
    """(4, 2) outline of a straight strip between two points."""
    span = points[1] - points[0]
    angle = math.atan2(span[1], span[0])
    return rectangle(points.mean(axis=0), angle, float(np.linalg.norm(span)), width_m)


def densify(points: np.ndarray, step_m: float = 4.0) -> np.ndarray:
    """The same polyline with a point at least every step."""
    parts = [points[:1]]
    for start, end in itertools.pairwise(points):
        count = max(1, math.ceil(float(np.linalg.norm(end - start)) / step_m))
        parts.append(start + (end - start) * (np.arange(1, count + 1) / count)[:, None])
    return np.concatenate(parts)


def directions(points: np.ndarray) -> np.ndarray:
    """(n, 2) unit tangents of a polyline."""
    tangent = np.gradient(points, axis=0)
    return tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)


def blob(rng: np.random.Generator, centre: np.ndarray, radius_m: float, stretch: float = 1.0) -> np.ndarray:
    """(n, 2) outline of a rounded patch."""
    angle = np.linspace(0, 2 * math.pi, 64, endpoint=False)
    radius = np.ones(64)
    for order in range(2, 7):
        radius += rng.normal(0, 0.28 / order) * np.cos(order * angle + rng.uniform(0, 2 * math.pi))
    radius = np.maximum(radius, 0.3) * radius_m
    turn = rng.uniform(0, math.pi)
    x, y = radius * np.cos(angle) * stretch, radius * np.sin(angle) / stretch
    return centre + np.stack([x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)], axis=1)


def runs(keep: np.ndarray) -> list[slice]:
    """Slices of the stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], keep.astype(np.int8), [0]])))
    return [slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def smooth_at(rng: np.random.Generator, size_m: float, wavelength_m: float, points: np.ndarray) -> np.ndarray:
    """(n,) smooth noise at points."""
    knots = math.ceil(size_m / wavelength_m) + 3
    cells = math.ceil(size_m / 4) + 1
    grid = rng.standard_normal((knots, knots), dtype=np.float32)
    smooth = cv2.resize(grid, (cells, cells), interpolation=cv2.INTER_CUBIC)
    at = np.clip((points / 4).astype(int), 0, cells - 1)
    return smooth[at[:, 1], at[:, 0]]
