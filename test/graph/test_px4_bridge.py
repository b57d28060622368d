# SPDX-License-Identifier: Apache-2.0
"""px4_bridge on real DDS against PX4's part, with the messages of either version.

Two packages of one name do not fit into one process, so each version's cases (px4_cases.py) run in one of their own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from px4_build import px4_environment

CASES = Path(__file__).with_name("px4_cases.py")


@pytest.mark.parametrize("version", ["1.17", "1.18"])
def test_bridge(version: str) -> None:
    environment = {**px4_environment(version), "PX4_VERSION": version}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(CASES)]
    result = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=200
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]


def test_seconds_of_faults() -> None:
    command = [
        sys.executable,
        "-m",
        "geoloc_ros.cli.main",
        "bench-bridge",
        "--seconds",
        "6",
        "--rate-hz",
        "20",
    ]
    result = subprocess.run(
        command, env=px4_environment("1.18"), capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr
    counts = dict(re.findall(r"│ (.+?) +│ (\d+)", result.stdout))
    assert counts["frames said"] == "120"
    assert counts["violations"] == "0"
    assert int(counts["arrived at PX4"]) == int(counts["sent by the bridge"]) > 20


def test_without_px4_msgs_one_line_says_what_to_build() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "geoloc_ros.nodes.px4_bridge"],
        env=dict(os.environ), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "px4_msgs is not here: build the branch" in result.stderr
