# SPDX-License-Identifier: Apache-2.0
"""`launch_test` of localize.launch.py: frames become fixes, and all ends well."""

import sys
import tempfile
import time
import unittest
from pathlib import Path

import launch_testing
import rclpy
from launch import LaunchDescription
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare
from launch_testing.actions import ReadyToTest
from launch_testing.asserts import assertExitCodes

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nodes"))

from harness import Drone, Scene, Spinner, draw_map, error_m, until

FOLDER = tempfile.TemporaryDirectory()
START_S = 120.0  # for a process that loads the network on a busy machine


def generate_test_description() -> LaunchDescription:
    """The launch file over a drawn map, in a namespace."""
    map_path, parameters = Path(FOLDER.name) / "map.tif", Path(FOLDER.name) / "localizer.yaml"
    draw_map(map_path)
    parameters.write_text("/**:\n  ros__parameters:\n    altitude_type: range\n", encoding="utf-8")
    source = PathJoinSubstitution([FindPackageShare("geoloc_ros"), "launch", "localize.launch.py"])
    arguments = {"map": str(map_path), "namespace": "tested", "localizer_params": str(parameters)}
    included = IncludeLaunchDescription(PythonLaunchDescriptionSource(source), launch_arguments=arguments.items())
    return LaunchDescription([included, ReadyToTest()])


class TestFixes(unittest.TestCase):
    """While the nodes run."""

    def setUp(self) -> None:
        rclpy.init()
        self.spinner, self.scene = Spinner(), Scene(Path(FOLDER.name) / "map.tif")

    def tearDown(self) -> None:
        self.scene.close()
        self.spinner.close()
        rclpy.try_shutdown()

    def test_frames_become_fixes(self) -> None:
        drone: Drone = self.spinner.add(Drone("/tested"))
        until(lambda: drone.topics.has_subscribers, START_S, "the localizer's subscriptions")
        until(lambda: drone.set_prior(*self.scene.place).success, START_S, "the localizer's activation")

        def located() -> float | None:
            time.sleep(0.2)  # the localizer and the map server may not have found each other yet
            frame = self.scene.next()
            fix, status = drone.fly(frame)
            assert frame.truth is not None
            return error_m(fix, frame.truth) if status.valid else None

        assert until(located, 20.0, "a fix") < 3.0


@launch_testing.post_shutdown_test()
class TestEnd(unittest.TestCase):
    """After Ctrl-C."""

    def test_every_process_ended_well(self, proc_info: object) -> None:
        assertExitCodes(proc_info)
        FOLDER.cleanup()
