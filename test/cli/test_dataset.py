# SPDX-License-Identifier: Apache-2.0
"""`geoloc dataset`: every verb as a user calls it, its exit status and its lines."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from geoloc_models.datasets.ul14 import load_test, load_train
from geoloc_ros.cli.main import main


def test_check_says_what_is_there(ul14_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "check", str(ul14_tree)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{ul14_tree}: UL14 layout"
    assert lines[-1] == "no faults"


def test_faults_are_named_below_the_root_and_end_in_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test/Yard_80_0/UAV").mkdir(parents=True)
    assert main(["dataset", "check", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "fault: test/Yard_80_0/labels.json: is missing; restore it\n" in out
    assert out.endswith("4 faults\n")


def test_synthesized_set_passes_its_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--train-places", "0", "--views", "1", "--seed", "7"]
    assert main(["dataset", "synthesize", "--out", str(tmp_path / "s"), *arguments]) == 0
    assert "0 train items, 1 test sequences" in capsys.readouterr().out
    assert main(["dataset", "check", str(tmp_path / "s")]) == 0
    assert [pair.map_size_px for pair in load_test(tmp_path / "s")] == list(range(700, 1801, 100))
    assert main(["dataset", "synthesize", "--out", str(tmp_path / "s")]) == 2
    assert "is not empty; give a new folder" in capsys.readouterr().err


def test_flight_is_built_and_checked(small_flight: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--flight", str(small_flight), "--out", str(tmp_path), "--place", "Loop", "--every", "12"]
    assert main(["dataset", "build", *arguments, "--split", "train"]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}: place Loop for train: used 2 of 2 views, skipped 0, wrote 2 map(s), " in out
    assert "train: 2 items of 1 place, 2 maps" in out
    assert out.endswith("no faults\n")
    assert len(load_train(tmp_path)) == 2
    assert main(["dataset", "build", *arguments, "--split", "test"]) == 2
    assert "already holds 2 sequences of place Loop" in capsys.readouterr().err


def test_photos_that_are_skipped_are_listed(
    small_flight: Path, write_photo: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from geoloc_ros.core.recording.flight_folder import Flight

    truth = Flight.open(small_flight).truth(0)
    image = np.random.default_rng(1).integers(0, 255, (120, 160, 3), np.uint8)
    write_photo(tmp_path / "p/a.jpg", image, truth.lat_deg, truth.lon_deg)
    write_photo(tmp_path / "p/b.jpg", image)
    write_photo(tmp_path / "p/c.jpg", image, truth.lat_deg + 1, truth.lon_deg)
    arguments = ["--photos", str(tmp_path / "p"), "--out", str(tmp_path / "o"), "--place", "A", "--split", "train"]
    with_map = [*arguments, "--map", str(small_flight / "map.tif")]
    assert main(["dataset", "build", *with_map, "--height-m", "60"]) == 0
    out = capsys.readouterr().out
    assert "skipped: b.jpg: has no GPS position in its EXIF\n" in out
    assert "skipped: c.jpg: shows ground outside the map\n" in out
    assert "used 1 of 3 views, skipped 2, wrote 1 map(s)" in out
    assert "warning: 2 photo(s) name no heading" in out
    # Without a height, no photo is of use; without a map, nothing is begun.
    with_map[5] = "B"
    assert main(["dataset", "build", *with_map]) == 2
    captured = capsys.readouterr()
    assert captured.out.count("has no height above ground in its XMP; give one with --height-m") == 2
    assert "nothing of" in captured.err
    assert main(["dataset", "build", *arguments]) == 2
    assert "photos have no map of their own; give a georeferenced raster with --map" in capsys.readouterr().err
    flight = ["--flight", str(small_flight), *arguments[2:], "--height-m", "9"]
    assert main(["dataset", "build", *flight]) == 2
    assert "--height-m is for photos; a flight has its own heights" in capsys.readouterr().err
