# SPDX-License-Identifier: Apache-2.0
"""`geoloc bench graph` as a user runs it, on few and small images."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from geoloc_ros.cli.main import main


def test_a_load_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "geoloc_ros.cli.main", "bench", "graph", "--out", str(tmp_path)]
    settings = ["--weights", "mix_compact", "--engine", "torch", "--frames", "20", "--sizes", "320x240"]
    load = ["--rates-hz", "10", "--transports", "compressed"]
    done = subprocess.run([*command, *settings, *load], capture_output=True, text=True, timeout=250.0, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "graph.json").read_text())
    assert report["weights"].startswith("mix_compact")
    (row,) = report["rows"]
    assert (row["size"], row["rate_hz"], row["transport"]) == ("320x240", 10.0, "compressed")
    assert row["published"] == 20
    assert 5.0 < row["published_hz"] < 11.5
    assert row["answered"] + row["replaced_by_a_newer_one"] + row["lost_on_the_way"] == 20
    assert row["valid_share"] * row["answered"] >= 5
    age, network = row["image_to_fix_ms"], row["stages_ms"]["network"]
    assert 0.0 < network["p50"] < age["p50"] <= age["p95"] <= age["p99"]
    # More than the two cores have would be a mistake in the sum.
    assert 0.0 <= row["map_server_cpu_percent"] < row["localizer_cpu_percent"] <= 210.0
    assert 150.0 < row["memory_end_mb"] < 1500.0
    assert row["start_s"] > 1.0
    assert "from launch to the first fix" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sizes", "640"), "size is '640'"),
        (("--sizes", "8x8"), "64 pixels or more"),
        (("--frames", "0"), "must be positive"),
        (("--rates-hz", "-1"), "must be positive"),
    ],
)
def test_impossible_loads_end_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, str], message: str
) -> None:
    assert main(["bench", "graph", "--out", str(tmp_path), *arguments]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.strip().splitlines()) == 1
