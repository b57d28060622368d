# SPDX-License-Identifier: Apache-2.0
"""Renders a laid-out world as one aerial image of one date: noise, light, then the sensor.

Every pixel has an index into a table of materials (fields and plots have a row each), which gives two colours
and how much coarse, middle and fine noise they carry. Slopes are shaded by the sun and cast shadows. Work goes
in strips of rows, so that memory stays near the size of the image.
"""

import math

import cv2
import numpy as np

from geoloc_models.world.canvas import Canvas, Look
from geoloc_models.world.materials import material_table, tree_colours
from geoloc_models.world.shapes import Layout

STRIP_ROWS = 256
STREAK_PX = 1024


def fractal(
    rng: np.random.Generator, size_px: int, gsd_m: float, wavelengths_m: tuple[float, ...], gains: tuple[float, ...]
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
    return np.asarray(cv2.warpAffine(grid, matrix, (size_px, size_px), flags=how, borderMode=cv2.BORDER_REFLECT))


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
    """Gaussian blur, different along rows and columns, of an image that repeats."""
    pad = int(4 * max(along_px, across_px))
    padded = cv2.copyMakeBorder(image, pad, pad, pad, pad, cv2.BORDER_WRAP)
    return cv2.GaussianBlur(padded, (0, 0), sigmaX=along_px, sigmaY=across_px)[pad:-pad, pad:-pad]


def draw_date(layout: Layout, ground: Ground, date: int, look: Look, gsd_m: float, seed: int) -> np.ndarray:
    """(n, n, 3) uint8 RGB image of date 0 or 1, without misregistration."""
    rng = np.random.default_rng((seed, 10 + date))
    canvas = Canvas(layout, date, look, gsd_m, rng)
    canvas.draw_ground()
    canvas.draw_buildings()
    canvas.draw_cars()
    canvas.draw_trees()
    image = _light(canvas, ground, look, rng)
    return _sense(image, look, rng)


def _shadows(canvas: Canvas, look: Look) -> np.ndarray:
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


def _light(canvas: Canvas, ground: Ground, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Colours from materials and noise, shaded by slope and shadow: (n, n, 3) uint8 RGB."""
    size = canvas.index.shape[0]
    sun = _shadows(canvas, look)
    table = material_table(canvas.layout.fields, canvas.tones, look.greenness, rng)
    trees = tree_colours(look.greenness, rng)
    bare = np.zeros(256, np.float32)
    bare[1:128] = look.bareness
    own = fractal(rng, size, canvas.gsd_m, (60, 11, 2.2), (1.0, 0.8, 0.7))
    fine = fractal(rng, size, canvas.gsd_m, (0.8, canvas.gsd_m), (0.8, 0.7))
    drift = fractal(rng, size, canvas.gsd_m, (900, 400), (1.0, 0.6))
    out = np.empty((size, size, 3), np.uint8)
    for top in range(0, size, STRIP_ROWS):
        rows = slice(top, min(top + STRIP_ROWS, size))
        noise = [
            plane[rows].astype(np.float32) * np.float32(1 / 32) for plane in (ground.coarse, ground.middle, own, fine)
        ]
        colour = _ground_colour(canvas, ground, table, rows, *noise)
        _, middle, _, grain = noise
        painted = canvas.painted[rows] > 0
        colour[painted] = canvas.paint[rows][painted] * (1 + 0.02 * grain[painted] + 0.015 * middle[painted])[:, None]
        cover = canvas.cover[rows]
        under = cover > 0
        crown = trees[cover[under]] * (1 + 0.09 * grain[under] + 0.06 * middle[under])[:, None]
        share = bare[cover[under]] * np.clip(0.8 + 0.5 * grain[under], 0, 1.25)
        colour[under] = crown + (colour[under] - crown) * share[:, None]
        light = _shade(canvas, look, rows, bare) * (1 + 0.03 / 32 * drift[rows])
        lit = sun[rows].astype(np.float32) * np.float32(1 / 255)
        for channel, ambient in enumerate(look.ambient * np.array([0.95, 1.0, 1.07])):
            # Images are stored with a display gamma: half the light looks like 0.73 of it.
            gain = np.sqrt(ambient + (1 - ambient) * lit * light)
            out[rows, :, channel] = np.clip(colour[..., channel] * gain, 0, 255)
    return out


def _ground_colour(
    canvas: Canvas,
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


def _shade(canvas: Canvas, look: Look, rows: slice, bare: np.ndarray) -> np.ndarray:
    """Sunlight on the slope relative to level ground."""
    size = canvas.height.shape[0]
    low, high = max(rows.start - 1, 0), min(rows.stop + 1, size)
    height = canvas.height[low:high]
    scale = 1 / (8 * canvas.gsd_m)
    right = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=3, scale=scale)[rows.start - low : rows.stop - low]
    down = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=3, scale=scale)[rows.start - low : rows.stop - low]
    crowns = canvas.cover[rows]
    soft = np.where(crowns > 0, np.float32(0.55), np.float32(1.0)) * (1 - bare[crowns])
    limit = np.float32(1.2)  # edges of roofs and crowns are steps, not slopes
    right = np.clip(right * soft, -limit, limit)
    down = np.clip(down * soft, -limit, limit)
    azimuth, elevation = look.sun_azimuth_rad, look.sun_elevation_rad
    toward = (math.sin(azimuth) / math.tan(elevation), -math.cos(azimuth) / math.tan(elevation))
    facing = 1 - right * np.float32(toward[0]) - down * np.float32(toward[1])
    return np.clip(facing / np.sqrt(1 + right * right + down * down), 0.1, 1.7)


def _sense(image: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Haze, colour, tone, sharpness, noise and compression of the date's sensor."""
    grey = np.array([0.30, 0.59, 0.11])
    matrix = look.saturation * np.eye(3) + (1 - look.saturation) * np.tile(grey, (3, 1))
    image = cv2.transform(image, matrix)
    levels = np.arange(256) / 255
    tone = np.clip(0.42 + (levels - 0.42) * look.contrast, 0, 1) ** (1 / look.gamma)
    veil = np.array([0.74, 0.78, 0.84])
    table = tone[:, None] * np.array(look.gain) * (1 - look.haze) + veil * look.haze
    image = cv2.LUT(image, np.clip(255 * table, 0, 255).round().astype(np.uint8)[:, None])
    image = cv2.GaussianBlur(image, (0, 0), look.blur_px)
    if look.sharpen > 0.05:
        image = cv2.addWeighted(image, 1 + look.sharpen, cv2.GaussianBlur(image, (0, 0), 1.2), -look.sharpen, 0)
    for top in range(0, image.shape[0], STRIP_ROWS):
        strip = image[top : top + STRIP_ROWS]
        grain = rng.standard_normal(strip.shape, dtype=np.float32) * np.float32(look.noise)
        image[top : top + STRIP_ROWS] = cv2.add(strip, cv2.GaussianBlur(grain, (0, 0), 0.6), dtype=cv2.CV_8U)
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, look.jpeg_quality]
    )
    return cv2.cvtColor(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)
