# SPDX-License-Identifier: Apache-2.0
"""What stands where in a generated world: roads, plots, buildings, fields, water and trees as vectors.

Coordinates are metres from the upper left corner, x to the east and y to the south. Everything is drawn from
one random generator, so a seed always gives the same world. Things carry the dates (first, second) on which
they exist; all else is common to both dates.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import cv2
import numpy as np

Dates = tuple[bool, bool]
BOTH: Dates = (True, True)

ROOF_COLOURS = np.array(
    [
        (92, 90, 92), (112, 108, 106), (74, 72, 76), (134, 128, 122), (104, 92, 84), (126, 104, 88),  # shingle
        (150, 92, 74), (164, 106, 82), (138, 80, 66), (120, 70, 60), (172, 124, 98),  # clay tile
        (96, 84, 74), (84, 76, 70), (140, 116, 96),  # weathered
    ],
    dtype=np.float32,
)  # fmt: skip
METAL_COLOURS = np.array(
    [
        (206, 206, 204), (188, 190, 192), (222, 220, 214), (170, 172, 172), (150, 152, 150), (196, 188, 176),
        (92, 110, 146), (146, 84, 82), (112, 122, 114), (128, 128, 130),
    ],
    dtype=np.float32,
)  # fmt: skip


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
        return rectangle(
            self.centre, self.angle_rad, self.length_m + 2 * margin_m, self.width_m + 2 * margin_m
        )


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


def rectangle(centre: np.ndarray, angle_rad: float, length_m: float, width_m: float) -> np.ndarray:
    """(4, 2) corners of a turned rectangle."""
    along = np.array([math.cos(angle_rad), math.sin(angle_rad)]) * length_m / 2
    across = np.array([-math.sin(angle_rad), math.cos(angle_rad)]) * width_m / 2
    return centre + np.array([along + across, along - across, -along - across, -along + across])


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
    return centre + np.stack(
        [x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)], axis=1
    )


def make_layout(size_m: float, rng: np.random.Generator) -> Layout:
    """Lay out a world: first what shapes the land, then what people put beside it, last what grows."""
    world = Layout(size_m)
    taken = Occupancy(size_m)
    warp = Warp(rng, [(size_m * 0.016, size_m * 0.36), (4.0, 110.0)])
    _add_main_roads(world, rng)
    _add_river(world, rng, taken)
    _add_lanes(world, rng)
    _add_settlements(world, rng, taken)
    _keep_out(world, taken)
    for road in world.roads:
        taken.add_line(road.points, road.width_m + 5.0)
    _add_ponds(world, rng, taken)
    _add_works(world, rng, taken)
    _add_houses(world, rng, taken)
    _add_fields(world, rng, warp, taken)
    _add_woods(world, rng, taken)
    _add_trees(world, rng, taken)
    world.junctions = _junctions(world.roads)
    return world


def _across(rng: np.random.Generator, size_m: float, share: float, upright: bool, bend: float) -> np.ndarray:
    """(n, 2) a line from edge to edge that wanders."""
    t = np.linspace(-0.06, 1.06, max(24, round(size_m / 5)))
    offset = np.full_like(t, share)
    for order in (0.7, 1.3, 2.4, 4.1):
        offset += rng.normal(0, bend / order**1.3) * np.sin(
            math.pi * 2 * order * t / 1.2 + rng.uniform(0, 2 * math.pi)
        )
    offset += (t - 0.5) * rng.normal(0, 0.15)
    return np.stack([offset, t] if upright else [t, offset], axis=1) * size_m


def _add_river(world: Layout, rng: np.random.Generator, taken: Occupancy) -> None:
    """A river from edge to edge; of a few courses the one that keeps clear of the main roads."""
    roads = np.concatenate([road.points for road in world.roads])
    best, line = math.inf, np.zeros((0, 2))
    for _ in range(10):
        course = _across(rng, world.size_m, rng.uniform(0.1, 0.9), bool(rng.integers(2)), 0.05)
        gap = np.linalg.norm(course[:, None] - roads[None], axis=2).min(axis=1)
        close = float(np.mean(gap < 40))
        if close < best:
            best, line = close, course
    width = rng.uniform(12, 28) * (1 + 0.25 * np.sin(np.arange(len(line)) / rng.uniform(9, 16)))
    world.river = np.column_stack([line, width])
    for start, end in itertools.pairwise(world.river):
        taken.add_line(np.array([start[:2], end[:2]]), float(start[2]) + 12)


def _add_main_roads(world: Layout, rng: np.random.Generator) -> None:
    size_m = world.size_m
    count = max(1, round(size_m / 900))
    for upright in (False, True):
        for index in range(count):
            share = (index + 0.5) / count + rng.normal(0, 0.06)
            width = float(rng.choice([7.5, 9.0, 11.0]))
            world.roads.append(Road(_across(rng, size_m, share, upright, 0.035), width, "main"))


def _add_lanes(world: Layout, rng: np.random.Generator) -> None:
    """Lanes and tracks leave a main road at about a right angle and wander off, often to the edge."""
    size_m, mains = world.size_m, list(world.roads)
    for _ in range(max(2, round(size_m / 230))):
        host = mains[rng.integers(len(mains))].points
        index = int(rng.integers(len(host) // 8, len(host) * 7 // 8))
        tangent = directions(host)[index]
        side = rng.choice([-1.0, 1.0])
        heading = math.atan2(tangent[0] * side, -tangent[1] * side) + rng.normal(0, 0.3)
        points, position = [host[index]], host[index]
        for _ in range(int(rng.uniform(0.3, 1.0) * size_m / 12)):
            heading += rng.normal(0, 0.07)
            position = position + 12 * np.array([math.cos(heading), math.sin(heading)])
            points.append(position)
            if position.min() < -20 or position.max() > size_m + 20:
                break
        kind = "lane" if rng.random() < 0.6 else "track"
        line = cv2.blur(np.pad(np.array(points), ((2, 2), (0, 0)), mode="edge"), (1, 5))[2:-2]
        line[0] = host[index]
        world.roads.append(Road(densify(line), 4.6 if kind == "lane" else 3.2, kind))


def _add_settlements(world: Layout, rng: np.random.Generator, taken: Occupancy) -> None:
    """Quarters with a bent grid of streets, beside the main roads."""
    mains = [road for road in world.roads if road.kind == "main"]
    centres: list[tuple[np.ndarray, float]] = []
    for _ in range(60):
        if len(centres) >= max(1, round((world.size_m / 640) ** 2)):
            break
        host = mains[rng.integers(len(mains))].points
        index = int(rng.integers(len(host) // 10, len(host) * 9 // 10))
        tangent = directions(host)[index]
        radius = min(rng.uniform(90, 250), world.size_m * 0.3)
        side = rng.choice([-1.0, 1.0]) * rng.uniform(0.2, 0.8) * radius
        centre = host[index] + side * np.array([-tangent[1], tangent[0]])
        if any(np.linalg.norm(centre - other) < 1.2 * (radius + reach) for other, reach in centres):
            continue
        centres.append((centre, radius))
        outline = blob(rng, centre, radius, rng.uniform(1.0, 1.3))
        world.built_up.append(outline)
        _add_street_grid(world, rng, taken, centre, math.atan2(tangent[1], tangent[0]), outline)


def _add_street_grid(
    world: Layout,
    rng: np.random.Generator,
    taken: Occupancy,
    centre: np.ndarray,
    angle: float,
    outline: np.ndarray,
) -> None:
    warp = Warp(rng, [(rng.uniform(5, 26), rng.uniform(320, 600)), (rng.uniform(0, 2), 160.0)])
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    reach = 340.0
    contour = outline.astype(np.float32).reshape(-1, 1, 2)
    gap_long, gap_cross = rng.uniform(58, 74), rng.uniform(110, 210)
    rows = np.arange(-reach, reach, gap_long)
    rows = rows + rng.normal(0, 5, len(rows))
    lines = [np.array([[-reach, row], [reach, row]]) for row in rows]
    for column in np.arange(-reach, reach, gap_cross):
        for low, high in itertools.pairwise(rows):
            if rng.random() < 0.72:  # cross streets are staggered and some are missing
                x = column + rng.normal(0, 14)
                lines.append(np.array([[x, low], [x, high]]))
    for line in lines:
        points = warp(centre + densify(line, 5.0) @ turn)
        keep = np.array([cv2.pointPolygonTest(contour, (float(x), float(y)), False) >= 0 for x, y in points])
        keep &= ~taken.at(points)
        for run in _runs(keep):
            if run.stop - run.start >= 8:
                world.roads.append(Road(points[run], float(rng.choice([5.5, 6.5, 7.5])), "street"))


def _keep_out(world: Layout, taken: Occupancy) -> None:
    """Lanes and tracks end where a quarter or the river begins; main roads have bridges."""
    land = Occupancy(world.size_m)
    land.grid |= taken.grid
    for outline in world.built_up:
        land.add(outline)
    kept = []
    for road in world.roads:
        if road.kind not in ("lane", "track"):
            kept.append(road)
            continue
        outside = ~land.at(np.clip(road.points, 0, world.size_m - 1e-3))
        runs = [run for run in _runs(outside) if run.stop - run.start > 8]
        kept += [Road(road.points[run], road.width_m, road.kind) for run in runs]
    world.roads = kept


def _runs(keep: np.ndarray) -> list[slice]:
    """Slices of the stretches of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], keep.astype(np.int8), [0]])))
    return [slice(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _add_ponds(world: Layout, rng: np.random.Generator, taken: Occupancy) -> None:
    for _ in range(max(2, round((world.size_m / 420) ** 2))):
        outline = blob(
            rng, rng.uniform(0.04, 0.96, 2) * world.size_m, float(rng.uniform(8, 34)), rng.uniform(1, 1.6)
        )
        if taken.free(outline):
            world.ponds.append(outline)
            taken.add(outline + (outline - outline.mean(axis=0)) * 0.35)


def _add_works(world: Layout, rng: np.random.Generator, taken: Occupancy) -> None:
    """Halls, shops and schools with yards and car parks, along main roads and streets."""
    hosts = [road for road in world.roads if road.kind in ("main", "street")]
    wanted, done = max(2, round((world.size_m / 330) ** 2)), 0
    for _ in range(wanted * 12):
        if done >= wanted:
            break
        road = hosts[rng.integers(len(hosts))]
        index = int(rng.integers(1, len(road.points) - 1))
        tangent = directions(road.points)[index]
        normal = np.array([-tangent[1], tangent[0]]) * rng.choice([-1.0, 1.0])
        depth, front = rng.uniform(45, 95), rng.uniform(50, 120)
        angle = math.atan2(tangent[1], tangent[0])
        centre = road.points[index] + normal * (depth / 2 + road.width_m / 2 + 5)
        yard = rectangle(centre, angle, front, depth)
        if not taken.free(yard):
            continue
        done += 1
        taken.add(yard)
        surface = str(rng.choice(["concrete", "asphalt", "gravel"]))
        dates = BOTH if rng.random() < 0.85 else (False, True)
        world.areas.append(Area(rectangle(centre, angle, front, depth), surface, dates))
        if not dates[0]:
            world.areas.append(Area(yard, "soil", (True, False)))
        _fill_yard(world, rng, centre, normal, angle, front, depth, dates)
        entrance = np.array([road.points[index], centre - normal * depth / 2 + tangent * rng.uniform(-9, 9)])
        world.areas.append(Area(_strip(entrance, 7.0), surface))


def _fill_yard(
    world: Layout,
    rng: np.random.Generator,
    centre: np.ndarray,
    normal: np.ndarray,
    angle: float,
    front: float,
    depth: float,
    dates: Dates,
) -> None:
    along = np.array([math.cos(angle), math.sin(angle)])
    halls = int(rng.integers(1, 3))
    for number in range(halls):
        length = front / halls * rng.uniform(0.55, 0.82)
        width = min(depth * rng.uniform(0.32, 0.55), length)
        at = centre + along * ((number + 0.5) / halls - 0.5) * front + normal * (depth / 2 - width / 2 - 4)
        colour = METAL_COLOURS[rng.integers(len(METAL_COLOURS))] + rng.normal(0, 6, 3)
        roof = "flat" if rng.random() < 0.65 else "gable"
        world.buildings.append(
            Building(
                at,
                angle,
                length,
                width,
                roof,
                rng.uniform(5, 10),
                0.16,
                colour,
                dates,
                int(rng.integers(1 << 30)),
            )
        )
    for row in range(int(rng.integers(1, 4))):  # bays across the front of the yard
        line = centre - normal * (depth / 2 - 4 - 7.5 * row)
        places = np.arange(-front / 2 + 4, front / 2 - 4, 2.7)
        world.bays.append(
            np.array(
                [(*(line + along * place), angle + math.pi / 2) for place in places if rng.random() < 0.97]
            )
        )


def _strip(points: np.ndarray, width_m: float) -> np.ndarray:
    """(4, 2) outline of a straight strip between two points."""
    span = points[1] - points[0]
    angle = math.atan2(span[1], span[0])
    return rectangle(points.mean(axis=0), angle, float(np.linalg.norm(span)), width_m)


def _add_houses(world: Layout, rng: np.random.Generator, taken: Occupancy) -> None:
    contours = [outline.astype(np.float32).reshape(-1, 1, 2) for outline in world.built_up]
    for road in [road for road in world.roads if road.kind in ("street", "main", "lane")]:
        tangents = directions(road.points)
        length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(road.points, axis=0), axis=1))])
        for side in (-1.0, 1.0):
            at = float(rng.uniform(6, 20))
            while at < length[-1] - 6:
                index = int(np.searchsorted(length, at))
                point, tangent = road.points[index], tangents[index]
                where = (float(point[0]), float(point[1]))
                inside = any(cv2.pointPolygonTest(contour, where, True) > -15 for contour in contours)
                frontage = float(rng.uniform(15, 23)) if inside else float(rng.uniform(24, 60))
                chance = 0.93 if inside else {"main": 0.16, "lane": 0.14, "street": 0.9}[road.kind]
                built = rng.random() < chance
                if built and not _add_plot(world, rng, taken, road, point, tangent, side, frontage, inside):
                    frontage = 4.0  # try again a little further on
                at += frontage
    _add_sheds(world, rng, taken)


def _add_plot(
    world: Layout,
    rng: np.random.Generator,
    taken: Occupancy,
    road: Road,
    point: np.ndarray,
    tangent: np.ndarray,
    side: float,
    frontage: float,
    inside: bool,
) -> bool:
    """A house with its ground, drive and garden; False if the place is taken."""
    normal = np.array([-tangent[1], tangent[0]]) * side
    angle = math.atan2(tangent[1], tangent[0]) + rng.normal(0, 0.02 if inside else 0.15)
    farm = not inside and rng.random() < 0.5
    length = float(rng.uniform(16, 30)) if farm else float(rng.uniform(9.5, min(17.0, frontage - 5)))
    width = min(length, float(rng.uniform(9, 15)) if farm else float(rng.uniform(7.5, 11.5)))
    setback = road.width_m / 2 + float(rng.uniform(5, 9)) + width / 2
    centre = point + normal * setback
    roof = "flat" if rng.random() < 0.1 else ("hip" if rng.random() < 0.4 else "gable")
    colours = METAL_COLOURS if farm and rng.random() < 0.6 else ROOF_COLOURS
    colour = colours[rng.integers(len(colours))] + rng.normal(0, 9) + rng.normal(0, 2.5, 3)
    draw = rng.random()
    dates = (False, True) if draw < 0.05 else ((True, False) if draw < 0.075 else BOTH)
    turned = angle + (math.pi / 2 if rng.random() < 0.25 else 0.0)
    eave = float(rng.uniform(2.8, 6.2))
    house = Building(
        centre,
        turned,
        length,
        width,
        roof,
        eave,
        float(rng.uniform(0.35, 0.75)),
        colour,
        dates,
        int(rng.integers(1 << 30)),
    )
    if not taken.free(house.outline(1.0)):
        return False
    depth = float(rng.uniform(26, 34)) if inside else float(rng.uniform(30, 55))
    plot_centre = point + normal * (road.width_m / 2 + 2.0 + depth / 2)
    plot = rectangle(plot_centre, angle, frontage - 0.6, depth)
    world.areas.append(Area(plot, str(rng.choice(["lawn", "lawn", "garden", "yard"]))))
    if rng.random() < 0.5:
        world.fences.append(np.concatenate([plot, plot[:1]]))
    world.buildings.append(house)
    taken.add(house.outline(2.0))
    if rng.random() < 0.45:  # a wing makes the house an L or a T
        out = width * rng.uniform(0.5, 0.9)
        along = np.array([math.cos(turned), math.sin(turned)])
        across = np.array([-along[1], along[0]]) * rng.choice([-1.0, 1.0])
        wing = Building(
            centre + along * rng.uniform(-0.3, 0.3) * length + across * (width / 2 + out / 4),
            turned + math.pi / 2, width / 2 + out, length * rng.uniform(0.35, 0.5), roof,
            eave * rng.choice([0.75, 1.0]), house.slope, colour, dates, int(rng.integers(1 << 30)),
        )  # fmt: skip
        world.buildings.append(wing)
        taken.add(wing.outline(1.0))
    along_road = np.array([math.cos(angle), math.sin(angle)])
    drive_at = along_road * rng.uniform(-0.35, 0.35) * min(length, frontage)
    drive = np.array([point + drive_at, centre + drive_at])
    surface = str(rng.choice(["concrete", "asphalt", "gravel", "paving"]))
    world.areas.append(Area(_strip(drive, float(rng.uniform(2.8, 5.5))), surface))
    if rng.random() < 0.6:
        world.bays.append(np.array([(*(drive[0] * 0.4 + drive[1] * 0.6), math.atan2(normal[1], normal[0]))]))
    if rng.random() < 0.5:
        patio = centre + normal * (width / 2 + 1.5) + along_road * rng.uniform(-3, 3)
        world.areas.append(
            Area(rectangle(patio, angle, float(rng.uniform(4, 9)), float(rng.uniform(3, 5))), "paving")
        )
    if rng.random() < 0.08:
        pool = centre + normal * (width / 2 + 7) + along_road * rng.uniform(-4, 4)
        world.areas.append(Area(rectangle(pool, angle, 8.0, 4.0), "pool"))
    return True


def _add_sheds(world: Layout, rng: np.random.Generator, taken: Occupancy) -> None:
    """Sheds and garages behind the houses."""
    for house in list(world.buildings):
        if house.length_m > 20 or rng.random() < 0.55:
            continue
        offset = rng.uniform(9, 17) * np.array([math.cos(a := rng.uniform(0, 2 * math.pi)), math.sin(a)])
        colours = METAL_COLOURS if rng.random() < 0.5 else ROOF_COLOURS
        shed = Building(
            house.centre + offset, house.angle_rad + rng.choice([0, math.pi / 2]), float(rng.uniform(3.5, 8)),
            float(rng.uniform(3, 4.5)), str(rng.choice(["flat", "gable"])), 2.4, 0.3,
            colours[rng.integers(len(colours))] + rng.normal(0, 8, 3), house.dates, int(rng.integers(1 << 30)),
        )  # fmt: skip
        if taken.free(shed.outline(0.5)):
            world.buildings.append(shed)
            taken.add(shed.outline(0.5))


def _add_fields(world: Layout, rng: np.random.Generator, warp: Warp, taken: Occupancy) -> None:
    """Farmland: the whole plane cut again and again into parcels, then bent."""
    size_m = world.size_m
    land = Occupancy(size_m)
    land.grid |= taken.grid
    for outline in world.built_up:
        land.add(outline)
    turn = rng.uniform(0, math.pi / 2)
    rotation = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    stack = [(-0.75 * size_m, -0.75 * size_m, 0.75 * size_m, 0.75 * size_m)]
    while stack:
        x0, y0, x1, y1 = stack.pop()
        width, depth = x1 - x0, y1 - y0
        middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2]) @ rotation + size_m / 2
        if np.abs(middle - size_m / 2).max() > size_m * 0.5 + max(width, depth):
            continue
        if width * depth > math.exp(rng.normal(9.3, 0.6)) or max(width, depth) > 3.2 * min(width, depth):
            cut = rng.uniform(0.34, 0.66)
            if width > depth:
                stack += [(x0, y0, x0 + cut * width, y1), (x0 + cut * width, y0, x1, y1)]
            else:
                stack += [(x0, y0, x1, y0 + cut * depth), (x0, y0 + cut * depth, x1, y1)]
            continue
        corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]])
        outline = warp(densify(corners, 8.0) @ rotation + size_m / 2)
        axis = rotation[0] if width > depth else rotation[1]
        use = str(rng.choice(["crop", "meadow", "scrub", "orchard"], p=[0.56, 0.28, 0.11, 0.05]))
        angle = math.atan2(axis[1], axis[0]) + rng.normal(0, 0.04)
        world.fields.append(Field(outline, angle, use))
        if rng.random() < 0.13:  # a farm track along one side
            side = outline[: max(2, len(outline) // 3)]
            world.roads += [
                Road(side[run], 2.8, "track") for run in _runs(~land.at(side)) if run.stop - run.start > 5
            ]
    for _ in range(max(2, round(size_m / 200))):  # trodden paths
        start = rng.uniform(0, size_m, 2)
        heading = rng.uniform(0, 2 * math.pi)
        steps = np.cumsum(rng.normal(0, 0.12, 40)) + heading
        line = start + np.cumsum(6 * np.stack([np.cos(steps), np.sin(steps)], axis=1), axis=0)
        width = float(rng.uniform(0.8, 1.6))
        world.roads += [
            Road(line[run], width, "path") for run in _runs(~land.at(line)) if run.stop - run.start > 6
        ]


def _add_woods(world: Layout, rng: np.random.Generator, taken: Occupancy) -> None:
    cells = math.ceil(world.size_m / 2)
    noise = np.zeros((cells, cells), np.float32)
    for wavelength, gain in ((420, 1.0), (150, 0.5), (55, 0.25), (20, 0.12)):
        knots = max(4, math.ceil(world.size_m / wavelength) + 3)
        grid = rng.standard_normal((knots, knots), dtype=np.float32)
        noise += gain * cv2.resize(grid, (cells, cells), interpolation=cv2.INTER_CUBIC)
    if world.river is not None:  # trees like the banks
        along = np.zeros((cells, cells), np.uint8)
        cv2.polylines(along, [np.round(world.river[:, :2] / 2).astype(np.int32)], False, 1, 26)
        noise += 0.55 * along
    small = cv2.resize(taken.grid, (cells, cells), interpolation=cv2.INTER_AREA)
    built = np.zeros((cells, cells), np.uint8)
    for outline in world.built_up:
        cv2.fillPoly(built, [np.round(outline / 2).astype(np.int32)], 1)
    noise -= 2.0 * built
    world.woods = (noise > np.quantile(noise, 0.84)) & (small == 0)


def _add_trees(world: Layout, rng: np.random.Generator, taken: Occupancy) -> None:
    size_m = world.size_m
    assert world.woods is not None
    sets = []
    # Woods: a jittered grid gives a closed but uneven canopy.
    grid = np.stack(np.meshgrid(np.arange(0, size_m, 4.6), np.arange(0, size_m, 4.6)), axis=-1).reshape(-1, 2)
    grid = grid + rng.uniform(-2.2, 2.2, grid.shape)
    cells = np.clip((grid / 2).astype(int), 0, len(world.woods) - 1)
    wood = grid[world.woods[cells[:, 1], cells[:, 0]] & (rng.random(len(grid)) < 0.9)]
    stand = _patches(rng, size_m, 90.0, wood) > 0.1
    sets.append(_tree_rows(rng, wood, 2.0, 4.2, np.where(stand, 0.9, 0.12)))
    # Open land: hedges and tree rows along some field borders.
    for parcel in world.fields:
        if rng.random() < 0.3:
            start = int(rng.integers(len(parcel.outline)))
            line = np.roll(parcel.outline[:-1], -start, axis=0)[
                : int(rng.integers(6, max(7, len(parcel.outline) // 2)))
            ]
            gap = rng.uniform(2.0, 7.0)
            points = densify(line, gap) + rng.normal(0, 0.7, (len(densify(line, gap)), 2))
            sets.append(_tree_rows(rng, points, 1.0, rng.uniform(1.8, 4.2), 0.8))
        if parcel.use == "orchard":
            sets.append(_tree_rows(rng, _orchard(parcel, rng), 1.5, 2.1, 1.0))
    lone = rng.uniform(0, size_m, (round((size_m / 70) ** 2), 2))
    sets.append(_tree_rows(rng, lone, 0.8, 4.5, 0.6))
    bushes = rng.uniform(0, size_m, (round((size_m / 7) ** 2), 2))
    scrub = [parcel.outline.astype(np.float32) for parcel in world.fields if parcel.use == "scrub"]
    mask = np.zeros((taken.size, taken.size), np.uint8)
    cv2.fillPoly(mask, [np.round(outline).astype(np.int32) for outline in scrub], 1)
    cell = np.clip(bushes.astype(int), 0, taken.size - 1)
    bushes = bushes[(mask[cell[:, 1], cell[:, 0]] > 0) & (_patches(rng, size_m, 45.0, bushes) > 0)]
    sets.append(_tree_rows(rng, bushes, 0.7, 2.4, 0.5))
    outside = np.concatenate(sets)
    quarters = Occupancy(size_m)
    for outline in world.built_up:
        quarters.add(outline)
    sets = [outside[~quarters.at(outside[:, :2])]]
    # Gardens and streets.
    for area in [area for area in world.areas if area.material in ("lawn", "garden")]:
        low, high = area.outline.min(axis=0), area.outline.max(axis=0)
        sets.append(_tree_rows(rng, rng.uniform(low, high, (int(rng.integers(1, 11)), 2)), 0.8, 4.0, 0.75))
    for road in [road for road in world.roads if road.kind in ("street", "main") and rng.random() < 0.35]:
        tangent = directions(road.points)
        offset = (
            np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * (road.width_m / 2 + 3.5) * rng.choice([-1, 1])
        )
        sets.append(_tree_rows(rng, (road.points + offset)[:: int(rng.integers(2, 4))], 1.8, 3.6, 0.95))
    trees = np.concatenate(sets)
    world.trees = trees[~taken.at(trees[:, :2])]


def _tree_rows(
    rng: np.random.Generator, points: np.ndarray, low_m: float, high_m: float, deciduous: float | np.ndarray
) -> np.ndarray:
    """(n, 6) trees at points; crown radii between two bounds, mostly near the middle."""
    count = len(points)
    radius = low_m + (high_m - low_m) * rng.beta(2.2, 2.2, count)
    height = radius * rng.uniform(1.6, 2.8, count) + 1.0
    leafy = (rng.random(count) < deciduous).astype(float)
    return np.column_stack([points, radius, height, leafy, rng.random(count)])


def _patches(rng: np.random.Generator, size_m: float, wavelength_m: float, points: np.ndarray) -> np.ndarray:
    """(n,) smooth noise at points."""
    knots = math.ceil(size_m / wavelength_m) + 3
    cells = math.ceil(size_m / 4) + 1
    grid = rng.standard_normal((knots, knots), dtype=np.float32)
    smooth = cv2.resize(grid, (cells, cells), interpolation=cv2.INTER_CUBIC)
    at = np.clip((points / 4).astype(int), 0, cells - 1)
    return smooth[at[:, 1], at[:, 0]]


def _orchard(parcel: Field, rng: np.random.Generator) -> np.ndarray:
    """(n, 2) rows of trees inside a parcel."""
    centre = parcel.outline.mean(axis=0)
    reach = float(np.linalg.norm(parcel.outline - centre, axis=1).max())
    a, b = np.meshgrid(np.arange(-reach, reach, 4.2), np.arange(-reach, reach, 6.0))
    cos, sin = math.cos(parcel.angle_rad), math.sin(parcel.angle_rad)
    points = centre + np.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(-1, 2)
    contour = parcel.outline.astype(np.float32).reshape(-1, 1, 2)
    inside = [cv2.pointPolygonTest(contour, (float(x), float(y)), True) > 5 for x, y in points]
    points = points[np.array(inside, bool) & (rng.random(len(points)) < 0.95)]
    return points + rng.normal(0, 0.25, points.shape)


def _junctions(roads: list[Road]) -> list[np.ndarray]:
    """Points where a made road ends on or crosses another: road markings stop there."""
    made = [road for road in roads if road.kind in ("main", "street", "lane")]
    found = []
    for index, road in enumerate(made):
        for other in made[index + 1 :]:
            if np.any(road.points.min(axis=0) > other.points.max(axis=0) + 10) or np.any(
                other.points.min(axis=0) > road.points.max(axis=0) + 10
            ):
                continue
            gap = np.linalg.norm(road.points[:, None] - other.points[None], axis=2)
            close = gap.min(axis=1)
            found += [road.points[run.start + int(close[run].argmin())] for run in _runs(close < 6.0)]
    return found
