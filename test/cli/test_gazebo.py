# SPDX-License-Identifier: Apache-2.0
"""`geoloc gazebo`."""

from pathlib import Path

import pytest

from geoloc_ros.cli.main import main
from geoloc_ros.core.simulation.gazebo import World


def test_world(tmp_path: Path, write_texture, capsys: pytest.CaptureFixture[str]) -> None:
    raster, out = write_texture(tmp_path / "map.tif", 1), tmp_path / "world"
    size = ["--size-m", "200", "--gsd-m", "0.5", "--centre", "47.3997", "8.4738"]
    camera = ["--image-px", "320", "240", "--hfov-deg", "60", "--rate-hz", "5"]
    textures = ["--texture-format", "png", "--tile-px", "256", "--texture-mib", "10"]
    named = ["--name", "hill", "--altitude-m", "412.5"]
    assert main(["sim", "gazebo", str(raster), "--out", str(out), *size, *camera, *textures, *named]) == 0
    world = World.open(out)
    told = capsys.readouterr().out
    assert f"{out / 'hill.sdf'}: ground 200.0 x 200.0 m at 0.5 m a pixel in 4 texture(s)" in told
    assert "100.0 % of it on the map" in told
    assert f"sim.launch.py world:={out}" in told
    assert (world.name, world.altitude_m, world.ground_map) == ("hill", 412.5, "map.tif")
    assert (world.camera.width_px, world.camera.height_px, world.camera.rate_hz) == (320, 240, 5.0)
    assert {path.suffix for path in world.ground.glob("tile*")} == {".png"}


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["--gsd-m", "0.01", "--texture-mib", "1"], "--texture-mib"),
        (["--centre", "0", "0", "--size-m", "50"], "it spans"),
        (["--name", "my world"], "letters, digits and _"),
        (["--hfov-deg", "170"], "give 5 to 100"),
        (["--altitude-m", "nan"], "give -1000 to 10000 m"),
    ],
)
def test_mistakes_end_in_one_line(
    tmp_path: Path, write_texture, capsys: pytest.CaptureFixture[str], arguments: list[str], remedy: str
) -> None:
    raster = write_texture(tmp_path / "map.tif", 1)
    assert main(["sim", "gazebo", str(raster), "--out", str(tmp_path / "world"), *arguments]) == 2
    told = capsys.readouterr().err
    assert remedy in told
    assert len(told.strip().splitlines()) == 1
    assert not (tmp_path / "world" / "world.json").exists()


def test_map_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sim", "gazebo", str(tmp_path / "no.tif"), "--out", str(tmp_path / "world")]) == 2
    assert "no.tif" in capsys.readouterr().err
