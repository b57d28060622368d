# SPDX-License-Identifier: Apache-2.0
"""Samples of UL14's train folder: what they show, where the label lies, what is held out."""

import cv2
import numpy as np
import pytest
import torch

from geoloc_models.datasets.ul14 import Ul14TrainItem
from geoloc_models.datasets.ul14_samples import Ul14Samples, Ul14Settings, default_held_out, split_by_place
from geoloc_models.errors import GeolocError

PLACES = ("Alpha", "Beta", "Gamma", "Delta", "Epsilon", "Zeta")


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Ul14TrainItem]:
    """Views in shades of their own; two maps each, red only in a square of 40 px at the exact centre."""
    folder = tmp_path_factory.mktemp("items")
    made = []
    for number, place in enumerate(PLACES):
        view = folder / f"{place}.png"
        cv2.imwrite(str(view), np.full((64, 64, 3), 10 * number, np.uint8))
        maps = []
        for year in (2019, 2022):
            image = np.full((1280, 1280, 3), 90, np.uint8)
            image[620:660, 620:660] = (0, 0, 255)
            maps.append(folder / f"{place}_{year}.png")
            cv2.imwrite(str(maps[-1]), image)
        made.append(Ul14TrainItem(view, tuple(maps), place, 80.0))
    return made


@pytest.mark.parametrize("augment", [True, False])
def test_the_label_is_where_the_centre_of_the_stored_map_went(items: list[Ul14TrainItem], augment: bool) -> None:
    samples = Ul14Samples(items, Ul14Settings(satellite_gsd_m=0.46), augment=augment)
    for index in range(8):
        sample = samples[index]
        assert sample["map"].shape == (3, 384, 384) and sample["map"].dtype == torch.uint8
        assert sample["query"].shape == (1, 3, 128, 128)
        red, green = sample["map"][0].numpy().astype(float), sample["map"][1].numpy().astype(float)
        mark = np.clip(red - green - 40, 0, None)
        rows, cols = np.mgrid[:384, :384] + 0.5
        place = np.array([(mark * rows).sum(), (mark * cols).sum()]) / mark.sum()
        np.testing.assert_allclose(sample["target"][0], place, atol=1.0)
        side_m = float(sample["gsd_m"][0]) * 384
        assert 512 * 0.46 <= side_m < 1000 * 0.46
        # 40 stored pixels of 0.46 m.
        assert np.sqrt((mark > 60).sum()) * side_m / 384 == pytest.approx(40 * 0.46, rel=0.12)


def test_an_epoch_shows_every_item_once(items: list[Ul14TrainItem]) -> None:
    samples = Ul14Samples(items, Ul14Settings(), batch=3)
    views = [samples.item(index).uav for index in range(12)]
    assert set(views[:6]) == set(views[6:]) == {item.uav for item in items}
    assert views[:6] != views[6:]


def test_the_last_incomplete_batch_is_left_out(items: list[Ul14TrainItem]) -> None:
    samples = Ul14Samples(items, Ul14Settings(), batch=4)
    assert samples.epoch_items == 4
    assert len({samples.item(index).uav for index in range(4)}) == 4
    with pytest.raises(GeolocError, match="6 training items do not fill a batch of 7"):
        Ul14Samples(items, Ul14Settings(), batch=7)


def test_a_sample_depends_on_its_number_alone(items: list[Ul14TrainItem]) -> None:
    one, other = (Ul14Samples(items, Ul14Settings(), seed=3) for _ in range(2))
    assert torch.equal(one[5]["map"], other[5]["map"])
    assert torch.equal(one[5]["target"], other[5]["target"])
    assert not torch.equal(one[5]["target"], one[5 + one.epoch_items]["target"])


def test_three_in_ten_views_lose_a_patch(items: list[Ul14TrainItem], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geoloc_models.datasets.ul14_samples.occlude", lambda image, _: np.full_like(image, 255))
    small = [Ul14TrainItem(item.uav, (item.uav,), item.place, item.height_m) for item in items]
    samples = Ul14Samples(small, Ul14Settings(query_px=8, map_px=8, rsc="64"))
    share = np.mean([bool((samples[index]["query"] == 255).all()) for index in range(300)])
    assert 0.22 < share < 0.38


def test_places_are_split(items: list[Ul14TrainItem]) -> None:
    assert default_held_out(items) == ["Alpha", "Zeta"]
    assert default_held_out(items[:1]) == []
    train, held_out = split_by_place(items, ["Beta"])
    assert [item.place for item in held_out] == ["Beta"]
    assert [item.place for item in train] == [place for place in PLACES if place != "Beta"]
    with pytest.raises(GeolocError, match="'Nowhere': choose of Alpha, Beta"):
        split_by_place(items, ["Nowhere"])
