# SPDX-License-Identifier: Apache-2.0
"""Files of trained retrieval networks: safetensors whose metadata says how to build the network, never loaded half."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geoloc_models.ast.presets import AstPreset, preset
from geoloc_models.ast.retriever import Retriever, SegmentTransformer
from geoloc_models.errors import GeolocError
from geoloc_models.weights import find_weights, read_weights, sha256, write_weights


@dataclass(frozen=True)
class RetrieverInfo:
    """What the file says of itself: the network's shape, and the ground sides in m of the tiles it was trained with
    (None: images without a scale).
    """

    name: str
    shape: AstPreset
    tile_m: tuple[float, float] | None


def save_retriever(path: Path, network: SegmentTransformer, info: RetrieverInfo, eight_bit: bool) -> str:
    """Write a network without its classifiers as `write_weights` does and return the file's SHA-256."""
    state = {
        key: value
        for key, value in network.state_dict().items()
        if ".classify." not in key and not key.endswith("num_batches_tracked")
    }
    return write_weights(path, "retriever", asdict(info), state, eight_bit)


def load_retriever(weights: str | Path = "retrieval", device: str = "auto") -> tuple[Retriever, RetrieverInfo]:
    """A network that ships, by name, or of any weights file, by path, ready to embed.

    Its `weights_id` depends on the file's content alone. GeolocError: unknown, damaged, or of a localizer.
    """
    network, weights_id, info = load_network(weights)
    return Retriever(network, weights_id, device), info


def load_network(weights: str | Path) -> tuple[SegmentTransformer, str, RetrieverInfo]:
    """The network alone, the id of its weights and what the file says; errors as `load_retriever`."""
    path, digest = find_weights(weights, "retriever")
    info, state = read_weights(path, "retriever", _parse)
    network = SegmentTransformer(info.shape)
    state |= {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise GeolocError(f"weights {path} do not fit the network they name ({reason})") from error
    return network, f"{info.name}-{digest[:8]}", info


def _parse(values: dict[str, Any]) -> RetrieverInfo:
    shape = values["shape"]
    paper = tuple(shape["paper"]) if shape["paper"] else None
    tile_m = tuple(values["tile_m"]) if values["tile_m"] else None
    return RetrieverInfo(values["name"], AstPreset(**{**shape, "rows": tuple(shape["rows"]), "paper": paper}), tile_m)


def zero_shot(name: str, trunk_weights: Path, device: str = "auto") -> Retriever:
    """A preset without heads as its trunk's checkpoint makes it; GeolocError if the preset needs training."""
    shape = preset(name)
    if shape.head_width:
        raise GeolocError(f"preset {name!r} has heads that need training: give --weights of a training run")
    network = SegmentTransformer(shape)
    network.start_from(trunk_weights)
    return Retriever(network, f"{name}-{sha256(trunk_weights)[:8]}", device)
