# SPDX-License-Identifier: Apache-2.0
"""`launch_test` of sim.launch.py, dry: it tells what it would start and starts nothing."""

import sys
import tempfile
import unittest
from pathlib import Path

from launch import LaunchDescription
from launch.actions import ExecuteProcess
from launch_testing.actions import ReadyToTest
from launch_testing.asserts import assertExitCodes

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "nodes"))

from harness import draw_map

from geoloc_ros.cli.main import main

FOLDER = tempfile.TemporaryDirectory()


def generate_test_description() -> tuple[LaunchDescription, dict[str, ExecuteProcess]]:
    """`ros2 launch` of a world whose ground and served map are drawn apart."""
    root = Path(FOLDER.name)
    draw_map(root / "ground.tif", seed=5)
    draw_map(root / "served.tif", seed=6)
    assert main(["sim", "gazebo", str(root / "ground.tif"), "--out", str(root / "world"), "--gsd-m", "1"]) == 0
    command = ["ros2", "launch", "geoloc_ros", "sim.launch.py", "dry_run:=true", f"world:={root / 'world'}"]
    dry_run = ExecuteProcess(cmd=[*command, f"map:={root / 'served.tif'}", f"px4_dir:={root}"], output="screen")
    return LaunchDescription([dry_run, ReadyToTest()]), {"dry_run": dry_run}


class TestDryRun(unittest.TestCase):
    """What it says."""

    def test_all_is_told_and_nothing_started(self, proc_info: object, proc_output: object, dry_run: object) -> None:
        for text in ("dry run, would start:", "gz sim -r ", "udp4 -p 8888", "localize.launch.py", "to mend: PX4"):
            proc_output.assertWaitFor(text, process=dry_run, timeout=60)  # type: ignore[attr-defined]
        proc_info.assertWaitForShutdown(process=dry_run, timeout=60)  # type: ignore[attr-defined]
        assertExitCodes(proc_info, process=dry_run)
        FOLDER.cleanup()
