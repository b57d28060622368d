# SPDX-License-Identifier: Apache-2.0
"""The heatmap drawn over its map crop, for people."""

from __future__ import annotations

import math

import cv2
import numpy as np

from geoloc_models.drl.heatmap import Heatmap

FIX_RGB = (255, 255, 255)
REFUSED_RGB = (255, 160, 0)
TRUTH_RGB = (0, 255, 80)


def draw_overlay(
    image: np.ndarray, heatmap: Heatmap, valid: bool, truth_xy_px: tuple[float, float] | None = None
) -> np.ndarray:
    """(h, w, 3) uint8 RGB: search map under its heatmap, with fix, 3 sigma ellipse and truth.

    truth_xy_px: pixel-edge coordinates of the search map. A fix that was refused is orange.
    """
    height, width = image.shape[:2]
    strength = heatmap.resized(height, width)
    # The square root keeps faint modes visible; colour shows only where there is something to show.
    shown = np.sqrt(strength / max(float(strength.max()), 1e-12))
    colours = cv2.applyColorMap(np.rint(shown * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    weight = (0.6 * shown)[..., None]
    drawn = np.rint(image * (1 - weight) + colours * weight).astype(np.uint8)
    colour = FIX_RGB if valid else REFUSED_RGB
    values, vectors = np.linalg.eigh(heatmap.covariance_px)
    axes = 3.0 * np.sqrt(np.maximum(values, 0.0))
    angle_deg = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
    # OpenCV's pixel coordinates are centres, with four bits of fraction here.
    centre = _fixed(heatmap.peak_xy_px)
    size = (round(16 * max(2.0, axes[1])), round(16 * max(2.0, axes[0])))
    cv2.ellipse(drawn, centre, size, angle_deg, 0, 360, colour, 1, cv2.LINE_AA, 4)
    _cross(drawn, centre, colour)
    if truth_xy_px is not None:
        cv2.circle(drawn, _fixed(truth_xy_px), 16 * 5, TRUTH_RGB, 1, cv2.LINE_AA, 4)
    return drawn


def _fixed(xy_px: tuple[float, float]) -> tuple[int, int]:
    return round(16 * (xy_px[0] - 0.5)), round(16 * (xy_px[1] - 0.5))


def _cross(image: np.ndarray, centre: tuple[int, int], colour: tuple[int, int, int]) -> None:
    x, y = centre
    arm = 16 * 6
    cv2.line(image, (x - arm, y), (x + arm, y), colour, 1, cv2.LINE_AA, 4)
    cv2.line(image, (x, y - arm), (x, y + arm), colour, 1, cv2.LINE_AA, 4)
