# SPDX-License-Identifier: Apache-2.0
"""Dataset check: a sound tree has no fault, and each damage gives one clear sentence at the right file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from geoloc_models.datasets.checks import check_dataset
from geoloc_models.errors import GeolocError

SEQUENCE = Path("test/Place2_80_0")
LABELS, GPS = SEQUENCE / "labels.json", SEQUENCE / "GPS_info.json"
MAP = SEQUENCE / "Satellite/1.jpg"
TRAIN = Path("train/Place1_80_0")


def change_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def json_change(path: Path, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda root: change_json(root / path, change)


def remove(path: Path) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def write(path: Path, data: bytes) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        (root / path).write_bytes(data)

    return damage


def truncate(path: Path) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        data = (root / path).read_bytes()
        (root / path).write_bytes(data[: len(data) // 2])

    return damage


def resize(path: Path, width: int, height: int) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        cv2.imwrite(str(root / path), cv2.resize(cv2.imread(str(root / path)), (width, height)))

    return damage


def swap_two_labels(labels: dict[str, Any]) -> None:
    labels["0.jpg"], labels["2.jpg"] = labels["2.jpg"], labels["0.jpg"]


def copy_to_other_place(root: Path) -> None:
    view = cv2.imread(str(root / SEQUENCE / "UAV/0.JPG"))
    cv2.imwrite(str(root / TRAIN / "UAV/0.JPG"), cv2.resize(view, (512, 512)))


def same_place_name(root: Path) -> None:
    (root / TRAIN).rename(root / "train/Place2_80_9")


INFO = "Satellite"

FAULTS: dict[str, tuple[Callable[[Path], Any], Path, str]] = {
    "no view": (remove(TRAIN / "UAV/0.JPG"), TRAIN / "UAV", "holds no image; restore 0.JPG"),
    "no maps": (remove(TRAIN / "Satellite/0.tif"), TRAIN / "Satellite", "holds no image; restore the maps"),
    "missing map": (remove(MAP), MAP, "is missing, but labels.json labels it"),
    "no labels": (remove(LABELS), LABELS, "is missing; restore it"),
    "no coordinates": (remove(GPS), GPS, "is missing; restore it"),
    "odd name": (
        lambda root: (root / TRAIN).rename(root / "train/Place1-80"),
        Path("train/Place1-80"),
        "is not named <Place>_<Height>_<Index>; rename it",
    ),
    "no label for a map": (
        json_change(LABELS, lambda v: v.pop("1.jpg")), LABELS, "has no label for 1.jpg; add it or remove the map",
    ),
    "no corners for a map": (
        json_change(GPS, lambda v: v[INFO].pop("1.jpg")), GPS, "has no corners for 1.jpg; add them or remove the map",
    ),
    "damaged JSON": (
        write(LABELS, b'{"0.jpg": [1, 2],'), LABELS, "is damaged JSON in line 1, column 18",
    ),
    "JSON of another encoding": (
        write(LABELS, '{"0.jpg": "Ä"}'.encode("latin-1")), LABELS, "is not UTF-8 from byte 11 on; save it as UTF-8",
    ),
    "JSON list": (write(LABELS, b"[1, 2]"), LABELS, "holds a list where an object {...} belongs"),
    "label in words": (
        json_change(LABELS, lambda v: v.update({"1.jpg": "left"})), LABELS, "label of 1.jpg is 'left', not [row, col]",
    ),
    "label outside": (
        json_change(LABELS, lambda v: v.update({"1.jpg": [100, 900]})),
        LABELS,
        "label [100, 900] of 1.jpg lies outside its 768x768 px",
    ),
    "label NaN": (
        json_change(LABELS, lambda v: v.update({"1.jpg": [float("nan"), 9]})), LABELS, "label [nan, 9] of 1.jpg lies",
    ),
    "place is no place": (
        json_change(GPS, lambda v: v.update(UAV={"E": 30.0, "N": 120.0})), GPS, '"UAV" is not {"E": longitude, "N"',
    ),
    "corner without number": (
        json_change(GPS, lambda v: v[INFO]["1.jpg"].pop("br_E")), GPS, "1.jpg lacks the number 'br_E'; it needs tl_N",
    ),
    "corner not finite": (
        json_change(GPS, lambda v: v[INFO]["1.jpg"].update(map_size=float("inf"))), GPS, "that is no number",
    ),
    "latitude and longitude exchanged": (
        json_change(GPS, lambda v: v[INFO]["1.jpg"].update(tl_N=120.0, br_N=119.9)),
        GPS,
        "1.jpg has a corner at latitude 120; N is latitude, E is longitude",
    ),
    "corners exchanged": (
        json_change(
            GPS, lambda v: v[INFO]["1.jpg"].update(tl_N=v[INFO]["1.jpg"]["br_N"], br_N=v[INFO]["1.jpg"]["tl_N"])
        ),
        GPS,
        "1.jpg has its top-left corner not north-west of the bottom-right one",
    ),
    "label transposed": (
        json_change(LABELS, lambda v: v.update({"1.jpg": v["1.jpg"][::-1]})),
        MAP,
        "px; it fits with row and column exchanged, so exchange them",
    ),
    "label elsewhere": (
        json_change(LABELS, lambda v: v.update({"1.jpg": [v["1.jpg"][0] - 19, v["1.jpg"][1]]})),
        MAP,
        "label misses the UAV's coordinates by 19 px; correct the label, the corners or the UAV's place",
    ),
    "center_distribute of another map": (
        json_change(GPS, lambda v: v[INFO]["1.jpg"].update(center_distribute_X=0.0, center_distribute_Y=0.0)),
        GPS,
        "center_distribute of 1.jpg puts the UAV 0.00 half sides off the map's centre, its label",
    ),
    "map_size of another map": (
        json_change(GPS, lambda v: v[INFO]["1.jpg"].update(map_size=700)),
        GPS,
        "corners of 1.jpg are 352.8 m apart from north to south, but its map_size of 700 means 205.8 m",
    ),
    "map is no image": (write(MAP, b"not an image"), MAP, "is no readable image; restore it or remove it"),
    "train map cut off": (
        truncate(TRAIN / "Satellite/0.tif"), TRAIN / "Satellite/0.tif", "is damaged or no image; restore it",
    ),
    "view cut off": (truncate(SEQUENCE / "UAV/0.JPG"), SEQUENCE / "UAV/0.JPG", "is damaged or no image"),
    "map of another size": (
        resize(TRAIN / "Satellite/0.tif", 1000, 1000),
        TRAIN / "Satellite/0.tif",
        "is 1000x1000 px where 2 of 3 are 1280x1280; resample it",
    ),
    "view in train and test": (
        copy_to_other_place, TRAIN / "UAV/0.JPG", "is the same view as test/Place2_80_0/UAV/0.JPG",
    ),
    "place in train and test": (same_place_name, Path("train"), "place Place2 is also in test; move all of its"),
}  # fmt: skip


def test_sound_tree_has_no_fault(ul14_tree: Path) -> None:
    report = check_dataset(ul14_tree)
    assert report.layout == "UL14"
    assert report.faults == [] == report.warnings
    assert report.facts[:2] == [
        "train: 3 items of 1 place, 3 maps (published: 6,768 items of 10 places)",
        "test: 3 sequences of 1 place, 9 pairs (published: 2,331 sequences of 4 places, 27,972 pairs)",
    ]
    assert "test: maps of 205.8 to 529.2 m, 0.268 to 0.689 m a stored pixel" in report.facts
    assert any("agree with the UAV's coordinates to 0.00 px, 0.00 m" in fact for fact in report.facts)
    assert "test/Satellite: 9 of 9 images are 768x768 px" in report.facts


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_clear_sentence(name: str, tree: Path) -> None:
    damage, path, text = FAULTS[name]
    damage(tree)
    faults = check_dataset(tree).faults
    assert [fault.path for fault in faults] == [tree / path], [str(fault) for fault in faults]
    assert text in faults[0].text
    assert "\n" not in faults[0].text


def test_two_labels_swapped_are_recognised(tree: Path) -> None:
    """The label of a 206 m map on one of 529 m: outside it or off, and if off, its owner is named."""
    change_json(tree / LABELS, swap_two_labels)
    faults = check_dataset(tree).faults
    by_path = {fault.path.name: fault.text for fault in faults if fault.path.parent.name == "Satellite"}
    assert set(by_path) == {"0.jpg", "2.jpg"}
    assert by_path["0.jpg"].endswith("the label of 2.jpg fits it, so the two were swapped")
    assert by_path["2.jpg"].endswith("the label of 0.jpg fits it, so the two were swapped")


def test_corners_of_a_whole_set_transposed_are_one_fault(tree: Path) -> None:
    """Not one sentence for each of thousands of pairs."""
    for path in tree.glob("test/*/labels.json"):
        change_json(path, lambda v: v.update({name: label[::-1] for name, label in v.items()}))
    faults = check_dataset(tree).faults
    assert [fault.path for fault in faults] == [tree / "test"]
    assert "fit to 0.0 px with rows and columns exchanged" in faults[0].text


def test_maps_that_are_no_squares_are_one_fault(tree: Path) -> None:
    for path in tree.glob("train/*/Satellite/0.tif"):
        resize(path.relative_to(tree), 1280, 960)(tree)
    faults = check_dataset(tree).faults
    assert [(f.path, f.text) for f in faults] == [(tree / "train", "its maps are 960x1280 px; cut them square")]


def test_val_copied_from_test_is_warned_of(tree: Path) -> None:
    """As in the authors' set: no damage, but a model must not be chosen on it."""
    shutil.copytree(tree / "test", tree / "val")
    report = check_dataset(tree)
    assert report.faults == []
    assert report.warnings[0].startswith("3 sequences of val are also in test: a model chosen on val")


def test_folders_that_are_no_data_set_are_told(tmp_path: Path, ul14_tree: Path) -> None:
    with pytest.raises(GeolocError, match=r"neither in the UL14 layout .* nor in that of DenseUAV"):
        check_dataset(tmp_path)
    with pytest.raises(GeolocError, match="is no folder; give the root of a data set"):
        check_dataset(tmp_path / "nothing")
    with pytest.raises(GeolocError, match="is one split of a UL14 layout; give the folder above it"):
        check_dataset(ul14_tree / "train")


@pytest.fixture
def denseuav_tree(tmp_path: Path) -> Path:
    """Two places to train on and one to query, each at three heights with maps of two years."""
    root = tmp_path / "DenseUAV"
    rng = np.random.default_rng(3)

    def image(path: Path, side_px: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        cells = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(path), cv2.resize(cells, (side_px, side_px)))

    lines: dict[str, list[str]] = {"train": [], "test": []}
    roles = {"train": ("drone", "satellite"), "test": ("query_drone", "gallery_satellite")}
    for split, ids in (("train", ("000001", "000002")), ("test", ("000003",))):
        for place in ids:
            for height in (80, 90, 100):
                drone, satellite = (root / split / role / place for role in roles[split])
                image(drone / f"H{height}.JPG", 64)
                image(satellite / f"H{height}.tif", 64)
                image(satellite / f"H{height}_old.tif", 64)
                lines[split].append(f"./{split}/drone/{place}/H{height}.JPG E120.3{place} N30.3{place} {height}.5")
    for split, text in lines.items():
        (root / f"Dense_GPS_{split}.txt").write_text("\n".join(text) + "\n", encoding="utf-8")
    return root


def test_sound_denseuav_tree_has_no_fault(denseuav_tree: Path) -> None:
    report = check_dataset(denseuav_tree)
    assert report.layout == "DenseUAV"
    assert report.faults == []
    assert "train/satellite: 2 places, 12 images" in report.facts
    assert "test/query_drone: 1 place, 3 images" in report.facts


def replace_line(root: Path, line: str) -> None:
    path = root / "Dense_GPS_train.txt"
    path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]))


DENSEUAV_FAULTS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "no text": (
        lambda root: (root / "Dense_GPS_train.txt").unlink(), "Dense_GPS_train.txt",
        "is missing, and so is Dense_GPS_ALL.txt",
    ),
    "line in words": (
        lambda root: replace_line(root, "train/drone/000001/H80.JPG somewhere"), "Dense_GPS_train.txt",
        "line 1 is 'train/drone/000001/H80.JPG somewhere', not '<path> E<longitude> N<latitude> <height>'",
    ),
    "line without letters": (
        lambda root: replace_line(root, "train/drone/000001/H80.JPG 120.3 30.3 80"), "Dense_GPS_train.txt",
        "line 1 must have one number with E, one with N and a height",
    ),
    "letters exchanged": (
        lambda root: replace_line(root, "train/drone/000001/H80.JPG N120.3 E30.3 80"), "Dense_GPS_train.txt",
        "line 1 names latitude 120.3, longitude 30.3, which is no place on Earth",
    ),
    "place without line": (
        lambda root: (root / "train/drone/000002").rename(root / "train/drone/000009"), "train/drone/000009",
        "has no line in Dense_GPS_train.txt; add its position or remove it",
    ),
    "no gallery": (
        lambda root: shutil.rmtree(root / "train/satellite"), "train/satellite", "is missing; restore it",
    ),
    "height missing": (
        lambda root: (root / "train/drone/000002/H90.JPG").unlink(), "train/drone/000002", "lacks H90; restore it",
    ),
    "damaged": (
        lambda root: (root / "train/drone/000002/H90.JPG").write_bytes(b"x"), "train/drone/000002/H90.JPG",
        "is damaged or no image",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DENSEUAV_FAULTS)
def test_each_fault_of_denseuav_is_one_clear_sentence(name: str, denseuav_tree: Path) -> None:
    damage, path, text = DENSEUAV_FAULTS[name]
    damage(denseuav_tree)
    faults = check_dataset(denseuav_tree).faults
    assert [fault.path for fault in faults] == [denseuav_tree / path], [str(fault) for fault in faults]
    assert text in faults[0].text


def test_queries_that_were_trained_on_or_have_no_answer_are_told(denseuav_tree: Path) -> None:
    shutil.copytree(denseuav_tree / "train/drone/000001", denseuav_tree / "test/query_drone/000001")
    text = denseuav_tree / "Dense_GPS_test.txt"
    text.write_text(text.read_text() + "test/query_drone/000001/H80.JPG E120 N30 80\n")
    texts = [str(fault.text) for fault in check_dataset(denseuav_tree).faults]
    assert "is also a query of test; remove one of them" in texts
    assert "has no place of that id in gallery_satellite; add it" in texts
    assert sum("is the same view as test/query_drone/000001" in text for text in texts) == 3
