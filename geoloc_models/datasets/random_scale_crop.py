# SPDX-License-Identifier: Apache-2.0
"""Random scale crop (RSC; DRL paper, section III-D): a search map of random size around a random centre."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from geoloc_models.errors import GeolocError

ScaleSampler = Callable[[np.random.Generator], int]


@dataclass(frozen=True)
class ScaleCrop:
    """A square search map and where the target lies on it.

    image: (S, S, 3) uint8. target: (row, col) as fractions of S, from the top and left edges.
    """

    image: np.ndarray
    target: tuple[float, float]


def random_scale(low_px: int = 512, high_px: int = 1000) -> ScaleSampler:
    """Sides drawn from low_px (inclusive) to high_px (exclusive), odd ones made even by taking one off."""

    def draw(rng: np.random.Generator) -> int:
        side_px = int(rng.integers(low_px, high_px))
        return side_px - side_px % 2

    return draw


def fixed_scales(*sides_px: int) -> ScaleSampler:
    """One of the given sides, px (table VI: single scale, multiple scale)."""

    def draw(rng: np.random.Generator) -> int:
        return int(rng.choice(sides_px))

    return draw


def scales_from_text(text: str) -> ScaleSampler:
    """The sampler that presets and commands name: "512" (single), "512,768,1000" (multiple), "512-1000" (random).

    Sides are px; GeolocError for any other text, or a range that holds no even side.
    """
    if match := re.fullmatch(r"([0-9]+)-([0-9]+)", text):
        low_px, high_px = int(match[1]), int(match[2])
        if low_px + low_px % 2 < high_px and low_px >= 2:
            return random_scale(low_px, high_px)
    elif re.fullmatch(r"[0-9]+(,[0-9]+)*", text):
        sides_px = [int(side) for side in text.split(",")]
        if min(sides_px) >= 2:
            return fixed_scales(*sides_px)
    raise GeolocError(
        f"'{text}' names no crop sides; give px as 512 (single), 512,768,1000 (multiple) or 512-1000 (random)"
    )


class RandomScaleCrop:
    """Crop a search map from a square image (L, L, 3) uint8 whose exact centre is the target."""

    def __init__(self, scale: ScaleSampler | None = None, centre_coverage: float = 0.85) -> None:
        """scale: sides of the crops, px (default: `random_scale()`). centre_coverage: C, the share of the
        crop's side over which the target is spread; below 1, so that the target is always inside.
        """
        if not 0.0 <= centre_coverage < 1.0:
            raise GeolocError(f"A centre coverage of {centre_coverage} loses the target: give one from 0 to below 1.")
        self.scale = scale or random_scale()
        self.centre_coverage = centre_coverage

    def __call__(self, source: np.ndarray, rng: np.random.Generator) -> ScaleCrop:
        """Parts outside the image get the mean colour of the part inside."""
        if source.ndim != 3 or source.shape[0] != source.shape[1]:
            raise GeolocError(f"An image of shape {source.shape} has no target at its centre: give a square one.")
        side_px = self.scale(rng)
        middle = source.shape[0] / 2
        spread = self.centre_coverage / 2 * side_px
        low, high = int(middle - spread), int(middle + spread)
        centre = rng.integers(low, max(high, low + 1), size=2)
        top, left = (int(c) - side_px // 2 for c in centre)
        image = crop_with_mean_fill(source, top, left, side_px)
        return ScaleCrop(image, ((middle - top) / side_px, (middle - left) / side_px))


def crop_with_mean_fill(image: np.ndarray, top: int, left: int, side_px: int) -> np.ndarray:
    """The (side_px, side_px, 3) window at (top, left); what lies outside gets the mean colour of what lies
    inside.
    """
    height, width = image.shape[:2]
    rows = slice(max(top, 0), min(top + side_px, height))
    cols = slice(max(left, 0), min(left + side_px, width))
    valid = image[rows, cols]
    if valid.shape[:2] == (side_px, side_px):
        return valid.copy()
    fill = np.rint(cv2.mean(valid)[: image.shape[2]]).astype(image.dtype)
    window = np.broadcast_to(fill, (side_px, side_px, image.shape[2])).copy()
    window[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left] = valid
    return window
