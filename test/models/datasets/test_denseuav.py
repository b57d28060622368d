# SPDX-License-Identifier: Apache-2.0
"""DenseUAV loader: positions by letter, images by role."""

from pathlib import Path

import pytest

from geoloc_models.datasets.denseuav import Position, load_test, load_train, read_positions
from geoloc_models.datasets.faults import Fault
from geoloc_models.errors import GeolocError


@pytest.mark.parametrize(
    "line",
    [
        "/data/DenseUAV/train/drone/000012/H80.JPG E120.387 N30.325 94.2",
        "train/drone/000012/H80.JPG N30.325 E120.387 94.2",
        "train\\drone\\000012\\H80.JPG  E120.387\tN30.325 94.2  ",
        "a folder with blanks/drone/000012/H80.JPG 94.2 N30.325 E120.387",
    ],
)
def test_letters_tell_longitude_from_latitude(line: str, tmp_path: Path) -> None:
    path = tmp_path / "Dense_GPS_train.txt"
    path.write_text(f"{line}\n\n", encoding="utf-8")
    faults: list[Fault] = []
    assert read_positions(path, faults) == {"000012": {"H80": Position(30.325, 120.387, 94.2)}}
    assert faults == []


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Empty files in place of images: the loader does not open them."""
    files = [f"train/drone/000007/H{height}.JPG" for height in (80, 90, 100)]
    files += [f"train/satellite/000007/H{height}{year}.tif" for height in (80, 90, 100) for year in ("", "_old")]
    files += ["test/query_drone/000008/H80.JPG", "test/gallery_satellite/000008/H80.tif"]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    lines = [f"train/drone/000007/H{height}.JPG E120.1 N30.1 {height}.25" for height in (80, 90, 100)]
    lines.append("test/query_drone/000008/H80.JPG E120.2 N30.2 81")
    (tmp_path / "Dense_GPS_ALL.txt").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path


def test_pictures_by_role_with_the_position_of_their_height(root: Path) -> None:
    train = load_train(root)
    assert set(train) == {"drone", "satellite"}
    assert [image.path.name for image in train["drone"]] == ["H80.JPG", "H90.JPG", "H100.JPG"]
    assert [image.position.height_m for image in train["drone"]] == [80.25, 90.25, 100.25]
    by_name = {image.path.name: image for image in train["satellite"]}
    assert by_name["H100_old.tif"].position == Position(30.1, 120.1, 100.25)
    assert {image.place_id for image in train["satellite"]} == {"000007"}
    # The reverse task's folders may be missing.
    test = load_test(root)
    assert set(test) == {"query_drone", "gallery_satellite"}
    assert test["gallery_satellite"][0].position == Position(30.2, 120.2, 81.0)


def test_the_first_fault_is_told(root: Path) -> None:
    (root / "Dense_GPS_ALL.txt").write_text("train/drone/000007/H80.JPG E120.1.1 N30 80")
    with pytest.raises(GeolocError, match=r"ALL\.txt: line 1 holds 'E120\.1\.1', which is no number \(2 more"):
        load_train(root)
    with pytest.raises(GeolocError, match="has no folder train; give the root"):
        load_train(root / "test")
    (root / "Dense_GPS_ALL.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(GeolocError, match="cannot be read as UTF-8 text"):
        load_train(root)
    (root / "Dense_GPS_ALL.txt").write_text("H80.JPG E120 N30 80")
    with pytest.raises(GeolocError, match=r"names the file 'H80\.JPG' without the folder of its place"):
        load_train(root)
