# SPDX-License-Identifier: Apache-2.0
"""timm's networks as streams of Post-Fusion: levels, sizes, checkpoints, and a clear word where timm is missing."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from geoloc_models.backbones import timm_backbone as ours
from geoloc_models.backbones.timm_backbone import STREAMS, TimmStream, import_timm, load_timm
from geoloc_models.drl.presets import PRESETS, build
from geoloc_models.errors import GeolocError


@pytest.mark.parametrize(
    ("backbone", "channels", "stride"),
    [
        ("resnet50", 512, 8),
        ("efficientnet_b5", 512, 32),
        ("convnext_t", 384, 16),
        ("vit_s", 384, 16),
        ("deit_s", 384, 16),
        ("pvt_s", 512, 32),
    ],
)
def test_levels_that_the_published_configurations_read(backbone: str, channels: int, stride: int) -> None:
    """Images need not be square."""
    with torch.device("meta"):
        stream = TimmStream(backbone)
        (level,) = stream.eval()(torch.empty(2, 3, 64, 96))
    assert (stream.channels, stream.multiple_px) == ((channels,), stride)
    assert level.shape == (2, channels, 64 // stride, 96 // stride)


def test_every_backbone_of_the_table_is_a_preset() -> None:
    assert {p.backbone for p in PRESETS.values() if p.family == "post"} == {"cvt13", *STREAMS}


@pytest.fixture(scope="module")
def resnet() -> Any:
    torch.manual_seed(0)
    return import_timm().create_model("resnet50").eval()


def test_level_equals_timms_own_and_the_checkpoint_of_the_classifier_loads(resnet: Any, tmp_path: Path) -> None:
    path = tmp_path / "resnet50.safetensors"
    save_file(resnet.state_dict(), path)
    network = build("post_resnet50_ccn_gc", path).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = resnet.forward_intermediates(image, indices=[2], intermediates_only=True)[0]
        assert torch.equal(network.query_backbone(image)[0], expected)
        assert torch.equal(network.map_backbone(image)[0], expected)


def test_transformers_end_in_their_norm_and_take_any_grid() -> None:
    torch.manual_seed(0)
    stream = TimmStream("vit_s").eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        (level,) = stream(image)
        tokens = stream.model.forward_features(image)
    torch.testing.assert_close(level, tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 6)))
    with pytest.raises(GeolocError, match="100x64 px is no multiple of 16 px"):
        stream(torch.rand(1, 3, 64, 100))


def test_unfit_checkpoints_are_refused(resnet: Any) -> None:
    stream = TimmStream("resnet50")
    good: dict[str, Tensor] = resnet.state_dict()
    key = "layer2.0.conv1.weight"
    with pytest.raises(GeolocError, match=rf"resnet50: {key} is missing"):
        load_timm(stream, {name: value for name, value in good.items() if name != key})
    with pytest.raises(GeolocError, match=rf"{key} has the shape \(3, 3\)"):
        load_timm(stream, {**good, key: torch.ones(3, 3)})


def test_missing_timm_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(GeolocError, match="pip install"):
        import_timm.__wrapped__()


def test_declarations_are_made_only_where_the_plain_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchvision that imports is left alone; another failure than that of its operators is not hidden."""
    declared: list[str] = []
    monkeypatch.setattr(ours, "_SIGNATURES", type("Library", (), {"define": lambda _, text: declared.append(text)})())
    monkeypatch.setattr(importlib, "import_module", lambda _: None)
    ours.import_torchvision()
    assert declared == []
    errors = iter((RuntimeError("operator torchvision::nms does not exist"), None))

    def fail_once(_: str) -> None:
        if error := next(errors):
            raise error

    monkeypatch.setattr(importlib, "import_module", fail_once)
    ours.import_torchvision()
    assert [text.split("(")[0] for text in declared] == ["nms", "qnms"]

    def fail(_: str) -> None:
        raise RuntimeError("no such device")

    monkeypatch.setattr(importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="no such device"):
        ours.import_torchvision()
