# SPDX-License-Identifier: Apache-2.0
"""Files of trained retrieval networks: safetensors whose metadata says how to build the network, never loaded half."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from geoloc_models.ast.presets import AstPreset, preset
from geoloc_models.ast.retriever import Retriever, SegmentTransformer
from geoloc_models.errors import GeolocError
from geoloc_models.weights import METADATA_KEY, find_weights, read_weights, sha256

_SCALE = ".scale"


@dataclass(frozen=True)
class RetrieverInfo:
    """What the file says of itself: the network's shape, and the ground sides in m of the tiles it was trained with
    (None: pictures without a scale).
    """

    name: str
    shape: AstPreset
    tile_m: tuple[float, float] | None


def save_retriever(path: Path, network: SegmentTransformer, info: RetrieverInfo, eight_bit: bool) -> str:
    """Write a network without its classifiers and return the file's SHA-256.

    float16; with `eight_bit` matrices are stored as int8 with one scale an output channel, a quarter of float32.
    """
    state: dict[str, Tensor] = {}
    for key, value in network.state_dict().items():
        if ".classify." in key or key.endswith("num_batches_tracked"):
            continue
        value = value.detach().cpu().float()
        if eight_bit and value.ndim > 1 and value.numel() > 4096:
            scale = value.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
            shape = (-1,) + (1,) * (value.ndim - 1)
            state[key] = (value / scale.reshape(shape)).round().to(torch.int8).contiguous()
            state[key + _SCALE] = scale
        else:
            state[key] = value.half().contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, {METADATA_KEY["retriever"]: json.dumps(asdict(info))})
    return sha256(path)


def load_retriever(
    weights: str | Path = "retrieval", device: str = "auto"
) -> tuple[Retriever, RetrieverInfo]:
    """A network that ships, by name, or of any weights file, by path, ready to embed.

    Its `weights_id` depends on the file's content alone. GeolocError: unknown, damaged, or of a localizer.
    """
    path, digest = find_weights(weights, "retriever")
    info, stored = read_weights(path, "retriever", _parse)
    state = {}
    for key, value in stored.items():
        if key.endswith(_SCALE):
            continue
        value = value.float()
        if key + _SCALE in stored:
            value *= stored[key + _SCALE].reshape((-1,) + (1,) * (value.ndim - 1))
        state[key] = value
    network = SegmentTransformer(info.shape)
    state |= {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise GeolocError(f"weights {path} do not fit the network they name ({reason})") from error
    return Retriever(network, f"{info.name}-{digest[:8]}", device), info


def _parse(values: dict[str, Any]) -> RetrieverInfo:
    shape = values["shape"]
    paper = tuple(shape["paper"]) if shape["paper"] else None
    tile_m = tuple(values["tile_m"]) if values["tile_m"] else None
    return RetrieverInfo(
        values["name"], AstPreset(**{**shape, "rows": tuple(shape["rows"]), "paper": paper}), tile_m
    )


def zero_shot(name: str, trunk_weights: Path, device: str = "auto") -> Retriever:
    """A preset without heads as its trunk's checkpoint makes it; GeolocError if the preset needs training."""
    shape = preset(name)
    if shape.head_width:
        raise GeolocError(f"preset {name!r} has heads that need training: give --weights of a training run")
    network = SegmentTransformer(shape)
    network.start_from(trunk_weights)
    return Retriever(network, f"{name}-{sha256(trunk_weights)[:8]}", device)
