# SPDX-License-Identifier: Apache-2.0
"""UL14 loader: names, labels, corners and the check of labels against coordinates."""

import json
import math
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from geoloc_models.datasets.image_pairs import read_rgb
from geoloc_models.datasets.synthetic_ul14 import SyntheticSettings, write_synthetic_ul14
from geoloc_models.datasets.ul14 import Corners, consistency, load_test, load_train
from geoloc_models.errors import GeolocError
from geoloc_models.metrics import haversine_m

SEQUENCE = "Place2_80_0"


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def test_items_and_pairs_of_the_layout(ul14_tree: Path) -> None:
    items, pairs = load_train(ul14_tree), load_test(ul14_tree)
    assert [(item.place, item.height_m) for item in items] == [("Place1", 80), ("Place1", 90), ("Place1", 100)]
    assert all(item.uav.name == "0.JPG" and [s.name for s in item.satellites] == ["0.tif"] for item in items)
    assert len(pairs) == 9
    assert {pair.sequence for pair in pairs} == {f"Place2_{h}_0" for h in (80, 90, 100)}
    assert [pair.map_size_px for pair in pairs[:3]] == [700, 1200, 1800]
    assert pairs[0].size_m == pytest.approx(205.8)
    assert pairs[0].stored_px == (768, 768)


def test_view_shows_the_labelled_place(ul14_tree: Path) -> None:
    """Template matching of the view, colours apart, peaks at the label: position, scale and row/col order hold."""
    for pair in load_test(ul14_tree)[1::3]:
        view, search_map = read_rgb(pair.uav), read_rgb(pair.satellite)
        side_px = round(1.1 * pair.height_m / pair.size_m * search_map.shape[0] * 0.7)
        middle = slice(int(view.shape[0] * 0.15), int(view.shape[0] * 0.85))
        template = cv2.resize(view[middle, middle], (side_px, side_px), interpolation=cv2.INTER_AREA)
        # A view near the border of the world is cut off on the map.
        padded = cv2.copyMakeBorder(search_map, *[side_px // 2] * 4, cv2.BORDER_REPLICATE)
        _, _, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(padded, template, cv2.TM_CCOEFF_NORMED))
        expected = np.multiply(pair.target, search_map.shape[0])
        metres = math.hypot(y - expected[0], x - expected[1]) * pair.size_m / search_map.shape[0]
        assert metres < 8, pair.satellite


def test_labels_agree_with_coordinates(ul14_tree: Path) -> None:
    result = consistency(load_test(ul14_tree))
    assert result.pairs == 9
    assert result.median_px < 0.01
    assert result.transposed_px > 50
    assert not result.transposed
    assert result.problem == ""


def test_pixels_by_hand() -> None:
    """Corners by the formulas of the published evaluation, and the middle of a cell half a pixel further."""
    corners = Corners(30.01, 120.0, 30.0, 120.02)
    lat_deg, lon_deg = corners.to_geodetic(96 / 384, 288 / 384)
    assert lat_deg == pytest.approx(30.01 - (30.01 - 30.0) * 96 / 384)
    assert lon_deg == pytest.approx(120.0 + (120.02 - 120.0) * 288 / 384)
    middle = corners.to_geodetic(96.5 / 384, 288.5 / 384)
    assert middle == pytest.approx((30.01 - 0.01 * 96.5 / 384, 120.0 + 0.02 * 288.5 / 384), abs=1e-12)
    rows, cols = np.array([0.0, 0.3, 1.0]), np.array([1.0, 0.8, 0.0])
    back = corners.to_fractions(*corners.to_geodetic(rows, cols))
    assert np.allclose(back, (rows, cols), atol=1e-9)
    # Half a cell of the smallest map is 0.27 m, of the largest 0.69 m.
    for pixels, expected_m in ((700, 0.268), (1800, 0.689)):
        degrees = math.degrees(pixels * 0.294 / 6_378_137)
        square = Corners(degrees, 0.0, 0.0, degrees)
        one, other = square.to_geodetic(0.25, 0.5), square.to_geodetic(0.25 + 0.5 / 384, 0.5)
        assert float(haversine_m(*one, *other)) == pytest.approx(expected_m, abs=1e-3)


def test_every_spelling_of_files_is_read(tree: Path) -> None:
    """label.json, .png and .jpeg maps, names by year, a place with underscores and other letters, H before heights."""
    sequence = tree / "test" / SEQUENCE
    (sequence / "labels.json").rename(sequence / "label.json")
    names = {"0.jpg": "2019_0.jpg", "1.jpg": "2019_1.png", "2.jpg": "2022_10.jpeg"}
    for old, new in names.items():
        (sequence / "Satellite" / old).rename(sequence / "Satellite" / new)
    edit(sequence / "label.json", lambda v: [v.update({new: v.pop(old)}) for old, new in names.items()])
    edit(
        sequence / "GPS_info.json",
        lambda v: [v["Satellite"].update({new: v["Satellite"].pop(old)}) for old, new in names.items()],
    )
    sequence.rename(tree / "test" / "杭州_West_H80_7")
    pairs = [pair for pair in load_test(tree) if pair.place == "杭州_West"]
    assert [pair.satellite.name for pair in pairs] == ["2019_0.jpg", "2019_1.png", "2022_10.jpeg"]
    assert {pair.height_m for pair in pairs} == {80.0}
    assert consistency(pairs).median_px < 0.01


def test_stored_size_does_not_matter(tree: Path) -> None:
    """A map stored at half size with its label halved stands for the same place."""
    before = load_test(tree)[0]
    image = cv2.imread(str(before.satellite))
    cv2.imwrite(str(before.satellite), cv2.resize(image, (500, 384)))
    folder = tree / "test" / SEQUENCE

    def scale(labels: dict[str, Any]) -> None:
        row, col = labels["0.jpg"]
        labels["0.jpg"] = [row / 2, col * 500 / 768]

    edit(folder / "labels.json", scale)
    after = load_test(tree)[0]
    assert after.stored_px == (384, 500)
    assert after.target == pytest.approx(before.target, abs=1e-5)


def test_several_maps_and_a_val_split(tree: Path) -> None:
    satellites = tree / "train" / "Place1_80_0" / "Satellite"
    shutil.copy(satellites / "0.tif", satellites / "2022.tif")
    assert max(len(item.satellites) for item in load_train(tree)) == 2
    shutil.copytree(tree / "test", tree / "val")
    assert len(load_test(tree, "val")) == 9


def transpose_labels(tree: Path) -> None:
    for path in tree.glob("test/*/labels.json"):
        edit(path, lambda v: v.update({name: [col, row] for name, (row, col) in v.items()}))


def transpose_corners(tree: Path) -> None:
    """What the authors' generator does: corners offset by the crop's row where its column belongs."""
    for path in tree.glob("test/*/GPS_info.json"):

        def change(values: dict[str, Any]) -> None:
            for info in values["Satellite"].values():
                # Metres of the centre south (X) and east (Y) of the UAV, written exchanged.
                half_n, half_e = (info["tl_N"] - info["br_N"]) / 2, (info["br_E"] - info["tl_E"]) / 2
                lat = values["UAV"]["N"] - info["center_distribute_Y"] * half_n
                lon = values["UAV"]["E"] + info["center_distribute_X"] * half_e
                info.update(tl_N=lat + half_n, br_N=lat - half_n, tl_E=lon - half_e, br_E=lon + half_e)

        edit(path, change)


@pytest.mark.parametrize("damage", [transpose_labels, transpose_corners])
def test_transposed_data_are_told_loudly(tree: Path, damage: Callable[[Path], None]) -> None:
    damage(tree)
    with pytest.warns(UserWarning, match="with rows and columns exchanged: either the labels"):
        pairs = load_test(tree)
    result = consistency(pairs)
    assert result.transposed
    assert result.transposed_px < 0.01 < 50 < result.median_px


def test_coordinates_of_other_data_are_told(tree: Path) -> None:
    for path in tree.glob("test/*/GPS_info.json"):
        edit(path, lambda v: v["UAV"].update(N=v["UAV"]["N"] + 0.001))
    with pytest.warns(UserWarning, match=r"\(111\.\d m, median\) where 2 px are allowed; labels, corners and UAV"):
        load_test(tree)


def test_sound_data_give_no_warning(ul14_tree: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_test(ul14_tree)


def test_the_first_fault_and_the_number_of_others_are_told(tree: Path) -> None:
    for sequence in (tree / "test").iterdir():
        (sequence / "labels.json").unlink()
    with pytest.raises(GeolocError, match=r"labels\.json: is missing; restore it \(2 more; `geoloc dataset check`"):
        load_test(tree)
    with pytest.raises(GeolocError, match="has no folder train; give the root"):
        load_train(tree / "test")
    (tree / "empty" / "train").mkdir(parents=True)
    with pytest.raises(GeolocError, match="holds no folders <Place>_<Height>_<Index>"):
        load_train(tree / "empty")


def test_synthetic_set_repeats_itself_and_spares_what_is_there(ul14_tree: Path, tmp_path: Path) -> None:
    settings = SyntheticSettings(train_places=1, test_places=0, views=3, gsd_m=1.0)
    folders = list(write_synthetic_ul14(tmp_path, settings))
    assert [folder.name for folder in folders] == ["Place1_80_0", "Place1_90_0", "Place1_100_0"]
    for path in tmp_path.rglob("*.*"):
        assert path.read_bytes() == (ul14_tree / path.relative_to(tmp_path)).read_bytes()
    with pytest.raises(GeolocError, match="is not empty; give a new folder"):
        write_synthetic_ul14(ul14_tree)
    with pytest.raises(GeolocError, match="0 views a place"):
        SyntheticSettings(views=0)
