# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in the published code's dress load into ours; those of another network are named."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from geoloc_models.drl import published_checkpoints as published
from geoloc_models.drl.presets import PRESETS, build, build_on_meta
from geoloc_models.drl.published_checkpoints import load_published
from geoloc_models.errors import GeolocError
from geoloc_models.weights import load_weights
from geoloc_ros.cli.main import main

# Written down from the published code: a parameter of each part, and its shape.
EXPECTED = {
    "mix_cvt13_fpn_linear": {
        "union_backbone.backbone.backbone.stage2.blocks.9.attn.conv_proj_q.bn.running_mean": (384,),
        "neck_satellite.neck.P3_1.weight": (128, 64, 1, 1),
        "neck_satellite.neck.P4_1.weight": (128, 192, 1, 1),
        "neck_satellite.neck.P5_1.weight": (128, 384, 1, 1),
        "neck_satellite.neck.P3_2.weight": (128, 128, 3, 3),
        "head.head.module_2.weight": (1, 16),
    },
    "mix_cvt13_fpn_linear_h8": {
        "neck_satellite.neck.P4_1.weight": (128, 192, 1, 1),
        "neck_satellite.neck.P5_1.weight": (128, 384, 1, 1),
        "neck_satellite.neck.P4_2.weight": (128, 128, 3, 3),
    },
    "mix_cvt13_ccn_gem": {"head.head.pool.pool.p": (128,)},
    "mix_cvt13_ccn_gc": {
        "neck_uav.neck.Conv2dDict.neck_ccn_0.0.weight": (128, 384, 1, 1),
        "head.head.GroupFusionList.0.cls_conv_uav.weight": (128, 128, 1, 1),
        "head.head.GroupFusionList.0.cls_conv_satellite.bias": (128,),
        "head.head.GroupFusionList.0.out_scale": (),
    },
    "post_cvt13_ccn_gc": {
        "backbone_uav.backbone.stage2.cls_token": (1, 1, 384),
        "backbone_satellite.backbone.stage0.patch_embed.proj.weight": (64, 3, 7, 7),
        "head.head.cls_conv_uav.weight": (128, 128, 1, 1),
        "head.head.out_scale": (),
    },
    "post_cvt13_ccn_saf": {
        "head.head.encoder.layers.3.self_attn1.in_proj_weight": (384, 128),
        "head.head.encoder.layers.3.norm11.weight": (128,),
        "head.head.encoder.layers.0.linear21.weight": (256, 128),
        "head.head.encoder.layers.0.linear22.weight": (128, 256),
        "head.head.pool.pool.weight": (1, 128),
    },
    "post_cvt13_ccn_caf": {
        "head.head.encoder.layers.3.multihead_attn2.out_proj.weight": (128, 128),
        "head.head.encoder.layers.3.norm22.bias": (128,),
    },
}


@pytest.mark.parametrize("name", EXPECTED)
def test_keys_are_those_of_the_published_code(name: str) -> None:
    network = build_on_meta(name)
    own = network.state_dict()
    theirs = published._names(network, PRESETS[name])
    assert len(set(theirs.values())) == len(own)
    shapes = {their_key: tuple(own[key].shape) for key, their_key in theirs.items()}
    for key, shape in EXPECTED[name].items():
        assert shapes[key] == shape


def dressed(name: str) -> dict[str, Tensor]:
    """A random network's state as the published code would have saved it, unread parts included."""
    torch.manual_seed(1)
    network = build(name)
    state = {theirs: network.state_dict()[key] for key, theirs in published._names(network, PRESETS[name]).items()}
    extra = {
        "union_backbone.backbone.backbone.stage2.cls_token": torch.zeros(1, 1, 384),
        "union_backbone.backbone.backbone.norm.weight": torch.ones(384),
        "union_backbone.backbone.backbone.head.bias": torch.ones(1000),
        "neck_satellite.neck.P5_2.weight": torch.ones(1),
        "neck_uav.neck.P3_1.weight": torch.ones(1),
    }
    return {**state, **extra}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "net_best.pth"
    torch.save(dressed("mix_cvt13_fpn_linear"), path)
    return path


def test_checkpoint_loads_whole(checkpoint: Path) -> None:
    torch.manual_seed(1)
    source = build("mix_cvt13_fpn_linear").state_dict()
    loaded = load_published("mix_cvt13_fpn_linear", checkpoint).state_dict()
    assert all(torch.equal(value, source[key]) for key, value in loaded.items())


def test_checkpoint_is_converted_to_a_weights_file(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "drl.safetensors"
    assert main(["models", "mix_cvt13_fpn_linear", "--convert", str(checkpoint), str(out)]) == 0
    weights = load_weights(out)
    assert (weights.info.network, weights.info.query_px) == ("mix_cvt13_fpn_linear", 128)
    published_network = load_published("mix_cvt13_fpn_linear", checkpoint)
    torch.testing.assert_close(weights.model.state_dict(), published_network.state_dict(), rtol=1e-3, atol=1e-5)


def test_checkpoint_of_another_network_is_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Building all candidates takes seconds.
    names = ("mix_cvt13_ccn_gem", "mix_cvt13_fpn_linear")
    monkeypatch.setattr(published, "distinct_structures", lambda *_: ((name, build_on_meta(name)) for name in names))
    with pytest.raises(GeolocError, match=r"lacks neck_satellite.*looks like mix_cvt13_fpn_linear\.$"):
        load_published("mix_cvt13_ccn_gem", checkpoint)
    state = {**dressed("mix_cvt13_fpn_linear"), "neck_extra.weight": torch.ones(1)}
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(GeolocError, match=r"has neck_extra\.weight.*no preset with cvt13\.$"):
        load_published("mix_cvt13_fpn_linear", tmp_path / "other.pth")
    with pytest.raises(GeolocError, match="mix_compact"):
        load_published("mix_compact", checkpoint)


def test_conversion_needs_one_preset(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--convert", str(checkpoint), str(tmp_path / "out.safetensors")]) == 2
    assert "needs one preset" in capsys.readouterr().err
