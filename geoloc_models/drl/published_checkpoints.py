# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the paper's published code: their keys mapped to our parameters.

Those files are plain state dictionaries. They also contain parts whose output is unused: classifiers, the class token
of Mix-Fusion, the query's neck if the head does not use the query, levels of the pyramid, unused halves of the
attention layers. These are known and left out; anything else that does not fit is an error.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from geoloc_models.drl.presets import PRESETS, Network, Preset, build, distinct_structures, read_state
from geoloc_models.errors import GeolocError

UL14_GSD_M = (0.536, 1.378)
"""Minimum and maximum metres per pixel of UL14's test maps at 384 px."""

_UNREAD = re.compile(
    r"(union_backbone\.backbone\.backbone|backbone_(uav|satellite)\.backbone)\."
    r"(norm\.|head\.|.*cls_token$|.*num_batches_tracked$)"
    r"|neck_(uav|satellite)\.neck\.P\d_\d\."
    r"|head\.head\.(encoder|decoder)\."
    r"|.*\btotal_(ops|params)$"
)


def load_published(name: str, checkpoint: Path) -> Network:
    """The network of preset `name` with the weights of a published checkpoint.

    GeolocError: a preset whose backbone is not CvT-13, an unreadable file, or one of another network.
    """
    if name not in PRESETS or PRESETS[name].backbone != "cvt13":
        raise GeolocError(f"Published checkpoints are read for the presets with cvt13, and {name!r} is none.")
    state = read_state(checkpoint)
    network = build(name)
    missing, unknown = _misfits(network, PRESETS[name], state)
    if missing or unknown:
        words = f"lacks {missing[0]}" if missing else f"has {unknown[0]}, which that network lacks"
        raise GeolocError(f"{checkpoint} is no checkpoint of {name}: it {words}; it looks like {_likely(state)}.")
    network.load_state_dict({key: state[theirs] for key, theirs in _names(network, PRESETS[name]).items()})
    return network


def _likely(state: Mapping[str, Tensor]) -> str:
    """Name of the first preset that the checkpoint fits, for messages."""
    family = "mix" if any(key.startswith("union_backbone.") for key in state) else "post"
    for name, network in distinct_structures(family, ("cvt13",)):
        if not any(_misfits(network, PRESETS[name], state)):
            return name
    return "no preset with cvt13"


def _misfits(network: nn.Module, preset: Preset, state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """Their keys that are missing or have another shape, and the unknown ones of the file."""
    names, own = _names(network, preset), network.state_dict()
    missing = [theirs for key, theirs in names.items() if theirs not in state or state[theirs].shape != own[key].shape]
    known = set(names.values())
    unread = [_UNREAD.pattern]
    if not any(key.startswith("query_neck.") for key in names):
        unread.append(r"neck_uav\.")
    if preset.shared:
        unread.append(r"backbone_satellite\.")
    ignored = re.compile("|".join(unread))
    return missing, [theirs for theirs in state if theirs not in known and not ignored.match(theirs)]


def _names(network: nn.Module, preset: Preset) -> dict[str, str]:
    """Key of ours -> theirs."""
    rules = _rules(preset)
    names = {}
    for key in network.state_dict():
        theirs = key
        for pattern, replacement in rules:
            theirs = re.sub(pattern, replacement, theirs)
        names[key] = theirs
    return names


def _rules(preset: Preset) -> list[tuple[str, str]]:
    """Substitutions of regular expressions, in order."""
    head = {
        "avg": [],
        "linear": [(r"^head\.layers\.", "head.head.module_")],
        "gem": [(r"^head\.", "head.head.pool.pool.")],
        "gc": _gc_rules("head.head." if preset.family == "post" else "head.head.GroupFusionList.0."),
        "saf": _attention_rules("self_attn1", "norm11"),
        "caf": _attention_rules("multihead_attn2", "norm22"),
    }
    level = 3 if preset.neck == "fpn4" else 4
    streams = [
        (r"^backbone\.", "union_backbone.backbone.backbone."),
        (r"^query_backbone\.", "backbone_uav.backbone."),
        (r"^map_backbone\.", "backbone_satellite.backbone."),
    ]
    necks = [
        (r"^query_neck\.", "neck_uav.neck."),
        (r"^(map_)?neck\.", "neck_satellite.neck."),
        (r"\.neck\.convert\.", ".neck.Conv2dDict.neck_ccn_0.0."),
        (r"\.neck\.smooth\.", f".neck.P{level}_2."),
        *((rf"\.neck\.lateral\.{index}\.", f".neck.P{level + index}_1.") for index in range(3)),
    ]
    return [*head.get(preset.head, []), *streams, *necks]


def _gc_rules(prefix: str) -> list[tuple[str, str]]:
    return [
        (r"^head\.project_z\.", f"{prefix}cls_conv_uav."),
        (r"^head\.project_x\.", f"{prefix}cls_conv_satellite."),
        (r"^head\.scale$", f"{prefix}out_scale"),
    ]


def _attention_rules(attention: str, norm: str) -> list[tuple[str, str]]:
    layer = r"^head\.layers\.(\d+)\."
    theirs = r"head.head.encoder.layers.\1."
    return [
        (rf"{layer}attention\.", f"{theirs}{attention}."),
        (rf"{layer}norm\.", f"{theirs}{norm}."),
        (rf"{layer}linear([12])\.", rf"{theirs}linear2\2."),
        (r"^head\.out\.", "head.head.pool.pool."),
    ]
