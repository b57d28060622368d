# SPDX-License-Identifier: Apache-2.0
"""How well views are found in maps of another date, on pairs that training never saw.

Each sample is a simulated camera view over one date and a square search map of the other, whose centre is off
by up to 0.425 of its side in each axis (RSC's rule, spec 3.2). All engines get the same views and maps; each
is fed at the ground sample distance that it was made for, and its milliseconds include that resampling.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from geoloc_models import metrics
from geoloc_models.data.pairs import ImagePair, ground_from_view, list_pairs, read_rgb, warp
from geoloc_models.engines import Engine
from geoloc_models.errors import GeolocError

MAX_CENTRE_OFFSET = 0.425
"""Largest offset of the view's centre from the map's in each axis, in sides of the map."""

_TRIES = 50


def fix_threads(threads: int) -> None:
    """Use so many CPU threads and nothing that depends on chance, so that figures repeat to the last digit."""
    if not 1 <= threads <= 256:
        raise GeolocError(f"{threads} threads cannot compute anything; give 1 to 256")
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    # cuDNN's benchmark mode picks algorithms by their timing, and they round differently.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@dataclass(frozen=True)
class PairProtocol:
    """How samples are drawn from held-out pairs. Angles and errors are the largest of a uniform draw."""

    source: str = "levir"
    crop_m: float = 200.0
    view_m: float = 70.0
    """Ground side that a view would have without errors of attitude and height."""
    attitude_deg: float = 6.0
    height_percent: float = 7.0
    seed: int = 0
    limit: int | None = None


@dataclass(frozen=True)
class PairSample:
    """A view, the map to search, and where the view's principal ray hits the ground of the map."""

    name: str
    query: np.ndarray
    """(h, h, 3) uint8 RGB, of the protocol's view_m if attitude and height were right."""
    search_map: np.ndarray
    """(H, H, 3) uint8 RGB."""
    gsd_m: float
    target_xy_px: tuple[float, float]
    """Pixel-edge coordinates of search_map."""


def choose_pairs(root: Path, protocol: PairProtocol) -> list[tuple[ImagePair, bool]]:
    """The pairs and directions (False: map from the first date) that the protocol uses, in a seeded order.

    Pictures too small to hold a whole search map are left out; GeolocError if that leaves none.
    """
    _check(protocol)
    pairs = list_pairs(root, protocol.source, held_out=True)
    # The header alone would do, but JPEGs of this size decode in a millisecond or two.
    sides_m = {
        pair.name: min(*read_rgb(pair.first).shape[:2], *read_rgb(pair.second).shape[:2]) * pair.gsd_m
        for pair in pairs
    }
    chosen = [pair for pair in pairs if sides_m[pair.name] >= protocol.crop_m]
    if not chosen:
        raise GeolocError(
            f"no held-out {protocol.source} picture spans {protocol.crop_m:g} m; the largest spans "
            f"{max(sides_m.values()):.0f} m: give a smaller --crop-m"
        )
    both = [(pair, swapped) for pair in chosen for swapped in (False, True)]
    order = np.random.default_rng(protocol.seed).permutation(len(both))
    return [both[index] for index in order[: protocol.limit]]


def _check(protocol: PairProtocol) -> None:
    if not 0 < protocol.view_m < protocol.crop_m:
        raise GeolocError(
            f"a view of {protocol.view_m:g} m does not fit a search map of {protocol.crop_m:g} m; "
            "give --view-m below --crop-m"
        )
    if not 0 <= protocol.attitude_deg <= 30 or not 0 <= protocol.height_percent <= 50:
        raise GeolocError(
            f"errors of {protocol.attitude_deg:g} ° and {protocol.height_percent:g} % are out of range: "
            "give 0 to 30 degrees and 0 to 50 %"
        )
    if protocol.limit is not None and protocol.limit < 1:
        raise GeolocError(f"a limit of {protocol.limit} samples leaves nothing to measure; give at least 1")


def draw_sample(pair: ImagePair, swapped: bool, protocol: PairProtocol) -> PairSample | None:
    """One sample of a pair, the same for the same seed whatever else is drawn; None if no view fits."""
    map_picture, view_picture = read_rgb(pair.first), read_rgb(pair.second)
    view_from_map = np.vstack([pair.second_from_first, [0.0, 0.0, 1.0]])
    gsd_m = pair.gsd_m
    if swapped:
        map_picture, view_picture = view_picture, map_picture
        gsd_m /= float(np.sqrt(np.linalg.det(view_from_map[:2, :2])))
        view_from_map = np.linalg.inv(view_from_map)
    rng = np.random.default_rng((protocol.seed, zlib.crc32(pair.name.encode()), swapped))
    crop_px, view_px = round(protocol.crop_m / gsd_m), round(protocol.view_m / gsd_m)
    places = _place(map_picture, view_picture, view_from_map, crop_px, view_px, rng)
    if places is None:
        return None
    corner_xy, target_xy = places
    roll, pitch, yaw = np.deg2rad(rng.uniform(-protocol.attitude_deg, protocol.attitude_deg, 3))
    scale = 1 + rng.uniform(-protocol.height_percent, protocol.height_percent) / 100
    ground = _shift(corner_xy + target_xy) @ ground_from_view(view_px, view_px, roll, pitch, yaw, scale)
    return PairSample(
        name=f"{pair.name} {'second' if swapped else 'first'}",
        query=warp(view_picture, view_from_map @ ground, view_px),
        search_map=warp(map_picture, _shift(corner_xy), crop_px),
        gsd_m=gsd_m,
        target_xy_px=(float(target_xy[0]), float(target_xy[1])),
    )


def _place(
    map_picture: np.ndarray,
    view_picture: np.ndarray,
    view_from_map: np.ndarray,
    crop_px: int,
    view_px: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Top-left corner of the search map in its picture, and the view's centre in the search map, (x, y) px.

    The map stays inside its picture wherever the offset allows, so that there is something to search; the
    view's nominal square stays inside both pictures.
    """
    size = np.array([map_picture.shape[1], map_picture.shape[0]], dtype=np.float64)
    view_size = np.array([view_picture.shape[1], view_picture.shape[0]], dtype=np.float64)
    square = view_px / 2 * np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    for _ in range(_TRIES):
        offset = crop_px * rng.uniform(-MAX_CENTRE_OFFSET, MAX_CENTRE_OFFSET, 2)
        # Centres for which both the map and the view lie inside; where there is none the view decides.
        low = np.maximum(crop_px / 2, view_px / 2 - offset)
        high = np.minimum(size - crop_px / 2, size - view_px / 2 - offset)
        centre = rng.uniform(np.minimum(low, high), np.maximum(low, high))
        corner = np.round(centre - crop_px / 2)
        target = crop_px / 2 + offset
        on_map = corner + target + square
        on_view = on_map @ view_from_map[:2, :2].T + view_from_map[:2, 2]
        if all(((xy >= 0) & (xy <= limit)).all() for xy, limit in ((on_map, size), (on_view, view_size))):
            return corner, target
    return None


def _shift(xy: np.ndarray) -> np.ndarray:
    return np.array([[1.0, 0.0, xy[0]], [0.0, 1.0, xy[1]], [0.0, 0.0, 1.0]])


def fit_to_engine(sample: PairSample, engine: Engine) -> tuple[np.ndarray, np.ndarray, float]:
    """View, map and pixels of `sample` per engine pixel, at the GSD that shows the engine the whole view.

    The map's side becomes the nearest multiple that the engine takes; the view is resampled to exactly the
    map's metres per pixel about its centre.
    """
    low_m, high_m = engine.gsd_range_m
    wanted_m = float(np.clip(sample.gsd_m * sample.query.shape[0] / engine.query_px, low_m, high_m))
    side_px, multiple = sample.search_map.shape[0], engine.map_multiple_px
    map_px = max(multiple, multiple * round(side_px * sample.gsd_m / wanted_m / multiple))
    ratio = side_px / map_px
    shrinking = cv2.INTER_AREA if ratio > 1 else cv2.INTER_LINEAR
    search_map = cv2.resize(sample.search_map, (map_px, map_px), interpolation=shrinking)
    middle = sample.query.shape[0] / 2
    about_centre = _shift(np.array([middle, middle])) @ np.diag([ratio, ratio, 1.0])
    query = warp(sample.query, about_centre @ _shift(np.full(2, -engine.query_px / 2)), engine.query_px)
    return query, search_map, ratio


@dataclass
class PairScores:
    """One engine's answers, sample by sample: errors in m, NEES, RDS, milliseconds."""

    name: str
    weights: str
    device: str
    errors_m: list[float] = field(default_factory=list)
    nees: list[float] = field(default_factory=list)
    rds: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """The figures of the table; over all samples."""
        errors = np.array(self.errors_m)
        return {
            "name": self.name,
            "samples": errors.size,
            "median_error_m": round(float(np.median(errors)), 6),
            "ma": {str(k): round(metrics.ma_at_k(errors, k), 6) for k in metrics.MA_DISTANCES_M},
            "rds": round(float(np.mean(self.rds)), 6),
            "nees_median": round(float(np.median(self.nees)), 6),
            "coverage_2sigma": round(metrics.sigma_coverage(self.nees), 6),
            "latency_ms": {
                f"p{share}": round(float(np.percentile(self.latencies_ms, share)), 3) for share in (50, 95)
            },
            "device": self.device,
            "weights": self.weights,
        }


def evaluate_pairs(
    root: Path,
    protocol: PairProtocol,
    engines: Mapping[str, Engine],
    native: frozenset[str] = frozenset(),
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> list[PairScores]:
    """Score every engine on the same held-out samples, one after the other on each sample.

    Engines named in `native` take any size and get the pictures as they are, at full resolution.
    `advance(done, total)` is called after each sample.
    """
    chosen = choose_pairs(root, protocol)
    scores = [PairScores(name, engine.weights_id, engine.device) for name, engine in engines.items()]
    for done, (pair, swapped) in enumerate(chosen, start=1):
        sample = draw_sample(pair, swapped, protocol)
        if sample is not None:
            for score, (name, engine) in zip(scores, engines.items(), strict=True):
                if done == 1:
                    _infer(sample, engine, name in native)  # the first call allocates
                _score(sample, score, *_infer(sample, engine, name in native))
        advance(done, len(chosen))
    if not scores or not scores[0].errors_m:
        raise GeolocError(
            f"no view of {protocol.view_m:g} m fits the held-out {protocol.source} pairs; lower --view-m"
        )
    return scores


def _infer(sample: PairSample, engine: Engine, native: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Found (x, y) in pixels of the sample's map, covariance in its px^2, and milliseconds."""
    start = time.perf_counter()
    if native:
        query, search_map, ratio = sample.query, sample.search_map, 1.0
    else:
        query, search_map, ratio = fit_to_engine(sample, engine)
    heatmap = engine.infer(query, search_map)
    found = ratio * np.array(heatmap.peak_xy_px)
    return found, ratio**2 * heatmap.covariance_px, 1e3 * (time.perf_counter() - start)


def _score(
    sample: PairSample, score: PairScores, found: np.ndarray, covariance: np.ndarray, milliseconds: float
) -> None:
    off = found - np.array(sample.target_xy_px)
    side = float(sample.search_map.shape[0])
    score.errors_m.append(float(np.hypot(*off)) * sample.gsd_m)
    score.nees.append(float(metrics.nees(off[None], covariance[None])[0]))
    score.rds.append(metrics.rds(found[None], [sample.target_xy_px], (side, side), truncate_label=False))
    score.latencies_ms.append(milliseconds)
