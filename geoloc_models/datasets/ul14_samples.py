# SPDX-License-Identifier: Apache-2.0
"""Training and validation samples of UL14's train folder, by the DRL paper's recipe (sections III-D and V-A)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from geoloc_models.datasets.augmentation import occlude
from geoloc_models.datasets.image_pairs import read_rgb
from geoloc_models.datasets.random_scale_crop import RandomScaleCrop, scales_from_text
from geoloc_models.datasets.ul14 import Ul14TrainItem
from geoloc_models.errors import GeolocError

ERASING_PROBABILITY = 0.3
INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)


@dataclass(frozen=True)
class Ul14Settings:
    """How samples are drawn: sides of the network's images, and of the crops before resizing."""

    query_px: int = 128
    map_px: int = 384
    rsc: str = "512-1000"
    """Sides of random scale crops, px of the stored maps: see `random_scale_crop.scales_from_text`."""
    satellite_gsd_m: float = math.nan
    """Ground sample distance of the stored maps, NaN: unknown. UL14 does not document it."""


class Ul14Samples(Dataset[dict[str, torch.Tensor]]):
    """`map` (3, H, W), `query` (1, 3, h, w), uint8 RGB, and `target` (1, 2): (row, col), pixel edges of the map;
    `gsd_m` (1,): metres per map pixel.

    An endless stream of epochs; sample `index` depends on `seed` and on itself alone. With `augment` an epoch is a
    shuffle of the items without the last incomplete batch, and samples are drawn by the recipe: one of the item's
    maps, random scale crop, random erasing of the view, a random interpolation for each image. Without it samples
    show the items' first maps, cropped at random and resized as published tests do (bicubic, antialiased).
    """

    queries = 1

    def __init__(
        self,
        items: Sequence[Ul14TrainItem],
        settings: Ul14Settings,
        batch: int = 1,
        seed: int = 0,
        augment: bool = True,
    ) -> None:
        """batch: items of a whole batch, of which an epoch has no incomplete one."""
        self._crop = RandomScaleCrop(scales_from_text(settings.rsc))
        if len(items) < batch:
            raise GeolocError(f"{len(items)} training items do not fill a batch of {batch}: give a smaller batch")
        self.items = items
        self.settings = settings
        self.seed = seed
        self.augment = augment
        self.epoch_items = len(items) // batch * batch

    def item(self, index: int) -> Ul14TrainItem:
        """The item that a sample shows."""
        epoch, place = divmod(index, self.epoch_items)
        order = np.random.default_rng((self.seed, epoch, 1)).permutation(len(self.items))
        return self.items[order[place]]

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        s = self.settings
        rng = np.random.default_rng((self.seed, index))
        item = self.item(index)
        satellite = item.satellites[rng.integers(len(item.satellites)) if self.augment else 0]
        source = read_rgb(satellite)
        height, width = source.shape[:2]
        if height != width:
            raise GeolocError(
                f"{satellite} is {width}x{height} px: a training map must be square, with the UAV at its centre"
            )
        crop = self._crop(source, rng)
        side_px = crop.image.shape[0]
        if side_px > height:
            raise GeolocError(
                f"{satellite} is {width}x{height} px, smaller than a crop of {side_px} px: UL14's training maps "
                "have 1280x1280 px; store larger ones"
            )
        view = read_rgb(item.uav)
        if self.augment and rng.random() < ERASING_PROBABILITY:
            view = occlude(view, rng)
        return {
            "map": _to_tensor(self._resize(crop.image, s.map_px, rng)),
            "query": _to_tensor(self._resize(view, s.query_px, rng))[None],
            "target": torch.tensor([crop.target], dtype=torch.float32) * s.map_px,
            "gsd_m": torch.tensor([s.satellite_gsd_m * side_px / s.map_px]),
        }

    def _resize(self, image: np.ndarray, side_px: int, rng: np.random.Generator) -> np.ndarray:
        if not self.augment:
            return np.array(Image.fromarray(image).resize((side_px, side_px), Image.Resampling.BICUBIC))
        method = INTERPOLATIONS[rng.integers(len(INTERPOLATIONS))]
        return np.asarray(cv2.resize(image, (side_px, side_px), interpolation=method))


def split_by_place(
    items: Sequence[Ul14TrainItem], held_out: Sequence[str]
) -> tuple[list[Ul14TrainItem], list[Ul14TrainItem]]:
    """Items of all other places, and of the held-out ones; GeolocError for a place that is not there."""
    places = sorted({item.place for item in items})
    for place in held_out:
        if place not in places:
            raise GeolocError(f"no training item is of the place {place!r}: choose of {', '.join(places)}")
    if set(held_out) == set(places):
        raise GeolocError(f"all places ({', '.join(places)}) are held out: leave at least one for training")
    chosen = set(held_out)
    return [i for i in items if i.place not in chosen], [i for i in items if i.place in chosen]


def default_held_out(items: Sequence[Ul14TrainItem]) -> list[str]:
    """Every fifth place in alphabetical order: 2 of UL14's 10; none if there is only one place."""
    places = sorted({item.place for item in items})
    return places[::5] if len(places) > 1 else []


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
