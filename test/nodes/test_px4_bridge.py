# SPDX-License-Identifier: Apache-2.0
"""px4_bridge on real DDS against PX4's part, with the messages of either version.

Two packages of one name do not fit into one process, so each version's cases (px4_cases.py) run in one of their own.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from px4_build import px4_environment

VERSIONS = ("1.17", "1.18")
HERE = Path(__file__).parent
CASES = {
    "1.17": ("px4_cases.py", "1.17"),
    "1.18": ("px4_cases.py", "1.18"),
    "with localizer": ("px4_with_localizer.py", "1.18"),
}


@pytest.fixture(scope="module")
def cases() -> Iterator[dict[str, subprocess.Popen[str]]]:
    """All cases at the same time, as they mostly wait; in domains of their own."""
    with ThreadPoolExecutor() as pool:
        environments = dict(zip(VERSIONS, pool.map(px4_environment, VERSIONS), strict=True))
    domain = int(os.environ.get("ROS_DOMAIN_ID", "0"))
    running = {}
    for number, (name, (file, version)) in enumerate(CASES.items(), start=1):
        environment = {**environments[version], "PX4_VERSION": version}
        environment["ROS_DOMAIN_ID"] = str((domain + 25 * number) % 102)
        command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", str(HERE / file)]
        running[name] = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    yield running
    for process in running.values():
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", CASES)
def test_bridge(name: str, cases: dict[str, subprocess.Popen[str]]) -> None:
    output, _ = cases[name].communicate(timeout=200)
    assert cases[name].returncode == 0, output[-8000:]


def test_seconds_of_faults_for_both_bridges() -> None:
    domain = int(os.environ.get("ROS_DOMAIN_ID", "0"))
    running = {}
    for number, bridge in enumerate(("px4", "mavlink"), start=1):
        environment = {**px4_environment("1.18"), "ROS_DOMAIN_ID": str((domain + 37 * number) % 102)}
        command = [sys.executable, "-m", "geoloc_ros.cli.main", "bench", "bridge", "--bridge", bridge]
        # A limit with room for a machine that does other things, too.
        command += ["--seconds", "5", "--rate-hz", "20", "--limit-s", "0.6"]
        running[bridge] = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
    for bridge, process in running.items():
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        counts = dict(re.findall(r"^ (\S.*?) {2,}(\d+) *$", output, re.M))
        assert counts["frames published"] == "100"
        assert counts["violations"] == "0"
        assert int(counts["arrived"]) == int(counts["sent by the bridge"]) > 20
        assert ("counter increments" in counts) == (bridge == "px4")


def test_without_px4_msgs_one_line_says_what_to_build() -> None:
    # Even where somebody has one.
    code = (
        "import sys; sys.modules['px4_msgs'] = None; "
        "from geoloc_ros.nodes.px4_bridge_node import main; sys.exit(main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=dict(os.environ), capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
    assert "px4_msgs is not here: build the branch" in result.stderr
