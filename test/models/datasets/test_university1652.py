# SPDX-License-Identifier: Apache-2.0
"""The University-1652 loader on a tree of its layout, sound and damaged."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geoloc_models.datasets.university1652 import capture_of, load_test, load_train, read_image, scan
from geoloc_models.errors import GeolocError


def test_pictures_by_role_and_label(university_tree: Path) -> None:
    train, test = load_train(university_tree), load_test(university_tree)
    assert {role: len(images) for role, images in train.items()} == {"drone": 24, "satellite": 6}
    assert {role: len(images) for role, images in test.items()} == {
        "query_drone": 24, "gallery_satellite": 8, "query_satellite": 6, "gallery_drone": 32,
    }  # fmt: skip
    assert {image.label for image in test["query_drone"]} == set(range(100, 106))
    assert all(int(image.path.parent.name) == image.label for image in test["gallery_drone"])


def test_a_root_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GeolocError, match="has no folder train; give the root"):
        load_train(tmp_path)


def test_damage_is_named(university_tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    shutil.copytree(university_tree, root)
    shutil.rmtree(root / "train" / "satellite" / "0002")
    (root / "train" / "drone" / "readme").mkdir()
    for image in (root / "train" / "drone" / "0004").iterdir():
        image.unlink()
    _, faults = scan(root, "train")
    told = sorted(str(fault) for fault in faults)
    assert len(told) == 4
    assert any("building 0002 has no image in satellite" in text for text in told)
    assert any("building 0004 has no image in drone" in text for text in told)
    assert any("readme: is named by no number" in text for text in told)
    assert any("0004: holds no image" in text for text in told)
    with pytest.raises(GeolocError, match=r"\(and 3 more faults\)"):
        load_train(root)
    shutil.rmtree(root / "test" / "gallery_satellite")
    with pytest.raises(GeolocError, match="gallery_satellite: is missing; restore it"):
        load_test(root)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("image-01.jpeg", ("long", 0)),
        ("image-18.jpeg", ("long", 340)),
        ("image-19.jpeg", ("middle", 0)),
        ("image-54.jpeg", ("short", 340)),
        ("image-55.jpeg", None),
        ("0839.jpg", None),
    ],
)
def test_distance_and_angle_come_from_the_number(name: str, expected: tuple[str, int] | None) -> None:
    assert capture_of(Path(name)) == expected


@pytest.mark.parametrize("mode", ["RGBA", "P", "L"])
def test_alpha_and_palettes_become_rgb(mode: str, tmp_path: Path) -> None:
    colour = np.zeros((30, 20, 3), np.uint8)
    colour[..., 0] = 204  # of the web palette
    Image.fromarray(colour).convert(mode).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", 16)
    assert image.shape == (16, 16, 3)
    assert image.dtype == np.uint8
    if mode != "L":
        np.testing.assert_allclose(image[..., 0], 204, atol=2)


def test_a_damaged_picture_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8 no image")
    with pytest.raises(GeolocError, match=r"cannot read image .*a\.jpg"):
        read_image(tmp_path / "a.jpg", 16)
