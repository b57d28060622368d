# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No engines that the user exported, and a Ctrl-C that arrives, for the tests and all processes that they start.

    A shell has what it starts in the background ignore SIGINT, and so would every process started from there.
    """
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images beside the repository; tests that need it skip where it is missing."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no real images at {SHARED_DATA}")
    return SHARED_DATA


@pytest.fixture(scope="session")
def small_flight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flight folder of 24 frames over a textured map of 500 m, with exact attitude and height."""
    from geoloc_ros.cli.main import main

    folder = tmp_path_factory.mktemp("flight")
    rng = np.random.default_rng(11)
    ground = sum(
        cv2.resize(rng.uniform(0, 60, (n, n, 3)).astype(np.float32), (1000, 1000), interpolation=cv2.INTER_CUBIC)
        for n in (12, 50, 200, 500)
    )
    with rasterio.open(
        folder / "map.tif", "w", driver="GTiff", width=1000, height=1000, count=3, dtype="uint8",
        crs="EPSG:32633", transform=from_origin(500_000, 5_300_000, 0.5, 0.5),
    ) as raster:  # fmt: skip
        raster.write(np.clip(ground, 0, 255).astype(np.uint8).transpose(2, 0, 1))
    arguments = ["--height-m", "60", "--speed-m-s", "10", "--rate-hz", "2", "--duration-s", "11.9"]
    assert main(["sim", "flight", str(folder / "map.tif"), "--out", str(folder / "flight"), *arguments]) == 0
    return folder / "flight"


@pytest.fixture(scope="session")
def ul14_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated UL14 data set: three train items, three test sequences of three maps; copy it to change it."""
    from geoloc_models.datasets.synthetic_ul14 import SyntheticSettings, write_synthetic_ul14

    root = tmp_path_factory.mktemp("ul14")
    settings = SyntheticSettings(train_places=1, test_places=1, views=3, gsd_m=1.0, map_sizes_px=(700, 1200, 1800))
    assert len(list(write_synthetic_ul14(root, settings))) == 6
    return root


@pytest.fixture(scope="session")
def write_photo() -> Callable[..., Path]:
    """write_photo(path, image, lat_deg, lon_deg, ...): a geotagged JPEG."""
    return _write_photo


def _write_photo(
    path: Path,
    image: np.ndarray,
    lat_deg: float | None = None,
    lon_deg: float | None = None,
    direction_deg: float | None = None,
    focal_35mm: int | None = None,
    orientation: int | None = None,
    xmp: str = "",
    taken: str = "",
) -> Path:
    """A JPEG with such tags, as a drone writes them."""
    exif = Image.Exif()
    gps: dict[int, object] = {}
    for value, tag, letters in ((lat_deg, 1, "NS"), (lon_deg, 3, "EW")):
        if value is not None:
            minutes = abs(value) % 1 * 60
            gps[tag] = letters[value < 0]
            gps[tag + 1] = (float(int(abs(value))), float(int(minutes)), minutes % 1 * 60)
    if direction_deg is not None:
        gps[17] = direction_deg
    if gps:
        exif[0x8825] = gps
    details = {0xA405: focal_35mm, 0x9003: taken}
    exif[0x8769] = {tag: value for tag, value in details.items() if value}
    if orientation is not None:
        exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, "JPEG", exif=exif, quality=95)
    if xmp:
        packet = b"http://ns.adobe.com/xap/1.0/\0" + f"<x:xmpmeta>{xmp}</x:xmpmeta>".encode()
        data = path.read_bytes()
        segment = b"\xff\xe1" + (len(packet) + 2).to_bytes(2, "big") + packet
        path.write_bytes(data[:2] + segment + data[2:])
    return path


@pytest.fixture(scope="session")
def university_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in the University-1652 layout: 6 buildings to train on, 6 others to find among 8, four drone views
    each (three distances, two angles), images of 96 px whose ground is a texture of the building's own.
    """
    root = tmp_path_factory.mktemp("university")
    for split, first, roles in (
        ("train", 0, {"drone": 6, "satellite": 6}),
        ("test", 100, {"query_drone": 6, "gallery_satellite": 8, "query_satellite": 6, "gallery_drone": 8}),
    ):
        for role, buildings in roles.items():
            for number in range(first, first + buildings):
                _write_building(root / split / role / f"{number:04d}", number, "drone" in role)
    return root


def _write_building(folder: Path, number: int, from_drone: bool) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(number)
    # Coarse blocks of strong colour: what tells the buildings apart survives turning, mirroring and cropping.
    colours = rng.integers(0, 256, (3, 3)).astype(np.uint8)
    ground = colours[rng.integers(0, 3, (6, 6))].repeat(20, 0).repeat(20, 1)
    if not from_drone:
        cv2.imwrite(str(folder / f"{number:04d}.jpg"), ground[12:108, 12:108])
        return
    for image in (1, 2, 19, 37):
        top, left = rng.integers(0, 24, 2)
        view = np.clip(ground[top : top + 96, left : left + 96] * rng.uniform(0.8, 1.2), 0, 255)
        cv2.imwrite(str(folder / f"image-{image:02d}.jpeg"), view.astype(np.uint8))


@pytest.fixture(scope="session")
def small_retriever(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small retrieval network, drawn at random."""
    from dataclasses import replace

    import torch

    from geoloc_models.ast.presets import AST
    from geoloc_models.ast.retriever import SegmentTransformer
    from geoloc_models.ast.retriever_weights import RetrieverInfo, save_retriever

    torch.manual_seed(1)
    shape = replace(AST, input_px=32, blocks=1, groups=2, head_width=8)
    path = tmp_path_factory.mktemp("retriever") / "small.safetensors"
    save_retriever(path, SegmentTransformer(shape), RetrieverInfo("small", shape, (50.0, 130.0)), eight_bit=True)
    return path


@pytest.fixture
def shipping(small_retriever: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what ships, for one test: mix_compact by its name, small_retriever as "retrieval"."""
    from geoloc_models import weights

    localizer = weights.shipped("localizer")["mix_compact"]
    retriever = {"kind": "retriever", "file": "net.safetensors", "sha256": weights.sha256(small_retriever)}
    folder = tmp_path / "pretrained"
    folder.mkdir()
    (folder / localizer["file"]).symlink_to(weights.FOLDER / localizer["file"])
    shutil.copy(small_retriever, folder / retriever["file"])
    (folder / "index.json").write_text(json.dumps({"mix_compact": localizer, "retrieval": retriever}))
    monkeypatch.setattr(weights, "FOLDER", folder)
    return folder


@pytest.fixture(scope="session")
def write_texture() -> Callable[[Path, int], Path]:
    """write_texture(path, seed): a map of 600 m in pixels of 0.5 m, UTM 32, textured in large and small."""
    return _write_texture


def _write_texture(path: Path, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    image = np.zeros((1200, 1200, 3), np.float32)
    for octave in (12, 40, 150, 400):
        image += cv2.resize(rng.normal(size=(octave, octave, 3)).astype(np.float32), (1200, 1200)) * 30
    with rasterio.open(
        path, "w", driver="GTiff", width=1200, height=1200, count=3, dtype="uint8", crs="EPSG:32632",
        transform=from_origin(460000, 5250000, 0.5, 0.5),
    ) as file:  # fmt: skip
        file.write(np.clip(image + 120, 0, 255).astype(np.uint8).transpose(2, 0, 1))
    return path


@pytest.fixture(scope="session")
def write_patchwork() -> Callable[..., Path]:
    """write_patchwork(path, seed=0, width_m=480, height_m=360): a textured map of 1 m pixels in UTM 33 whose western
    120 m are no data and whose north-eastern 150 m are of one colour.
    """
    return _write_patchwork


def _write_patchwork(path: Path, seed: int = 0, width_m: int = 480, height_m: int = 360) -> Path:
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(
        rng.uniform(20, 255, (height_m // 12, width_m // 12, 3)).astype(np.float32), (width_m, height_m)
    )
    pixels[:, :120] = 0
    pixels[:150, -150:] = (60, 110, 160)
    with rasterio.open(
        path, "w", driver="GTiff", width=width_m, height=height_m, count=3, dtype="uint8", nodata=0,
        crs="EPSG:32633", transform=from_origin(500_000, 5_300_000, 1.0, 1.0),
    ) as raster:  # fmt: skip
        raster.write(pixels.astype(np.uint8).transpose(2, 0, 1))
    return path


@pytest.fixture(scope="session")
def likeness() -> Callable[..., float]:
    """Correlation of the map around a sample's target with its view as it is if heading and height are off by so much:
    likeness(sample, heading_deg, scale).
    """
    return _likeness


def _likeness(sample: Any, heading_deg: float, scale: float) -> float:
    from geoloc_models.datasets.homography import warp
    from geoloc_models.engines.pose_search import posed
    from geoloc_models.evaluation.view_sets import shift

    side = sample.query.shape[0]
    there = warp(sample.search_map, shift(np.array(sample.target_xy_px) - side / 2), side)
    middle = np.s_[side // 4 : -side // 4, side // 4 : -side // 4]
    back = posed(sample.query, heading_deg, scale)
    return float(np.corrcoef(back[middle].ravel(), there[middle].ravel())[0, 1])
