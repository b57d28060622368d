# SPDX-License-Identifier: Apache-2.0
"""What people put beside the roads of a generated world: houses on plots, halls and car parks in yards."""

import math

import cv2
import numpy as np

from geoloc_models.world.shapes import (
    BOTH,
    Area,
    Building,
    Dates,
    Layout,
    Occupancy,
    Road,
    directions,
    rectangle,
    strip,
)

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


def add_works(world: Layout, rng: np.random.Generator, taken: Occupancy) -> None:
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
        world.areas.append(Area(strip(entrance, 7.0), surface))


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
                at, angle, length, width, roof, rng.uniform(5, 10), 0.16, colour, dates, int(rng.integers(1 << 30))
            )
        )
    for row in range(int(rng.integers(1, 4))):  # bays across the front of the yard
        line = centre - normal * (depth / 2 - 4 - 7.5 * row)
        places = np.arange(-front / 2 + 4, front / 2 - 4, 2.7)
        world.bays.append(
            np.array([(*(line + along * place), angle + math.pi / 2) for place in places if rng.random() < 0.97])
        )


def add_houses(world: Layout, rng: np.random.Generator, taken: Occupancy) -> None:
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
    dates = (False, True) if draw < 0.07 else ((True, False) if draw < 0.11 else BOTH)
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
    if rng.random() < 0.45:
        _add_wing(world, rng, taken, house)
    _add_outside(world, rng, house, point, normal, angle)
    return True


def _add_wing(world: Layout, rng: np.random.Generator, taken: Occupancy, house: Building) -> None:
    """A wing that makes the house an L or a T."""
    out = house.width_m * rng.uniform(0.5, 0.9)
    along = np.array([math.cos(house.angle_rad), math.sin(house.angle_rad)])
    across = np.array([-along[1], along[0]]) * rng.choice([-1.0, 1.0])
    wing = Building(
        house.centre + along * rng.uniform(-0.3, 0.3) * house.length_m + across * (house.width_m / 2 + out / 4),
        house.angle_rad + math.pi / 2, house.width_m / 2 + out, house.length_m * rng.uniform(0.35, 0.5), house.roof,
        house.eave_m * rng.choice([0.75, 1.0]), house.slope, house.colour, house.dates, int(rng.integers(1 << 30)),
    )  # fmt: skip
    world.buildings.append(wing)
    taken.add(wing.outline(1.0))


def _add_outside(
    world: Layout, rng: np.random.Generator, house: Building, point: np.ndarray, normal: np.ndarray, angle: float
) -> None:
    """Drive to the road, and behind the house a terrace, now and then a pool."""
    centre, length, width = house.centre, house.length_m, house.width_m
    along_road = np.array([math.cos(angle), math.sin(angle)])
    drive_at = along_road * rng.uniform(-0.35, 0.35) * length
    drive = np.array([point + drive_at, centre + drive_at])
    surface = str(rng.choice(["concrete", "asphalt", "gravel", "paving"]))
    world.areas.append(Area(strip(drive, float(rng.uniform(2.8, 5.5))), surface))
    if rng.random() < 0.6:
        world.bays.append(np.array([(*(drive[0] * 0.4 + drive[1] * 0.6), math.atan2(normal[1], normal[0]))]))
    if rng.random() < 0.5:
        patio = centre + normal * (width / 2 + 1.5) + along_road * rng.uniform(-3, 3)
        world.areas.append(Area(rectangle(patio, angle, float(rng.uniform(4, 9)), float(rng.uniform(3, 5))), "paving"))
    if rng.random() < 0.08:
        pool = centre + normal * (width / 2 + 7) + along_road * rng.uniform(-4, 4)
        world.areas.append(Area(rectangle(pool, angle, 8.0, 4.0), "pool"))


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
