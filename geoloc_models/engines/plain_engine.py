# SPDX-License-Identifier: Apache-2.0
"""The networks as they were published, operation by operation: what folding and engines are measured against.

PyTorch in float32 with none of `engines.folding`: batch norms and the linear head's layers stand as they are, attention
forms the whole matrix of scores, the view is computed anew for every map and the map for every view. Mix-Fusion also
runs what its published code runs and nothing reads: the view's neck where the head does not look at it, and the last
convolutions of the pyramid's coarser levels; GC correlates by a grouped convolution. Our own networks have no published
code; they keep their correlation by FFT, so that ratios to them are not flattered.
"""

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from geoloc_models.devices import choose_device
from geoloc_models.drl.heads import GroupCorrelation
from geoloc_models.drl.mix_fusion import MixFusion
from geoloc_models.drl.necks import FeaturePyramid
from geoloc_models.drl.presets import PRESETS, build
from geoloc_models.engines.network_engine import NetworkEngine
from geoloc_models.weights import WeightsInfo, load_weights, save_weights


class PlainEngine(NetworkEngine):
    """The reference of every ratio. Not for flying."""

    def __init__(self, weights: str | Path = "default", device: str = "auto", threads: int | None = None) -> None:
        """As TorchEngine."""
        if threads is not None:
            torch.set_num_threads(threads)
        loaded = load_weights(weights)
        super().__init__(loaded, choose_device(device), "plain-float32")
        plain = PlainMixFusion(loaded.model) if isinstance(loaded.model, MixFusion) else loaded.model
        self._network = plain.to(self._device)

    def raw_answers(self, queries: np.ndarray, search_maps: np.ndarray) -> tuple[Tensor, None]:
        """As NetworkEngine, one pair after the other."""
        count = max(len(queries), len(search_maps))
        each = count // len(search_maps)
        logits = []
        with sdpa_kernel(SDPBackend.MATH):
            for index in range(count):
                view = self._tensor(queries[0 if len(queries) == 1 else index])
                logits.append(self._network(view, self._tensor(search_maps[index // each])))
        return torch.cat(logits), None

    def _tensor(self, image: np.ndarray) -> Tensor:
        return torch.from_numpy(image).to(self._device).permute(2, 0, 1)[None].float()


class PlainMixFusion(nn.Module):
    """A Mix-Fusion network with all that the published one computes; gives the same logits."""

    def __init__(self, network: MixFusion) -> None:
        super().__init__()
        self.network = network
        self.query_neck = copy.deepcopy(network.query_neck or network.neck)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """As MixFusion, of one view and one map."""
        network = self.network
        features = network.backbone.encode_query(z / 255.0)
        template = _whole(self.query_neck, features.pyramid)
        answer = _whole(network.neck, network.backbone.forward_map(features, x / 255.0))
        head = network.head
        if isinstance(head, GroupCorrelation):
            kernel, searched = head.project_z(template), head.project_x(answer)
            padding = [side // 2 if head.padding else 0 for side in kernel.shape[-2:]]
            logits: Tensor = head.scaled(F.conv2d(searched, kernel, padding=padding), kernel)
        else:
            logits = head(answer)
        return logits if network.enlarge is None else network.enlarge(logits, x.shape[-2:])


def _whole(neck: nn.Module, levels: tuple[Tensor, ...]) -> Tensor:
    """The neck's answer, after the other levels of its pyramid, which cost as much as where they are read."""
    if isinstance(neck, FeaturePyramid):
        wanted = list(levels)[neck.finest :]
        merged = [neck.lateral[-1](wanted[-1])]
        for lateral, level in zip(list(neck.lateral)[-2::-1], wanted[-2::-1], strict=True):
            merged.append(lateral(level) + F.interpolate(merged[-1], size=level.shape[-2:], mode="nearest"))
        smoothed: list[Tensor] = [neck.smooth(level) for level in merged]
        return smoothed[-1]
    answer: Tensor = neck(levels)
    return answer


def random_weights(preset: str, folder: Path, seed: int = 0) -> Path:
    """A weights file of a preset that no weights ship for: what it costs does not depend on them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build(preset)
    path = folder / f"{preset}.safetensors"
    sizes = PRESETS[preset]
    save_weights(path, network, WeightsInfo(preset, sizes.flown_query_px or sizes.query_px, 0.25, 1.2, 1.0))
    return path
