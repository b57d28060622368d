# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real pictures beside the repository; tests that need it skip where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real pictures at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def small_flight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flight folder of 24 frames over a textured map of 500 m, with exact attitude and height."""
    from geoloc_ros.cli.main import main

    folder = tmp_path_factory.mktemp("flight")
    rng = np.random.default_rng(11)
    ground = sum(
        cv2.resize(
            rng.uniform(0, 60, (n, n, 3)).astype(np.float32), (1000, 1000), interpolation=cv2.INTER_CUBIC
        )
        for n in (12, 50, 200, 500)
    )
    with rasterio.open(
        folder / "map.tif", "w", driver="GTiff", width=1000, height=1000, count=3, dtype="uint8",
        crs="EPSG:32633", transform=from_origin(500_000, 5_300_000, 0.5, 0.5),
    ) as raster:  # fmt: skip
        raster.write(np.clip(ground, 0, 255).astype(np.uint8).transpose(2, 0, 1))
    arguments = ["--height-m", "60", "--speed-m-s", "10", "--rate-hz", "2", "--duration-s", "11.9"]
    assert main(["simulate", str(folder / "map.tif"), "--out", str(folder / "flight"), *arguments]) == 0
    return folder / "flight"


@pytest.fixture(scope="session")
def ul14_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated UL14 data set: three train items, three test sequences of three maps; copy it to change it."""
    from geoloc_models.data.synthetic_ul14 import SyntheticSettings, write_synthetic_ul14

    root = tmp_path_factory.mktemp("ul14")
    settings = SyntheticSettings(
        train_places=1, test_places=1, views=3, gsd_m=1.0, map_sizes_px=(700, 1200, 1800)
    )
    assert len(list(write_synthetic_ul14(root, settings))) == 6
    return root
