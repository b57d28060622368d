# SPDX-License-Identifier: Apache-2.0
"""The heatmap drawn over its map crop, for people."""

from __future__ import annotations

import math

import cv2
import numpy as np

from geoloc_models.drl.heatmap import Heatmap
from geoloc_ros.core.localizer import Estimate
from geoloc_ros.core.maps import MapCrop

FIX_RGB = (255, 255, 255)
REFUSED_RGB = (255, 160, 0)
TRUTH_RGB = (0, 255, 80)

_SHIFT = 4  # OpenCV draws in fixed point with so many bits of fraction
_ONE = 1 << _SHIFT


def draw_overlay(
    crop: MapCrop, heatmap: Heatmap, fix: Estimate, truth: tuple[float, float] | None = None
) -> np.ndarray:
    """(h, w, 3) uint8 RGB: the crop under the heatmap, with fix, 3 sigma ellipse and truth (lat_deg, lon_deg).

    The heatmap says where the middle of the picture lies; the fix and the truth are the vehicle's, which with a
    tilted camera is another place. A fix that was refused is orange.
    """
    height, width = crop.image.shape[:2]
    # The square root keeps faint modes visible; colour shows only where there is something to show.
    shown = np.sqrt(heatmap.resized(height, width))
    # Turbo's very end is dark; the peak is to be bright red.
    colours = cv2.applyColorMap(np.rint(shown * 225).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    weight = (0.6 * shown)[..., None]
    drawn = np.rint(crop.image * (1 - weight) + colours * weight).astype(np.uint8)
    colour = FIX_RGB if fix.valid else REFUSED_RGB
    flip = np.diag([1.0, -1.0])  # pixel y points south
    values, vectors = np.linalg.eigh(flip @ fix.covariance_enu_m2 @ flip / crop.gsd_m**2)
    axes = 3.0 * np.sqrt(np.maximum(values, 0.0))
    angle_deg = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
    centre = _fixed(crop.geodetic_to_pixel(fix.lat_deg, fix.lon_deg))
    size = (round(_ONE * max(2.0, axes[1])), round(_ONE * max(2.0, axes[0])))
    cv2.ellipse(drawn, centre, size, angle_deg, 0, 360, colour, 1, cv2.LINE_AA, _SHIFT)
    _cross(drawn, centre, colour)
    if truth is not None:
        place = _fixed(crop.geodetic_to_pixel(*truth))
        cv2.circle(drawn, place, 5 * _ONE, TRUTH_RGB, 1, cv2.LINE_AA, _SHIFT)
    return drawn


def _fixed(xy_px: tuple[float, float]) -> tuple[int, int]:
    """Pixel-edge coordinates as OpenCV's, which count from pixel centres, in fixed point."""
    return round(_ONE * (xy_px[0] - 0.5)), round(_ONE * (xy_px[1] - 0.5))


def _cross(image: np.ndarray, centre: tuple[int, int], colour: tuple[int, int, int]) -> None:
    x, y = centre
    arm = 6 * _ONE
    cv2.line(image, (x - arm, y), (x + arm, y), colour, 1, cv2.LINE_AA, _SHIFT)
    cv2.line(image, (x, y - arm), (x, y + arm), colour, 1, cv2.LINE_AA, _SHIFT)
