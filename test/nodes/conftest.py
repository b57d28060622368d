# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the tests that run nodes; without ROS 2 these tests skip."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="no ROS 2 in this environment")

# The tests are imported by path, so the module that they share needs one.
sys.path.insert(0, str(Path(__file__).parent))

from harness import FRAMES, Scene, Spinner, draw_map  # noqa: E402

from geoloc_ros.core.recording.flight_folder import write_flight  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def ros() -> Iterator[None]:
    """rclpy for the whole session, in a domain of its own unless one is set."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 101))
    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def spinner() -> Iterator[Spinner]:
    """Nodes added to it are spun and destroyed after the test."""
    spinner = Spinner()
    yield spinner
    spinner.close()


@pytest.fixture(scope="session")
def map_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn map of 480 m."""
    return draw_map(tmp_path_factory.mktemp("map") / "map.tif")


@pytest.fixture
def scene(map_path: Path) -> Iterator[Scene]:
    """A camera over that map."""
    scene = Scene(map_path)
    yield scene
    scene.close()


@pytest.fixture
def folder(scene: Scene, tmp_path: Path) -> Path:
    """A short flight folder over that map, dated in this century."""
    scene.stamp_s = 1.7e9
    frames = [scene.next() for _ in range(FRAMES)]
    write_flight(tmp_path / "flight", frames[0].camera, frames, scene.path)
    return tmp_path / "flight"
