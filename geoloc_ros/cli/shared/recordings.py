# SPDX-License-Identifier: Apache-2.0
"""Opens a flight folder or a bag for a command, with a bar, and reports what was taken for what."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.output import print_line, rated_progress
from geoloc_ros.core.bags.bag import Bag, open_recording
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rotations import DOWN_XYZW
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.recording.flight_folder import Flight


def open_reported(path: Path, topics: Sequence[str] = (), mount: Sequence[float] | None = None) -> Flight | Bag:
    """The recording at `path`; of a bag, stderr reports which topic is used for what, and what is odd about it.

    mount: as for `Bag`, None for the usual one. GeolocError as `open_recording` raises it.
    """
    with rated_progress() as progress:
        task = progress.add_task(f"reading the sensors of {path.name}", total=None)
        recording = open_recording(
            path,
            topics,
            lambda done, total: progress.update(task, completed=done, total=total),
            DOWN_XYZW if mount is None else mount,
        )
    if isinstance(recording, Bag):
        console = Console(stderr=True)
        for line in recording.described():
            print_line(console, line)
    return recording


def require_truth(recording: Flight | Bag) -> None:
    """GeolocError if no image has a true position to be compared with."""
    if any(recording.truth(index) is not None for index in range(len(recording))):
        return
    assert isinstance(recording, Bag)  # a flight folder has no frame without
    truth = recording.choices["truth"]
    if truth.topic is None:
        raise GeolocError(f"there is nothing to score with: {truth.why}")
    raise GeolocError(
        f"there is nothing to score with: no image was taken within {Bag.REACH_S['truth']:g} s of a position of "
        f"{truth.topic.name}; `geoloc bag check {recording.path}` reports their times"
    )


def require_on_map(recording: Flight | Bag, raster: RasterMap, map_path: Path) -> None:
    """GeolocError if the map covers no true position at all: it is another map, or of another place."""
    truths = [truth for index in range(len(recording)) if (truth := recording.truth(index)) is not None]
    if any(raster.contains(truth.lat_deg, truth.lon_deg) for truth in truths):
        return
    first = truths[0]
    south, west, north, east = raster.bounds_deg
    centre = LocalEnu((south + north) / 2, (west + east) / 2)
    away_m = math.hypot(*centre.to_enu(first.lat_deg, first.lon_deg))
    raise GeolocError(
        f"the flight begins at {first.lat_deg:.5f}, {first.lon_deg:.5f}, {away_m / 1000:.1f} km from the centre of "
        f"{map_path}, which never covers it; give the map of that place with --map"
    )
