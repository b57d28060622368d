# SPDX-License-Identifier: Apache-2.0
"""What retrieval is trained and judged on: University-1652, DenseUAV, and image pairs of two dates."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from geoloc_models.ast.retriever import View
from geoloc_models.datasets import denseuav, university1652
from geoloc_models.datasets.augmentation import degrade, occlude
from geoloc_models.datasets.homography import ground_from_view, warp
from geoloc_models.datasets.image_pairs import ImagePair, list_pairs, read_rgb
from geoloc_models.datasets.university1652 import LabelledImage, capture_of, read_image
from geoloc_models.errors import GeolocError

DataSet = Literal["university1652", "denseuav", "pairs"]
Task = Literal["drone-to-satellite", "satellite-to-drone"]
TASKS: tuple[Task, ...] = ("drone-to-satellite", "satellite-to-drone")
PAIR_SOURCES = ("levir", "srif")


@dataclass(frozen=True)
class Drawn:
    """One item of training: k drone and k satellite images (k, px, px, 3) uint8 RGB and the labels (k,) of both."""

    drone: np.ndarray
    satellite: np.ndarray
    labels: NDArray[np.int64]


class TrainingSet(Protocol):
    """Places to draw from. classes: upper bound of the labels, 0 if they only distinguish the items of a batch."""

    classes: int
    pairs_per_item: int

    def __len__(self) -> int: ...

    def draw(self, place: int, item: int, rng: np.random.Generator) -> Drawn:
        """A new look at a place; `item` counts the draws of a run."""
        ...


class LabelledPlaces:
    """Places with images of both views in files: one random image of each per draw (AST paper, section 3.4).

    Both are mirrored half of the time, each on its own; the satellite's is turned by up to 90 degrees, black outside.
    """

    pairs_per_item = 1

    def __init__(self, drone: Sequence[LabelledImage], satellite: Sequence[LabelledImage], side_px: int) -> None:
        self.side_px = side_px
        labels = sorted({image.label for image in satellite})
        self.classes = len(labels)
        self._drone = [[p.path for p in drone if p.label == label] for label in labels]
        self._satellite = [[p.path for p in satellite if p.label == label] for label in labels]

    def __len__(self) -> int:
        return self.classes

    def draw(self, place: int, item: int, rng: np.random.Generator) -> Drawn:
        """A drone image of the place and one from above."""
        drone = read_image(self._drone[place][rng.integers(len(self._drone[place]))], self.side_px)
        satellite = read_image(self._satellite[place][rng.integers(len(self._satellite[place]))], self.side_px)
        middle = ((self.side_px - 1) / 2, (self.side_px - 1) / 2)
        turn = cv2.getRotationMatrix2D(middle, float(rng.uniform(-90, 90)), 1.0)
        satellite = cv2.warpAffine(satellite, turn, (self.side_px, self.side_px))
        drone, satellite = (
            np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image for image in (drone, satellite)
        )
        return Drawn(drone[None], satellite[None], np.array([place]))


@dataclass(frozen=True)
class ViewSettings:
    """Drone views over image pairs, and the tiles to find them among. Angles are the largest of a uniform draw."""

    tile_m: tuple[float, float] = (50.0, 130.0)
    """Ground side of tiles; a view's nominal side is its tile's."""
    offset: float = 0.25
    """A view's centre lies within this share of the tile's side from the tile's centre, in each axis: tiles half a side
    apart leave no place further from a centre."""
    tilt_deg: float = 10.0
    heading_deg: float = 20.0
    height_share: float = 0.15


class CrossDatePlaces:
    """Places on image pairs: tiles of one date, simulated views of the other, four places of an image a draw.

    Images that do not span two of the smallest tiles are left out.

    The four tiles do not overlap but are of the same image, date and size, so that nothing but the ground itself
    tells them apart. Images are held in memory, decoded once.
    """

    classes = 0
    pairs_per_item = 4

    def __init__(self, pairs: Sequence[ImagePair], side_px: int, settings: ViewSettings | None = None) -> None:
        self.side_px = side_px
        self.settings = settings or ViewSettings()
        self._images = {path: read_rgb(path) for pair in pairs for path in (pair.first, pair.second)}
        least_m = 2 * self.settings.tile_m[0]
        self.pairs = [p for p in pairs if min(self._images[p.first].shape[:2]) * p.gsd_m >= least_m]
        if not self.pairs:
            raise GeolocError(f"no image pair spans {least_m:g} m, two of the smallest tiles: give larger images")

    def __len__(self) -> int:
        return len(self.pairs)

    def draw(self, place: int, item: int, rng: np.random.Generator) -> Drawn:
        """Four places of pair `place`; every draw has its own labels."""
        pair, s = self.pairs[place], self.settings
        scene = two_dates(pair, self._images[pair.first], self._images[pair.second], rng.random() < 0.5)
        height, width = scene.map_image.shape[:2]
        # Two tiles at least must fit side by side, so that there are four places.
        largest_px = min(height, width) / 2
        low_px, high_px = (min(side_m / scene.gsd_m, largest_px) for side_m in s.tile_m)
        tile_px = float(np.exp(rng.uniform(np.log(low_px), np.log(high_px))))
        turn = rng.integers(4) * np.pi / 2
        mirror = rng.choice([-1.0, 1.0])
        drone, satellite = [], []
        for centre in _grid_places(width, height, tile_px, self.pairs_per_item, rng):
            frame = _frame(centre, turn, mirror)
            zoom = np.diag([tile_px / self.side_px, tile_px / self.side_px, 1.0])
            about = frame @ zoom @ _shift(np.full(2, -self.side_px / 2))
            satellite.append(degrade(warp(scene.map_image, about, self.side_px), rng, 0.4))
            view = warp(
                scene.view_image, scene.view_from_map @ frame @ jitter(tile_px, self.side_px, s, rng), self.side_px
            )
            if rng.random() < 0.3:
                view = occlude(view, rng)
            drone.append(degrade(view, rng))
        labels = item * self.pairs_per_item + np.arange(self.pairs_per_item)
        return Drawn(np.stack(drone), np.stack(satellite), labels)


@dataclass(frozen=True)
class TwoDates:
    """A map of one date, an image of the other, the (3, 3) similarity between their pixel-edge coordinates, and metres
    per pixel of the map.
    """

    map_image: np.ndarray
    view_image: np.ndarray
    view_from_map: np.ndarray
    gsd_m: float


def two_dates(pair: ImagePair, first: np.ndarray, second: np.ndarray, swapped: bool) -> TwoDates:
    """The pair with its first image as the map, or with its second."""
    view_from_map = np.vstack([pair.second_from_first, [0.0, 0.0, 1.0]])
    if not swapped:
        return TwoDates(first, second, view_from_map, pair.gsd_m)
    gsd_m = pair.gsd_m / float(np.sqrt(np.linalg.det(view_from_map[:2, :2])))
    return TwoDates(second, first, np.linalg.inv(view_from_map), gsd_m)


def jitter(tile_px: float, side_px: int, settings: ViewSettings, rng: np.random.Generator) -> np.ndarray:
    """(3, 3) from a view's pixels to map pixels about its tile's centre: moved, tilted, turned, too high or low."""
    offset = tile_px * rng.uniform(-settings.offset, settings.offset, 2)
    tilt = np.deg2rad(settings.tilt_deg) * rng.uniform() ** 1.5
    axis = rng.uniform(0, 2 * np.pi)
    return _shift(offset) @ ground_from_view(
        tile_px,
        side_px,
        roll_rad=tilt * np.cos(axis),
        pitch_rad=tilt * np.sin(axis),
        yaw_rad=np.deg2rad(settings.heading_deg) * rng.uniform(-1, 1),
        scale=1 + settings.height_share * rng.uniform(-1, 1),
    )


def _grid_places(width: int, height: int, tile_px: float, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Centres (x, y) of `count` tiles that do not overlap, from a grid at a random place."""
    cols, rows = int(width // tile_px), int(height // tile_px)
    corner = rng.uniform(0, 1, 2) * (np.array([width, height]) - tile_px * np.array([cols, rows]))
    cells = rng.choice(rows * cols, count, replace=False)
    return [corner + tile_px * (np.array([cell % cols, cell // cols]) + 0.5) for cell in cells]


def _frame(centre_xy: np.ndarray, turn_rad: float, mirror: float) -> np.ndarray:
    """(3, 3): turned by `turn_rad`, perhaps mirrored, about a centre."""
    c, s = np.cos(turn_rad), np.sin(turn_rad)
    linear = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]) @ np.diag([mirror, 1.0, 1.0])
    return _shift(centre_xy) @ linear


def _shift(xy: np.ndarray) -> np.ndarray:
    return np.array([[1.0, 0.0, xy[0]], [0.0, 1.0, xy[1]], [0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class Images:
    """Images of one view; `read(i)` gives (H, W, 3) uint8 RGB for i below `count`."""

    count: int
    read: Callable[[int], np.ndarray]
    view: View


@dataclass(frozen=True)
class RetrievalTask:
    """Queries to find in a gallery; correct (Q, N) marks the right images.

    subsets: kind of breakdown -> name -> mask (Q,) of its queries.
    """

    name: str
    queries: Images
    gallery: Images
    correct: NDArray[np.bool_]
    subsets: dict[str, dict[str, NDArray[np.bool_]]] = field(default_factory=dict)


def training_set(kind: DataSet, root: Path, side_px: int) -> TrainingSet:
    """The training part of a data set, for images of side_px; GeolocError if it is missing or faulty."""
    if kind == "pairs":
        pairs = [pair for source in PAIR_SOURCES for pair in list_pairs(root, source, held_out=False)]
        return CrossDatePlaces(pairs, side_px)
    roles = _labelled(kind, root, "train")
    return LabelledPlaces(roles["drone"], roles["satellite"], side_px)


def _labelled(kind: DataSet, root: Path, split: Literal["train", "test"]) -> dict[str, list[LabelledImage]]:
    if kind == "university1652":
        return university1652.load_train(root) if split == "train" else university1652.load_test(root)
    loaded = denseuav.load_train(root) if split == "train" else denseuav.load_test(root)
    names = sorted({image.place_id for images in loaded.values() for image in images})
    number = {name: index for index, name in enumerate(names)}
    return {
        role: [LabelledImage(image.path, number[image.place_id]) for image in images] for role, images in loaded.items()
    }


def labelled_task(kind: DataSet, root: Path, task: Task, side_px: int, limit: int | None = None) -> RetrievalTask:
    """One of the two tasks on University-1652 or DenseUAV; `limit` keeps every n-th query, about `limit` in all.

    University-1652's drone queries have subsets by distance and by angle (AST paper, tables 7 and 8).
    """
    sides: tuple[View, View] = ("drone", "satellite")
    view, other = sides if task == "drone-to-satellite" else sides[::-1]
    roles = _labelled(kind, root, "test")
    missing = [role for role in (f"query_{view}", f"gallery_{other}") if not roles.get(role)]
    if missing:
        raise GeolocError(f"{root / 'test' / missing[0]} is missing, which {task} needs; restore it")
    queries, gallery = roles[f"query_{view}"], roles[f"gallery_{other}"]
    if limit is not None:
        queries = queries[:: max(1, len(queries) // limit)]
    correct = np.array([q.label for q in queries])[:, None] == np.array([g.label for g in gallery])[None]
    subsets: dict[str, dict[str, NDArray[np.bool_]]] = {}
    if kind == "university1652" and view == "drone":
        captures = [capture_of(query.path) for query in queries]
        subsets = {
            "distance": _subsets([capture[0] if capture else None for capture in captures]),
            "angle": _subsets([f"{capture[1]}°" if capture else None for capture in captures]),
        }
    return RetrievalTask(
        task,
        Images(len(queries), lambda i: read_image(queries[i].path, side_px), view),
        Images(len(gallery), lambda i: read_image(gallery[i].path, side_px), other),
        correct,
        subsets,
    )


def _subsets(names: Sequence[str | None]) -> dict[str, NDArray[np.bool_]]:
    """Mask of each name, in order of first appearance."""
    return {name: np.array([other == name for other in names]) for name in dict.fromkeys(names) if name is not None}


def cross_date_task(
    root: Path, side_px: int, tile_m: float = 80.0, views_per_image: int = 4, seed: int = 0, limit: int | None = None
) -> RetrievalTask:
    """Held-out LEVIR pairs: views of one date among tiles of the other, half a side apart, of all images together.

    Which date is the map is drawn for each image. Right are the (up to four) tiles whose centre is less than half a
    side from the view's in both axes: any of them holds what the view shows, and verification takes it from there.
    limit: use this many images. GeolocError: no held-out image holds a tile.
    """
    pairs = [
        pair
        for pair in list_pairs(root, "levir", held_out=True)
        if min(read_rgb(pair.first).shape[:2]) * pair.gsd_m >= 1.5 * tile_m
    ]
    if not pairs:
        raise GeolocError(f"no held-out image under {root} holds tiles of {tile_m:g} m: give a smaller --tile-m")
    tiles: list[_Placed] = []
    views: list[_Placed] = []
    for number in sorted(np.random.default_rng(seed).permutation(len(pairs))[:limit]):
        pair = pairs[number]
        rng = np.random.default_rng((seed, zlib.crc32(pair.name.encode())))
        scene = two_dates(pair, read_rgb(pair.first), read_rgb(pair.second), bool(rng.integers(2)))
        of_image = _tiles(scene, int(number), tile_m, side_px)
        tiles += of_image
        # The outermost tiles' centres bound the places: beyond them a view would leave the image.
        low, high = of_image[0].place[1:], of_image[-1].place[1:]
        views += [
            _view(scene, int(number), rng.uniform(low, high), tile_m, side_px, rng) for _ in range(views_per_image)
        ]
    apart = np.abs(np.array([v.place for v in views])[:, None] - np.array([t.place for t in tiles])[None])
    return RetrievalTask(
        f"cross-date, {tile_m:g} m",
        Images(len(views), lambda i: views[i].image, "drone"),
        Images(len(tiles), lambda i: tiles[i].image, "satellite"),
        (apart[..., 0] == 0) & (apart[..., 1:] < 0.5).all(-1),
    )


@dataclass(frozen=True)
class _Placed:
    """An image and where it is: number of its scene, (x, y) of its centre in sides of a tile."""

    image: np.ndarray
    place: tuple[int, float, float]


def _tiles(scene: TwoDates, number: int, tile_m: float, side_px: int) -> list[_Placed]:
    """All tiles of the scene's map, half a side apart, from the top-left one to the bottom-right one."""
    tile_px = tile_m / scene.gsd_m
    columns, rows = (np.arange(0.5, side / tile_px - 0.5 + 1e-6, 0.5) for side in scene.map_image.shape[1::-1])
    zoom = np.diag([tile_px / side_px, tile_px / side_px, 1.0]) @ _shift(np.full(2, -side_px / 2))
    return [
        _Placed(warp(scene.map_image, _shift(tile_px * np.array([x, y])) @ zoom, side_px), (number, x, y))
        for y in rows
        for x in columns
    ]


_EVALUATED = ViewSettings(offset=0.0, tilt_deg=6.0, height_share=0.07)
"""Errors of a usual IMU and altimeter; the heading is off by as much as a search over eight headings leaves."""


def _view(
    scene: TwoDates, number: int, place: NDArray[np.float64], tile_m: float, side_px: int, rng: np.random.Generator
) -> _Placed:
    """A view of the scene's other date about a place in sides of a tile."""
    tile_px = tile_m / scene.gsd_m
    about = _shift(tile_px * place) @ jitter(tile_px, side_px, _EVALUATED, rng)
    image = warp(scene.view_image, scene.view_from_map @ about, side_px)
    return _Placed(image, (number, float(place[0]), float(place[1])))
