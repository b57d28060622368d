# SPDX-License-Identifier: Apache-2.0
"""What stands where in a generated world.

All is drawn from one random generator, so a seed always gives the same world.
"""

import itertools
import math

import cv2
import numpy as np

from geoloc_models.world.parcels import add_houses, add_works
from geoloc_models.world.shapes import Field, Layout, Occupancy, Road, Warp, blob, densify, directions, runs, smooth_at


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
    add_works(world, rng, taken)
    add_houses(world, rng, taken)
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
        offset += rng.normal(0, bend / order**1.3) * np.sin(math.pi * 2 * order * t / 1.2 + rng.uniform(0, 2 * math.pi))
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
    world: Layout, rng: np.random.Generator, taken: Occupancy, centre: np.ndarray, angle: float, outline: np.ndarray
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
        for run in runs(keep):
            if run.stop - run.start >= 8:
                world.roads.append(Road(points[run], float(rng.choice([5.5, 6.5, 7.5])), "street"))


def _quarters(world: Layout, taken: Occupancy) -> Occupancy:
    """Ground that is taken or belongs to a quarter."""
    closed = Occupancy(world.size_m)
    closed.grid |= taken.grid
    for outline in world.built_up:
        closed.add(outline)
    return closed


def _keep_out(world: Layout, taken: Occupancy) -> None:
    """Lanes and tracks end where a quarter or the river begins; main roads have bridges."""
    land = _quarters(world, taken)
    kept = []
    for road in world.roads:
        if road.kind not in ("lane", "track"):
            kept.append(road)
            continue
        outside = ~land.at(np.clip(road.points, 0, world.size_m - 1e-3))
        open_runs = [run for run in runs(outside) if run.stop - run.start > 8]
        kept += [Road(road.points[run], road.width_m, road.kind) for run in open_runs]
    world.roads = kept


def _add_ponds(world: Layout, rng: np.random.Generator, taken: Occupancy) -> None:
    for _ in range(max(2, round((world.size_m / 420) ** 2))):
        outline = blob(rng, rng.uniform(0.04, 0.96, 2) * world.size_m, float(rng.uniform(8, 34)), rng.uniform(1, 1.6))
        if taken.free(outline):
            world.ponds.append(outline)
            taken.add(outline + (outline - outline.mean(axis=0)) * 0.35)


def _add_fields(world: Layout, rng: np.random.Generator, warp: Warp, taken: Occupancy) -> None:
    """Farmland: the whole plane cut again and again into parcels, then bent."""
    size_m = world.size_m
    land = _quarters(world, taken)
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
            world.roads += [Road(side[run], 2.8, "track") for run in runs(~land.at(side)) if run.stop - run.start > 5]
    for _ in range(max(2, round(size_m / 200))):  # trodden paths
        start = rng.uniform(0, size_m, 2)
        heading = rng.uniform(0, 2 * math.pi)
        steps = np.cumsum(rng.normal(0, 0.12, 40)) + heading
        line = start + np.cumsum(6 * np.stack([np.cos(steps), np.sin(steps)], axis=1), axis=0)
        width = float(rng.uniform(0.8, 1.6))
        world.roads += [Road(line[run], width, "path") for run in runs(~land.at(line)) if run.stop - run.start > 6]


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
    stand = smooth_at(rng, size_m, 90.0, wood) > 0.1
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
    bushes = bushes[(mask[cell[:, 1], cell[:, 0]] > 0) & (smooth_at(rng, size_m, 45.0, bushes) > 0)]
    sets.append(_tree_rows(rng, bushes, 0.7, 2.4, 0.5))
    outside = np.concatenate(sets)
    quarters = _quarters(world, Occupancy(size_m))
    sets = [outside[~quarters.at(outside[:, :2])]]
    # Gardens and streets.
    for area in [area for area in world.areas if area.material in ("lawn", "garden")]:
        low, high = area.outline.min(axis=0), area.outline.max(axis=0)
        sets.append(_tree_rows(rng, rng.uniform(low, high, (int(rng.integers(1, 11)), 2)), 0.8, 4.0, 0.75))
    for road in [road for road in world.roads if road.kind in ("street", "main") and rng.random() < 0.35]:
        tangent = directions(road.points)
        offset = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * (road.width_m / 2 + 3.5) * rng.choice([-1, 1])
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
            found += [road.points[run.start + int(close[run].argmin())] for run in runs(close < 6.0)]
    return found
