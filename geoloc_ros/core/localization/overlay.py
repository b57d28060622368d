# SPDX-License-Identifier: Apache-2.0
"""Heatmaps drawn over their map crops, for people."""

import math

import cv2
import numpy as np

from geoloc_models.drl.heatmap import Heatmap
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.maps.crop import MapCrop
from geoloc_ros.core.matching.match_frame import flipped
from geoloc_ros.core.relocalization.hypotheses import Hypothesis

FIX_RGB = (255, 255, 255)
REFUSED_RGB = (255, 160, 0)
TRUTH_RGB = (0, 255, 80)
WINNER_RGB = (0, 220, 255)

PANEL_PX = 256
COLUMNS, ROWS = 3, 2
"""Of the sheet of candidates, the camera's view included."""
_EMPTY_RGB = (40, 40, 40)
_BAND_PX = 22
_SHIFT = 4  # OpenCV draws in fixed point with so many bits of fraction
_ONE = 1 << _SHIFT


def draw_overlay(
    crop: MapCrop, heatmap: Heatmap, fix: Estimate, truth: tuple[float, float] | None = None
) -> np.ndarray:
    """(h, w, 3) uint8 RGB: the crop under the heatmap, with fix, 3 sigma ellipse and truth (lat_deg, lon_deg).

    The heatmap says where the middle of the picture lies; the fix and the truth are the vehicle's, which with a
    tilted camera is another place. A fix that was refused is orange.
    """
    drawn = _blended(crop, heatmap)
    colour = FIX_RGB if fix.valid else REFUSED_RGB
    values, vectors = np.linalg.eigh(flipped(fix.covariance_enu_m2) / crop.gsd_m**2)
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


def draw_candidates(estimate: Estimate, truth: tuple[float, float] | None = None) -> np.ndarray:
    """(512, 768, 3) uint8 RGB: the camera's view, then the likeliest candidates of a search, best first.

    Each shows the heatmap over its map crop and its odds; a cross is where the network sees the vehicle there, a
    circle the truth (lat_deg, lon_deg). One that this frame does not show has no picture. The accepted one is framed.
    """
    panels = [_view_panel(estimate)]
    for rank, candidate in enumerate(estimate.candidates[: COLUMNS * ROWS - 1], start=1):
        panel = _candidate_panel(rank, candidate, truth)
        if rank == 1 and estimate.valid:
            cv2.rectangle(panel, (2, 2), (PANEL_PX - 3, PANEL_PX - 3), WINNER_RGB, 4)
        panels.append(panel)
    panels += [_empty_panel()] * (COLUMNS * ROWS - len(panels))
    rows = [np.hstack(panels[start : start + COLUMNS]) for start in range(0, len(panels), COLUMNS)]
    return np.vstack(rows)


def odds_text(log_odds: float) -> str:
    """Odds as text, such as 250:1 or 1:30, from their natural logarithm."""
    decimal = abs(log_odds) / math.log(10)
    size = f"{10**decimal:.0f}" if decimal < 4 else f"1e{min(decimal, 999):.0f}"
    return f"{size}:1" if log_odds >= 0 else f"1:{size}"


def _view_panel(estimate: Estimate) -> np.ndarray:
    if estimate.view is None:
        return _empty_panel()
    panel = cv2.resize(estimate.view.image, (PANEL_PX, PANEL_PX), interpolation=cv2.INTER_AREA)
    _write(panel, "camera, north up", estimate.state.name)
    return panel


def _candidate_panel(rank: int, candidate: Hypothesis, truth: tuple[float, float] | None) -> np.ndarray:
    match = candidate.match
    panel = _empty_panel()
    if match is not None:
        blended = _blended(match.crop, match.heatmap)
        panel = cv2.resize(blended, (PANEL_PX, PANEL_PX), interpolation=cv2.INTER_AREA)
        scale = PANEL_PX / blended.shape[0]
        x_px, y_px = match.crop.geodetic_to_pixel(match.lat_deg, match.lon_deg)
        _cross(panel, _fixed((x_px * scale, y_px * scale)), FIX_RGB)
        if truth is not None:
            x_px, y_px = match.crop.geodetic_to_pixel(*truth)
            cv2.circle(panel, _fixed((x_px * scale, y_px * scale)), 5 * _ONE, TRUTH_RGB, 1, cv2.LINE_AA, _SHIFT)
    seen = f"{candidate.frames} frame{'s' if candidate.frames > 1 else ''}" if candidate.frames else "does not fit"
    found = f"similarity {candidate.similarity:.2f}"
    if match is None:
        seen += ", not in this one"
    if candidate.heading_deg:
        found += f", heading {candidate.heading_deg:+.0f} deg"
    _write(panel, f"{rank}   {odds_text(candidate.log_odds)}   {seen}", found)
    return panel


def _empty_panel() -> np.ndarray:
    return np.full((PANEL_PX, PANEL_PX, 3), _EMPTY_RGB, np.uint8)


def _write(panel: np.ndarray, top: str, bottom: str) -> None:
    """A line of text on a darkened band above and one below."""
    for text, band in ((top, panel[:_BAND_PX]), (bottom, panel[-_BAND_PX:])):
        band //= 4
        cv2.putText(band, text, (6, _BAND_PX - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255), 1, cv2.LINE_AA)
    panel[:, -2:] = 0  # between neighbours


def _blended(crop: MapCrop, heatmap: Heatmap) -> np.ndarray:
    height, width = crop.image.shape[:2]
    # The square root keeps faint modes visible; colour shows only where there is something to show.
    shown = np.sqrt(heatmap.resized(height, width))
    # Turbo's very end is dark; the peak is to be bright red.
    colours = cv2.applyColorMap(np.rint(shown * 225).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    weight = (0.6 * shown)[..., None]
    return np.rint(crop.image * (1 - weight) + colours * weight).astype(np.uint8)


def _fixed(xy_px: tuple[float, float]) -> tuple[int, int]:
    """Pixel-edge coordinates as OpenCV's, which count from pixel centres, in fixed point."""
    return round(_ONE * (xy_px[0] - 0.5)), round(_ONE * (xy_px[1] - 0.5))


def _cross(image: np.ndarray, centre: tuple[int, int], colour: tuple[int, int, int]) -> None:
    x, y = centre
    arm = 6 * _ONE
    cv2.line(image, (x - arm, y), (x + arm, y), colour, 1, cv2.LINE_AA, _SHIFT)
    cv2.line(image, (x, y - arm), (x, y + arm), colour, 1, cv2.LINE_AA, _SHIFT)
