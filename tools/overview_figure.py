# SPDX-License-Identifier: Apache-2.0
"""Draw the figure at the top of README: a flight over the generated world, and one of its frames step by step.

Usage (after `make demo` and `source tools/env.sh`):
    python tools/overview_figure.py out/demo/world/flight docs/images/overview.jpg
"""

import argparse
import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.localizer import Localizer
from geoloc_ros.core.localization.overlay import draw_overlay
from geoloc_ros.core.maps.crop import MapCrop
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.recording.flight_folder import Flight
from geoloc_ros.core.recording.frame import noisy_prior

MARGIN_M = 90.0
MAP_PX = 900
INSET_M = 30.0
FIX_COLOUR, TRUTH_COLOUR, CROP_COLOUR = "#ffd400", "#00ff50", "#ffffff"


def locate(flight: Flight, raster: RasterMap) -> list[Estimate]:
    """Every frame through the localizer, started from a prior 30 m off."""
    localizer = Localizer(TorchEngine("default"), raster)
    localizer.set_prior(*noisy_prior(flight.truth(0), 30.0, seed=0))
    return [localizer.process(frame) for frame in flight]


def draw_track(axes: Axes, flight: Flight, raster: RasterMap, estimates: list[Estimate], shown: int) -> None:
    """The map with the true path, the fixes, and the outline of the crop that frame `shown` was searched in."""
    truths = np.array([(t.lat_deg, t.lon_deg) for t in map(flight.truth, range(len(flight)))])
    lat_deg, lon_deg = ((truths.min(0) + truths.max(0)) / 2).tolist()
    reach_m = np.abs(LocalEnu(lat_deg, lon_deg).to_enu(*truths.T)).max() + MARGIN_M
    ground = raster.crop(lat_deg, lon_deg, 2 * reach_m, MAP_PX)
    axes.imshow(ground.image, extent=(0, MAP_PX, MAP_PX, 0))
    axes.plot(*ground.geodetic_to_pixel(*truths.T), color=TRUTH_COLOUR, lw=2.5, label="true path")
    fixes = np.array([(e.lat_deg, e.lon_deg) for e in estimates if e.valid])
    axes.plot(*ground.geodetic_to_pixel(*fixes.T), ".", color=FIX_COLOUR, ms=4, label="fixes")
    crop = estimates[shown].crop
    assert crop is not None
    axes.add_patch(Polygon(corners(crop, ground), fill=False, ec=CROP_COLOUR, lw=1.5, label="search map"))
    axes.legend(loc="lower right", fontsize=9, framealpha=0.9, facecolor="#404040", labelcolor="white")


def corners(crop: MapCrop, ground: MapCrop) -> np.ndarray:
    """(4, 2) corners of a crop in the pixels of another."""
    side = crop.image.shape[0]
    x_px, y_px = np.array([0, side, side, 0]), np.array([0, 0, side, side])
    return np.stack(ground.geodetic_to_pixel(*crop.pixel_to_geodetic(x_px, y_px)), axis=1)


def draw_inset(axes: Axes, overlay: np.ndarray, centre_xy_px: tuple[float, float], side_px: int) -> None:
    """The surroundings of the peak, enlarged in the lower right corner."""
    inset = axes.inset_axes((0.6, 0.02, 0.38, 0.38))
    inset.imshow(overlay)
    x_px, y_px = centre_xy_px
    inset.set(xlim=(x_px - side_px / 2, x_px + side_px / 2), ylim=(y_px + side_px / 2, y_px - side_px / 2))
    inset.set(xticks=(), yticks=())
    for spine in inset.spines.values():
        spine.set_color("white")
    axes.indicate_inset_zoom(inset, edgecolor="white")


def main() -> None:
    """Run the flight and draw the four panels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flight", type=Path, help="flight folder")
    parser.add_argument("out", type=Path, help="figure to write, .jpg or .png")
    parser.add_argument("--frame", type=int, default=60, help="frame that is shown step by step")
    args = parser.parse_args()
    flight = Flight.open(args.flight)
    frame, truth = flight[args.frame], flight.truth(args.frame)
    with RasterMap(flight.map_path) as raster:
        estimates = locate(flight, raster)
        estimate = estimates[args.frame]
        assert estimate.valid and frame.image is not None, f"frame {args.frame} has no fix: {estimate.reason}"
        assert estimate.crop is not None and estimate.view is not None and estimate.heatmap is not None
        figure = Figure(figsize=(12.8, 5.0), layout="constrained")
        panels = figure.subplot_mosaic(
            [["track", "frame", "match"], ["track", "view", "match"]], width_ratios=(1.9, 1.0, 1.9)
        )
        draw_track(panels["track"], flight, raster, estimates, args.frame)
    overlay = draw_overlay(estimate.crop, estimate.heatmap, estimate, (truth.lat_deg, truth.lon_deg))
    error_m = math.hypot(*LocalEnu(truth.lat_deg, truth.lon_deg).to_enu(estimate.lat_deg, estimate.lon_deg))
    sigma_m = math.sqrt(np.linalg.eigvalsh(estimate.covariance_enu_m2)[-1])
    panels["frame"].imshow(frame.image)
    panels["view"].imshow(estimate.view.image)
    panels["match"].imshow(overlay)
    draw_inset(panels["match"], overlay, estimate.heatmap.peak_xy_px, round(INSET_M / estimate.crop.gsd_m))
    titles = {
        "track": "Flight, over a map of another date",
        "frame": "Camera frame",
        "view": "Rectified: north up, map scale",
        "match": "Search map: heatmap of the view's centre, fix (cross)\n"
        f"with 3σ ellipse, truth (circle); {error_m:.1f} m off, σ {sigma_m:.1f} m",
    }
    for name, title in titles.items():
        panels[name].set_title(title, fontsize=11)
        panels[name].set_axis_off()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=100, pil_kwargs={"quality": 85} if args.out.suffix == ".jpg" else {})


if __name__ == "__main__":
    main()
