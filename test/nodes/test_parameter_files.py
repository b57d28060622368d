# SPDX-License-Identifier: Apache-2.0
"""The parameter files that ship say what the nodes declare, and every parameter is explained."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
NODES = ("localizer", "map_server", "flight_player", "camera_sim", "mavlink_bridge", "px4_bridge")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with files written anew from the nodes."""
    folder = tmp_path_factory.mktemp("config")
    tool = ROOT / "tools" / "write_parameter_files.py"
    subprocess.run([sys.executable, str(tool), str(folder)], check=True, timeout=120)
    return folder


@pytest.mark.parametrize("node", NODES)
def test_shipped_file_is_up_to_date(node: str, written: Path):
    shipped = (ROOT / "config" / f"{node}.yaml").read_text(encoding="utf-8")
    assert shipped == (written / f"{node}.yaml").read_text(encoding="utf-8"), (
        "run: python tools/write_parameter_files.py"
    )


@pytest.mark.parametrize("node", NODES)
def test_every_parameter_has_a_comment(node: str):
    lines = (ROOT / "config" / f"{node}.yaml").read_text(encoding="utf-8").splitlines()
    parameters = yaml.safe_load("\n".join(lines))["/**"]["ros__parameters"]
    commented = {
        line.split(":")[0].strip() for above, line in pairwise(lines) if above.startswith("    ") and "# " in above
    }
    groups = [name for name, value in parameters.items() if isinstance(value, dict)]
    names = set(parameters).union(*(parameters[group] for group in groups)) - set(groups)
    assert names
    assert names <= commented
