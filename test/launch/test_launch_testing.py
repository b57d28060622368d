# SPDX-License-Identifier: Apache-2.0
"""Runs the files of `launch_test` in this folder, each in a process and a ROS domain of its own.

Without `launch`, which no registry has, test/nodes/test_launch_files.py runs the launch files in their stead.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.glob("launch_test_*.py"))


@pytest.mark.skipif(shutil.which("launch_test") is None, reason="no launch_testing in this environment")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_launch_test(path: Path) -> None:
    domain = str(1 + (os.getpid() + FILES.index(path)) % 101)
    done = subprocess.run(
        ["launch_test", str(path)],
        env={**os.environ, "ROS_DOMAIN_ID": domain}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
