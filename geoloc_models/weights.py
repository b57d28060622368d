# SPDX-License-Identifier: Apache-2.0
"""Weights that ship: found by name, checked by SHA-256, never loaded half.

A weights file is safetensors (fp16) whose metadata says which network it is and how to use it. The names and digests
of those that ship stand in `geoloc_models/pretrained/index.json`, each with a model card beside it.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Size, Tensor, nn

from geoloc_models.backbones.timm import STREAMS
from geoloc_models.drl.compact import CompactMixFusion
from geoloc_models.drl.hybrid import HybridMixFusion
from geoloc_models.drl.presets import Network, build, distinct_structures
from geoloc_models.errors import GeolocError

Info = TypeVar("Info")

FOLDER = Path(__file__).parent / "pretrained"


@dataclass(frozen=True)
class WeightsInfo:
    """How to use a network: stored as metadata of its file.

    network: a preset of `geoloc_models.drl.presets`; query_px: side of the query; gsd_min_m, gsd_max_m: ground sample
    distances it was trained for; temperature: divides the logits so that the posterior is calibrated.
    """

    network: str
    query_px: int
    gsd_min_m: float
    gsd_max_m: float
    temperature: float


@dataclass(frozen=True)
class LoadedWeights:
    """A network in evaluation mode, how to use it, and `id`: its name and the start of its digest."""

    model: Network
    info: WeightsInfo
    id: str


def shipped() -> dict[str, dict[str, str]]:
    """Name -> {"file", "sha256"} of the weights in this package; "default" is one of the names."""
    index = FOLDER / "index.json"
    if not index.is_file():
        raise GeolocError(f"{index} is missing: the package is incomplete, install it again")
    loaded: dict[str, dict[str, str]] = json.loads(index.read_text())
    return loaded


def load_weights(weights: str | Path = "default") -> LoadedWeights:
    """Load weights that ship, by name, or any weights file, by path. GeolocError when unknown, damaged or unfit."""
    names = shipped()
    if str(weights) in names:
        entry = names[str(weights)]
        path, expected = FOLDER / entry["file"], entry["sha256"]
    else:
        path, expected = Path(weights), None
        if not path.is_file():
            raise GeolocError(
                f"no weights {str(weights)!r}: give a file, or one of {', '.join(sorted(names))}"
            )
    digest = sha256(path)
    if expected is not None and digest != expected:
        raise GeolocError(
            f"weights {path} are damaged: SHA-256 is {digest[:12]}…, it must be {expected[:12]}…; install them again"
        )
    info, tensors = read_weights(path, "geoloc", "geoloc train", lambda values: WeightsInfo(**values))
    state = {key: value.float() for key, value in tensors.items()}
    try:
        model = build(info.network)
    except GeolocError as error:
        raise GeolocError(f"weights {path} name a network that this version lacks: {error}") from error
    shapes, own = _shapes(state), _shapes(model.state_dict())
    misfits = sorted(key for key in shapes.keys() | own.keys() if shapes.get(key) != own.get(key))
    if misfits:
        more = f" and {len(misfits) - 1} more" if len(misfits) > 1 else ""
        raise GeolocError(
            f"weights {path} do not fit the network {info.network} that they name ({misfits[0]}{more}); "
            f"{_likely(shapes)}"
        )
    model.load_state_dict(state)
    return LoadedWeights(model.eval(), info, f"{path.stem}-{digest[:8]}")


def start_from(model: nn.Module, weights: str | Path) -> None:
    """Continue from trained weights, by name or file: of the same network, or a hybrid from a compact one."""
    trained = load_weights(weights)
    if isinstance(model, HybridMixFusion) and isinstance(trained.model, CompactMixFusion):
        model.start_from(trained.model)
        return
    try:
        model.load_state_dict(trained.model.state_dict())
    except RuntimeError as error:
        raise GeolocError(
            f"weights {weights} are of {trained.info.network}, which cannot start this network: give weights of the "
            "preset that is trained"
        ) from error


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Size]:
    return {key: value.shape for key, value in state.items()}


def _likely(shapes: Mapping[str, Size]) -> str:
    """What network a state dictionary of these shapes seems to be of, in words."""
    streams = any(key.startswith("query_backbone.") for key in shapes)
    family = "post" if streams else "mix" if any(key.startswith("backbone.") for key in shapes) else ""
    of_timm = any(key.startswith("query_backbone.model.") for key in shapes)
    for name, network in distinct_structures(family, STREAMS if of_timm else ("cvt13", "vits14")):
        if shapes == _shapes(network.state_dict()):
            return f"they look like {name}"
    return "they look like no preset of this version"


def save_weights(path: Path, model: nn.Module, info: WeightsInfo) -> str:
    """Write the network's parameters as fp16, its counters as they are, and return the file's SHA-256."""
    state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in state.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, {"geoloc": json.dumps(asdict(info))})
    return sha256(path)


def read_weights(
    path: Path, key: str, command: str, parse: Callable[[dict[str, Any]], Info]
) -> tuple[Info, dict[str, Tensor]]:
    """What `parse` makes of the metadata under `key`, and the tensors as they are stored.

    GeolocError: no safetensors file, or one that `command` did not write.
    """
    try:
        with safe_open(path, "pt") as file:
            info = parse(json.loads((file.metadata() or {})[key]))
            return info, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise GeolocError(
            f"weights {path} are damaged or no safetensors file ({error}); get them again"
        ) from error
    except (KeyError, TypeError, ValueError) as error:
        raise GeolocError(
            f"weights {path} were not written by `{command}` ({error!r}); export them again"
        ) from error


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise GeolocError(
            f"cannot read weights {path}: {error.strerror}; check the path and its permissions"
        ) from error
