# SPDX-License-Identifier: Apache-2.0
"""`launch_test` of replay.launch.py: every frame of a flight folder is answered, and the player ends by itself."""

import sys
import tempfile
import unittest
from pathlib import Path

import launch_testing
import rclpy
from geoloc_ros.msg import LocalizerStatus
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare
from launch_testing.actions import ReadyToTest
from launch_testing.asserts import assertExitCodes
from rclpy.node import Node

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nodes"))

from harness import FRAMES, Scene, Spinner, draw_map, until

from geoloc_ros.core.recording.flight_folder import write_flight

FOLDER = tempfile.TemporaryDirectory()


def generate_test_description() -> LaunchDescription:
    """The launch file with a short flight over a drawn map."""
    root = Path(FOLDER.name)
    draw_map(root / "map.tif")
    scene = Scene(root / "map.tif")
    scene.stamp_s = 1.7e9
    frames = [scene.next() for _ in range(FRAMES)]
    write_flight(root / "flight", frames[0].camera, frames, root / "map.tif")
    scene.close()
    parameters = root / "player.yaml"
    parameters.write_text("/**:\n  ros__parameters:\n    answer_s: 30.0\n    wait_s: 120.0\n", encoding="utf-8")
    source = PathJoinSubstitution([FindPackageShare("geoloc_ros"), "launch", "replay.launch.py"])
    arguments = {"flight": str(root / "flight"), "flight_player_params": str(parameters)}
    included = IncludeLaunchDescription(PythonLaunchDescriptionSource(source), launch_arguments=arguments.items())
    return LaunchDescription([included, ReadyToTest()])


class TestReplay(unittest.TestCase):
    """While the nodes run."""

    def test_every_frame_is_answered(self) -> None:
        rclpy.init()
        spinner, statuses = Spinner(), []
        listener = spinner.add(Node("listener"))
        listener.create_subscription(LocalizerStatus, "localizer/status", statuses.append, 50)
        try:
            until(lambda: len(statuses) == FRAMES, 180.0, "a status for every frame")
        finally:
            spinner.close()
            rclpy.try_shutdown()
        assert sum(status.valid for status in statuses) >= FRAMES // 2


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    """After Ctrl-C."""

    def test_every_process_ended_well(self, proc_info: object) -> None:
        assertExitCodes(proc_info)
        FOLDER.cleanup()
