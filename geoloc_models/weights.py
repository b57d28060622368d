# SPDX-License-Identifier: Apache-2.0
"""Weights that ship: found by name, checked by SHA-256, never loaded half.

A weights file is safetensors whose metadata says which network it is and how to use it. The names, kinds and digests of
those that ship stand in `geoloc_models/pretrained/index.json`, each with a model card beside it. This module loads
localizers; `geoloc_models.ast.retriever_weights` loads retrievers by the same rules.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Size, Tensor, nn
from torch.nn import functional

from geoloc_models.backbones.timm_backbone import STREAMS
from geoloc_models.drl.alignment_head import AlignmentHead
from geoloc_models.drl.compact_mix_fusion import CompactMixFusion
from geoloc_models.drl.hybrid_mix_fusion import HybridMixFusion
from geoloc_models.drl.presets import Network, build, distinct_structures
from geoloc_models.errors import GeolocError

Info = TypeVar("Info")
Kind = Literal["localizer", "retriever"]

FOLDER = Path(__file__).parent / "pretrained"
METADATA_KEY: dict[Kind, str] = {"localizer": "geoloc", "retriever": "geoloc_ast"}
_COMMAND: dict[Kind, str] = {"localizer": "geoloc train", "retriever": "geoloc ast train"}
_ALIGNMENT = "alignment."
_SCALE = ".scale"
_GROUP = 64
"""Inputs of an output channel that share a scale of int8."""
_SMALL = 4096
"""Tensors of no more elements are never int8: they weigh nothing."""


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


def shipped(kind: Kind) -> dict[str, dict[str, str]]:
    """Name -> {"kind", "file", "sha256"} of the weights of a kind in this package.

    One of the localizers' names is "default", one of the retrievers' "retrieval".
    """
    return {name: entry for name, entry in _index().items() if entry["kind"] == kind}


def _index() -> dict[str, dict[str, str]]:
    index = FOLDER / "index.json"
    if not index.is_file():
        raise GeolocError(f"{index} is missing: the package is incomplete, install it again")
    loaded: dict[str, dict[str, str]] = json.loads(index.read_text())
    return loaded


def find_weights(weights: str | Path, kind: Kind) -> tuple[Path, str]:
    """File of weights that ship, by name, or of any, by path; and its SHA-256.

    GeolocError: no such name or file, a name of the other kind, or a file that is not the one that shipped.
    """
    entry = _index().get(str(weights))
    if entry is None:
        path = Path(weights)
        if not path.is_file():
            raise GeolocError(f"no weights {str(weights)!r}: {_remedy(kind)}")
        return path, sha256(path)
    if entry["kind"] != kind:
        raise _other_kind(weights, entry["kind"], kind)
    path = FOLDER / entry["file"]
    digest = sha256(path)
    if digest != entry["sha256"]:
        raise GeolocError(
            f"weights {path} are damaged: SHA-256 is {digest[:12]}…, it must be {entry['sha256'][:12]}…; "
            "install them again"
        )
    return path, digest


def _other_kind(weights: str | Path, found: str, needed: Kind) -> GeolocError:
    return GeolocError(f"weights {weights} are of a {found}, here a {needed} is needed: {_remedy(needed)}")


def _remedy(kind: Kind) -> str:
    names = sorted(shipped(kind))
    if names:
        return f"give a file, or one of {', '.join(names)}"
    return f"this version ships no {kind}, make one with `{_COMMAND[kind]}` and give its file"


def load_weights(weights: str | Path = "default") -> LoadedWeights:
    """Load weights that ship, by name, or any weights file, by path. GeolocError when unknown, damaged or unfit."""
    path, digest = find_weights(weights, "localizer")
    info, state = read_weights(path, "localizer", lambda values: WeightsInfo(**values))
    try:
        model = build(info.network)
    except GeolocError as error:
        raise GeolocError(f"weights {path} name a network that this version lacks: {error}") from error
    if isinstance(model, HybridMixFusion | CompactMixFusion) and any(key.startswith(_ALIGNMENT) for key in state):
        model.alignment = AlignmentHead()
    shapes, own = _shapes(state), _shapes(model.state_dict())
    misfits = sorted(key for key in shapes.keys() | own.keys() if shapes.get(key) != own.get(key))
    if misfits:
        more = f" and {len(misfits) - 1} more" if len(misfits) > 1 else ""
        raise GeolocError(
            f"weights {path} do not fit the network {info.network} that they name ({misfits[0]}{more}); "
            f"{_likely(shapes)}"
        )
    model.load_state_dict(state)
    return LoadedWeights(model.eval(), info, _id(path, digest))


def weights_id(weights: str | Path = "default") -> str:
    """The `id` that these weights will have, without loading them; GeolocError when unknown or damaged."""
    return _id(*find_weights(weights, "localizer"))


def _id(path: Path, digest: str) -> str:
    return f"{path.stem}-{digest[:8]}"


def start_from(model: nn.Module, weights: str | Path) -> None:
    """Continue from trained weights, by name or file: of the same network, or a hybrid from a compact one.

    Their alignment head is left out: it fits the features that it was trained on.
    """
    trained = load_weights(weights)
    if isinstance(model, HybridMixFusion) and isinstance(trained.model, CompactMixFusion):
        model.start_from(trained.model)
        return
    state = {key: value for key, value in trained.model.state_dict().items() if not key.startswith(_ALIGNMENT)}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise GeolocError(
            f"weights {weights} are of {trained.info.network}, which cannot start this network: give weights of the "
            "preset that is trained"
        ) from error


def _shapes(state: Mapping[str, Tensor]) -> dict[str, Size]:
    return {key: value.shape for key, value in state.items()}


def _likely(shapes: Mapping[str, Size]) -> str:
    """A sentence on which network a state dictionary of these shapes seems to belong to."""
    streams = any(key.startswith("query_backbone.") for key in shapes)
    family = "post" if streams else "mix" if any(key.startswith("backbone.") for key in shapes) else ""
    of_timm = any(key.startswith("query_backbone.model.") for key in shapes)
    for name, network in distinct_structures(family, STREAMS if of_timm else ("cvt13", "vits14")):
        if shapes == _shapes(network.state_dict()):
            return f"they look like {name}"
    return "they look like no preset of this version"


def save_weights(path: Path, model: nn.Module, info: WeightsInfo, eight_bit: bool = False) -> str:
    """Write a localizer as `write_weights` does and return the file's SHA-256."""
    return write_weights(path, "localizer", asdict(info), model.state_dict(), eight_bit)


def write_weights(path: Path, kind: Kind, info: Mapping[str, Any], state: Mapping[str, Tensor], eight_bit: bool) -> str:
    """Write a network's parameters as float16, its counters as they are, and return the file's SHA-256.

    eight_bit: matrices and convolutions as int8, half of float16, with one float16 scale per 64 inputs of an output
    channel.
    """
    stored: dict[str, Tensor] = {}
    for key, value in state.items():
        value = value.detach().cpu()
        if eight_bit and value.ndim > 1 and value.numel() > _SMALL:
            stored[key], stored[key + _SCALE] = _quantize(value.float())
        else:
            stored[key] = (value.half() if value.is_floating_point() else value).contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(stored, path, {METADATA_KEY[kind]: json.dumps(info)})
    return sha256(path)


def _quantize(value: Tensor) -> tuple[Tensor, Tensor]:
    """(out, ...) float32 -> int8 of the same shape, and the (out, groups) float16 scales of its rows' groups."""
    flat = value.flatten(1)
    groups = functional.pad(flat, (0, -flat.shape[1] % _GROUP)).unflatten(1, (-1, _GROUP))
    scale = (groups.abs().amax(2).clamp(min=1e-5) / 127).half()
    quantized = (groups / scale.float()[..., None]).round().clamp(-127, 127).to(torch.int8)
    return quantized.flatten(1)[:, : flat.shape[1]].reshape(value.shape).contiguous(), scale


def _dequantize(path: Path, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as float32, int8 ones times their scales; GeolocError for an int8 one without the scales it needs.

    Scales are (out,) or (out, groups), by what `retrieval` ships with and by what `_quantize` makes.
    """
    state = {key: value.float() for key, value in stored.items()}
    for key in (key for key, value in stored.items() if value.dtype == torch.int8):
        flat, scale = state[key].flatten(1), state.pop(key + _SCALE, None)
        rows, columns = flat.shape
        if scale is None or scale.shape not in ((rows,), (rows, -(-columns // _GROUP))):
            raise GeolocError(
                f"weights {path} are incomplete: {key} is int8 and {key + _SCALE} is "
                f"{'missing' if scale is None else 'of another shape'}; get them again"
            )
        flat *= scale[:, None] if scale.ndim == 1 else scale.repeat_interleave(_GROUP, 1)[:, :columns]
    return state


def read_weights(path: Path, kind: Kind, parse: Callable[[dict[str, Any]], Info]) -> tuple[Info, dict[str, Tensor]]:
    """What `parse` makes of the file's metadata, and the tensors as float32.

    GeolocError: no safetensors file, one of the other kind, one that is no weights file of ours, or an incomplete one.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise GeolocError(f"weights {path} are damaged or no safetensors file ({error}); get them again") from error
    for other, key in METADATA_KEY.items():
        if other != kind and key in metadata:
            raise _other_kind(path, other, kind)
    try:
        info = parse(json.loads(metadata[METADATA_KEY[kind]]))
    except (KeyError, TypeError, ValueError) as error:
        raise GeolocError(
            f"weights {path} were not written by `{_COMMAND[kind]}` ({error!r}); export them again"
        ) from error
    return info, _dequantize(path, tensors)


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise GeolocError(
            f"cannot read weights {path}: {error.strerror}; check the path and its permissions"
        ) from error
