# SPDX-License-Identifier: Apache-2.0
"""Roofs of the generated world: faces and what stands on them."""

import math

import numpy as np

from geoloc_models.world.materials import smooth_noise
from geoloc_models.world.shapes import Building, directions


def offset_line(points: np.ndarray, distance_m: float) -> np.ndarray:
    """The polyline moved sideways."""
    tangent = directions(points)
    return points + np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * distance_m


def roof_surface(
    building: Building, rng: np.random.Generator, u: np.ndarray, v: np.ndarray, edge_u: np.ndarray, edge_v: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Height in metres and relative brightness over a roof."""
    blotches = smooth_noise(rng, 5, u.shape)
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


def roof_extras(
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
