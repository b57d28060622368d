# SPDX-License-Identifier: Apache-2.0
"""What the alignment head is trained on: the frozen network's features of views and of their maps, computed once."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from geoloc_models.datasets.image_pairs import list_pairs
from geoloc_models.datasets.pair_samples import PairSamples, SampleSettings
from geoloc_models.drl.alignment_head import REACH_NODES, STRIDE_PX
from geoloc_models.drl.hybrid_mix_fusion import HybridMixFusion
from geoloc_models.errors import GeolocError
from geoloc_models.training.checkpoints import read_state, write_state
from geoloc_models.training.held_out import load
from geoloc_models.weights import LoadedWeights

QUERY_PX, MAP_PX = 192, 384
VIEWS_PER_MAP = 4
VIEW_NODES = QUERY_PX // STRIDE_PX
WINDOW_NODES = VIEW_NODES + 2 * REACH_NODES
_MODERATE = SampleSettings(
    map_px=MAP_PX,
    query_px=QUERY_PX,
    queries=VIEWS_PER_MAP,
    map_scale=(0.45, 1.4),
    cover=0.7,
    tilt_deg=8.0,
    heading_deg=10.0,
    height_share=0.15,
)
_COARSE_ERROR_NODES = 2.0
"""Largest error, in x and in y, of the place around which a window is cut."""
_SAVED_MAPS = 25
"""Maps between two moments from which an interrupted run goes on."""
_VIEWS, _WINDOWS, _INDEX = "view.f16", "window.f16", "index.pt"


class PoseErrors(Dataset[dict[str, Tensor]]):
    """Maps with their views; moderate pose errors (as with a track) and wide ones (without) alternate by map."""

    def __init__(self, root: Path, sources: Sequence[str], held_out: bool, seed: int) -> None:
        pairs = [pair for source in sources for pair in list_pairs(root, source, held_out)]
        moderate = PairSamples(pairs, _MODERATE, seed)
        wide = copy.copy(moderate)  # with the same decoded images
        wide.settings = replace(_MODERATE, tilt_deg=12.0, heading_deg=25.0, height_share=0.33)
        wide.seed = seed + 1
        self._kinds = (moderate, wide)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._kinds[index % len(self._kinds)][index]


@dataclass(frozen=True)
class AlignmentViews:
    """Features of `count` views and of a window of the map around each one's place, VIEWS_PER_MAP views a map.

    view: (count, C, VIEW_NODES, VIEW_NODES); window: (count, C, WINDOW_NODES, WINDOW_NODES), both float16, memory
    mapped. window_from_view: (count, 3, 3) homographies between pixel edges. corner_xy: (count, 2) first node of the
    window on its map.
    """

    view: NDArray[np.float16]
    window: NDArray[np.float16]
    window_from_view: NDArray[np.float32]
    corner_xy: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.corner_xy)

    def apart(self, row: int, least_nodes: int) -> list[int]:
        """Other views of the same map whose windows lie more than `least_nodes` away in x or y."""
        first = row - row % VIEWS_PER_MAP
        rows = range(first, min(first + VIEWS_PER_MAP, len(self)))
        shift = np.abs(self.corner_xy[rows.start : rows.stop] - self.corner_xy[row]).max(1)
        return [other for other, far in zip(rows, shift > least_nodes, strict=True) if far]


@dataclass(frozen=True)
class AlignmentSource:
    """Which views: of these image pairs under `root`, those held out or those to train on, drawn by `seed`."""

    root: Path
    sources: tuple[str, ...]
    held_out: bool
    seed: int

    def views(
        self, count: int, network: LoadedWeights, folder: Path, device: torch.device, workers: int = 0
    ) -> AlignmentViews:
        """The first `count` views (or up to 3 more: whole maps), kept in `folder`, 0.8 MB each.

        Those already there are not computed again. A view depends on its number and on `seed` alone. GeolocError: the
        folder holds views of another source or network.
        """
        if not isinstance(network.model, HybridMixFusion):
            raise GeolocError(f"the alignment head is trained on mix_hybrid, {network.id} is {network.info.network}")
        folder.mkdir(parents=True, exist_ok=True)
        maps = -(-count // VIEWS_PER_MAP)
        rows = maps * VIEWS_PER_MAP
        channels = network.model.to_fine.out_channels
        key = repr((network.id, self.sources, self.held_out, self.seed))
        placed, corners = _read_index(folder, key)
        view = _mapped(folder / _VIEWS, (rows, channels, VIEW_NODES, VIEW_NODES))
        window = _mapped(folder / _WINDOWS, (rows, channels, WINDOW_NODES, WINDOW_NODES))
        done = len(corners) // VIEWS_PER_MAP
        if done < maps:
            model = network.model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
            draws = PoseErrors(self.root, self.sources, self.held_out, self.seed)
            batches = load(draws, [range(i, i + 1) for i in range(done, maps)], workers)
            for number, batch in enumerate(track(batches, "features, once", total=maps - done), start=done):
                own = slice(number * VIEWS_PER_MAP, (number + 1) * VIEWS_PER_MAP)
                corner = _corners(batch, np.random.default_rng((1, self.seed, number)))
                view[own], window[own] = _features(model, batch, corner, device)
                placed = torch.cat([placed, _window_from_view(batch, corner)])
                corners = torch.cat([corners, corner])
                if (number + 1) % _SAVED_MAPS == 0 or number + 1 == maps:
                    view.flush()
                    window.flush()
                    write_state(folder / _INDEX, {"of": key, "window_from_view": placed, "corner_xy": corners})
        return AlignmentViews(view, window, placed[:rows].numpy(), corners[:rows].numpy())


def _mapped(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """An array on disk; one that is too short grows, one that is longer keeps what it has."""
    return np.memmap(path, np.float16, "r+" if path.is_file() else "w+", shape=shape)


def _read_index(folder: Path, key: str) -> tuple[Tensor, Tensor]:
    """Homographies and corners of the views whose features are complete."""
    if not all((folder / name).is_file() for name in (_VIEWS, _WINDOWS, _INDEX)):
        return torch.empty(0, 3, 3), torch.empty(0, 2, dtype=torch.int64)
    index = read_state(folder / _INDEX, torch.device("cpu"))
    if index.get("of") != key:
        raise GeolocError(f"{folder} holds views of {index.get('of')}, not of {key}: name another --out, or delete it")
    return index["window_from_view"], index["corner_xy"]


def _corners(batch: dict[str, Tensor], rng: np.random.Generator) -> Tensor:
    """First nodes (K, 2), (x, y), of windows about the true places plus a coarse fix's error."""
    nodes = batch["target"].flip(1).double() / STRIDE_PX
    error = rng.uniform(-_COARSE_ERROR_NODES, _COARSE_ERROR_NODES, tuple(nodes.shape))
    return (nodes + torch.from_numpy(error)).round().long() - WINDOW_NODES // 2


def _window_from_view(batch: dict[str, Tensor], corner_xy: Tensor) -> Tensor:
    window_from_map = torch.eye(3, dtype=torch.float64).repeat(len(corner_xy), 1, 1)
    window_from_map[:, :2, 2] = -float(STRIDE_PX) * corner_xy
    placed = window_from_map @ batch["map_from_query"].double()
    return (placed / placed[:, 2:, 2:]).float()


@torch.inference_mode()
def _features(
    model: HybridMixFusion, batch: dict[str, Tensor], corner_xy: Tensor, device: torch.device
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fine features of the views (K, C, h, w) and of their windows, zero beyond the map as in flight."""
    cell_px = model.cell_px(QUERY_PX)
    search_map, view = (
        model.encode(batch[key].to(device).float().to(memory_format=torch.channels_last), cell_px).fine
        for key in ("map", "query")
    )
    nodes = MAP_PX // STRIDE_PX
    windows = [
        F.pad(search_map[0], (-x, x + WINDOW_NODES - nodes, -y, y + WINDOW_NODES - nodes))
        for x, y in corner_xy.tolist()
    ]
    return view.cpu().numpy(), torch.stack(windows).cpu().numpy()
