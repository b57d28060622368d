# SPDX-License-Identifier: Apache-2.0
"""The library's example in README.md runs as written and finds the place, and imports stay light."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from geoloc_ros.cli.main import main

README = Path(__file__).parents[1] / "README.md"


def test_the_librarys_example_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    section = README.read_text(encoding="utf-8").split("\n## As a library\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```(bash|python)\n(.*?)```", section, re.DOTALL)
    assert [language for language, _ in blocks] == ["bash", "python", "python"]
    monkeypatch.chdir(tmp_path)
    for line in blocks[0][1].splitlines():
        assert main(shlex.split(line)[1:]) == 0
    capsys.readouterr()
    names: dict[str, object] = {}
    for _, block in blocks[1:]:
        exec(block, names)
    printed = capsys.readouterr().out.splitlines()
    x_px, y_px = map(float, re.findall(r"[\d.]+", printed[0])[:2])
    assert np.hypot(x_px - 246, y_px - 296) < 10  # 3 m
    found = re.search(r"TRACKING ([\d.-]+) ([\d.-]+) \[\[", printed[-2] + printed[-1])
    assert found is not None, printed
    truth = names["flight"].truth(len(names["flight"]) - 1)  # type: ignore[attr-defined, arg-type]
    off_deg = np.array([float(found[1]) - truth.lat_deg, float(found[2]) - truth.lon_deg])
    assert np.hypot(*(off_deg * [111_320.0, 111_320.0 * np.cos(np.deg2rad(truth.lat_deg))])) < 5.0


@pytest.mark.parametrize("package", ["geoloc_models", "geoloc_ros.core"])
def test_importing_a_package_loads_nothing_heavy_and_every_public_name_is_there(package: str) -> None:
    code = (
        f"import sys, {package} as p\n"
        "assert not {'torch', 'cv2', 'numpy', 'rclpy'} & set(sys.modules)\n"
        "for name in p.__all__: assert getattr(p, name).__doc__, name\n"
        "assert 'rclpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
