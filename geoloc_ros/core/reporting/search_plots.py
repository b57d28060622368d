# SPDX-License-Identifier: Apache-2.0
"""Where on a map cold starts were found, drawn."""

from collections.abc import Sequence
from pathlib import Path

import cv2
from matplotlib.figure import Figure

from geoloc_ros.core.evaluation.cold_start import Start
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.raster import RasterMap

_MAP_PX = 1000
_KINDS = {"found": "#2ca02c", "not found": "#ffb000", "wrong fix": "#d62728"}


def write_starts(folder: Path, starts: Sequence[Start], raster: RasterMap) -> None:
    """starts.png: where the starts truly were, by how they ended, with the frames that each took; and for each start
    start_INDEX.jpg, the places that were weighed at its end.
    """
    south, west, north, east = raster.bounds_deg
    enu = LocalEnu((south + north) / 2, (west + east) / 2)
    half_m = max(abs(value) for value in (*enu.to_enu(north, east), *enu.to_enu(south, west)))
    crop = raster.crop(enu.lat_deg, enu.lon_deg, 2 * half_m, _MAP_PX)
    figure = Figure(figsize=(8, 8), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(crop.image, extent=(-half_m, half_m, -half_m, half_m))
    for kind, colour in _KINDS.items():
        own = [start for start in starts if _kind(start) == kind]
        places = [enu.to_enu(*start.truth_lat_lon_deg) for start in own]
        axes.scatter(
            [x for x, _ in places],
            [y for _, y in places],
            s=90,
            color=colour,
            edgecolors="white",
            label=f"{kind}: {len(own)}",
        )
        for start, (x, y) in zip(own, places, strict=True):
            axes.annotate(
                "" if start.frames is None else str(start.frames),
                (x, y),
                color="white",
                ha="center",
                va="center",
                fontsize=6,
            )
    axes.set(xlabel="east, m", ylabel="north, m", title="Starts without a prior; frames until the first fix")
    axes.legend(loc="upper right")
    figure.savefig(folder / "starts.png", dpi=130)
    for start in starts:
        if start.picture is not None:
            cv2.imwrite(str(folder / f"start_{start.index:04d}.jpg"), start.picture[..., ::-1])


def _kind(start: Start) -> str:
    if start.wrong:
        return "wrong fix"
    return "not found" if start.frames is None else "found"
