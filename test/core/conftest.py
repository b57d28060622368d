# SPDX-License-Identifier: Apache-2.0
"""What tests share: modules beside them, runs made by hand, and a browser to look at pages."""

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

# The tests are imported by path, so the modules that they share need one.
sys.path.insert(0, str(Path(__file__).parent))

from browser import PROGRAM, Browser

from geoloc_ros.core.evaluation.scores import Closeup, Run, SearchRecord, score_fix
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.crop import CropStatus, MapCrop


class FlatMap:
    """A map of one colour everywhere."""

    def crop(self, lat_deg: float, lon_deg: float, size_m: float, size_px: int) -> MapCrop:
        image = np.full((size_px, size_px, 3), (90, 120, 60), np.uint8)
        return MapCrop(image, lat_deg, lon_deg, size_m, size_m / size_px, 1.0, CropStatus.OK, "")


@pytest.fixture(scope="session")
def flat_map() -> FlatMap:
    """A map of one colour everywhere."""
    return FlatMap()


@pytest.fixture(scope="session")
def walk() -> Callable[..., Run]:
    """walk(name, error_m, gap=range(0), frames=40): northwards with a constant error to the east, no fix in `gap`."""
    return _walk


def _walk(name: str, error_m: float, gap: range = range(0), frames: int = 40) -> Run:
    enu = LocalEnu(10.0, 20.0)
    scores = [
        score_fix(
            index=index,
            stamp_s=100.0 + 0.5 * index,
            truth_lat_lon_deg=enu.to_geodetic(0.0, 5.0 * index),
            lat_lon_deg=None if index in gap else enu.to_geodetic(error_m, 5.0 * index),
            covariance_enu_m2=4.0 * np.eye(2),
            search_size_m=150.0,
            latency_ms=20.0 + index % 7,
            stages_ms={"crop": 4.0, "network": 16.0 + index % 7},
            state="LOST" if index in gap else "TRACKING",
            peak=0.4 + 0.6 * index / frames,
            reason="the view is <dark>" if index in gap else "",
        )
        for index in range(frames)
    ]
    image = np.full((64, 64, 3), 128, np.uint8)
    heatmap = np.zeros((64, 64), np.float32)
    heatmap[10, 50] = 1.0
    closeup = Closeup(3, "Frame 3 <1.5 m off>", image, image, heatmap, (50.5, 10.5), (49.0, 12.0))
    searches = [
        SearchRecord(101.0, 2.5, 6, True, math.log(2000.0), 3.25, image),
        SearchRecord(110.0, 4.0, 9, False, -math.inf, math.nan, None),
    ]
    about = {"seed": 4, "map": "nowhere.tif", "flight": "walk"}
    return Run(name, "tracking", "tiny & new", "cpu", scores, [closeup], about, searches)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A headless Chromium; tests that need it skip where there is none."""
    if PROGRAM is None:
        pytest.skip("no Chromium to open a page with: apt install chromium")
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser
