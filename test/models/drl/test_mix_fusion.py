# SPDX-License-Identifier: Apache-2.0
"""Mix-Fusion as a whole and its presets: published cost, exact caching of the query, bad requests."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from geoloc_models.backbones.cvt import CvtMix, Stage
from geoloc_models.drl.heads import Enlarge, GroupCorrelation, LinearChain
from geoloc_models.drl.losses import spatial_cross_entropy
from geoloc_models.drl.mix_fusion import MixFusion
from geoloc_models.drl.necks import FeaturePyramid
from geoloc_models.drl.presets import build
from geoloc_models.errors import GeolocError

SMALL = (
    Stage(channels=16, heads=1, blocks=1, kernel=7, stride=4, padding=2),
    Stage(channels=48, heads=3, blocks=1, kernel=3, stride=2, padding=1),
)


def small_network(correlates: bool) -> MixFusion:
    torch.manual_seed(2)
    backbone = CvtMix(SMALL)
    necks = [FeaturePyramid(backbone.channels, 16) for _ in range(2)]
    if correlates:
        network = MixFusion(backbone, necks[0], GroupCorrelation(16), query_neck=necks[1])
    else:
        network = MixFusion(backbone, necks[0], LinearChain((16, 8, 1)), enlarge=Enlarge(1))
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


def images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(shape)))


def test_the_vit_fits_the_limit_for_weights_that_ship() -> None:
    """45 MB at two bytes a number."""
    assert sum(tensor.numel() for tensor in build("mix_vits14_pyramid_gc").state_dict().values()) * 2 < 45e6


def test_permuting_the_map_changes_the_map_only() -> None:
    """Spec oracle 3."""
    network = small_network(correlates=True)
    z, x = images(1, 3, 32, 32), images(1, 3, 64, 64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        first, second = network.backbone(z / 255, x / 255), network.backbone(z / 255, x[..., order] / 255)
        logits, permuted = network(z, x), network(z, x[..., order])
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))
    assert not torch.allclose(first[1][-1], second[1][-1])
    assert not torch.allclose(logits, permuted)


def test_upsampling_repeats_the_logits_of_the_neck() -> None:
    network = small_network(correlates=False)
    z, x = images(1, 3, 32, 32), images(1, 3, 64, 48)
    with torch.no_grad():
        full = network(z, x)
        network.enlarge = None
        coarse = network(z, x)
        network.enlarge = Enlarge(1, "bilinear")
        smooth = network(z, x)
    assert coarse.shape == (1, 1, 16, 12)
    assert torch.equal(full, coarse.repeat_interleave(4, 2).repeat_interleave(4, 3))
    # Half-pixel convention: pixel (1, 4), centre (1.5, 4.5), lies above the first row of cells, whose centres are
    # at 2, and at 5/8 of the way between the first two columns, at 2 and 6.
    expected = coarse[0, 0, 0, 0] * 3 / 8 + coarse[0, 0, 0, 1] * 5 / 8
    torch.testing.assert_close(smooth[0, 0, 1, 4], expected, rtol=1e-4, atol=1e-5)


def test_learns_one_pair() -> None:
    """A few steps of the loss bring the peak to the target: gradients reach every parameter."""
    torch.manual_seed(0)
    network = small_network(correlates=True).train()
    z, x = images(1, 3, 32, 32), images(1, 3, 64, 64)
    target = torch.tensor([[5.0, 11.0]])
    optimiser = torch.optim.AdamW(network.parameters(), 3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        loss = spatial_cross_entropy(network(z, x), target, 0.7)
        loss.backward()
        optimiser.step()
    assert all(p.grad is not None for p in network.parameters())
    with torch.no_grad():
        row, col = divmod(network.eval()(z, x).argmax().item(), 17)
    assert abs(row - 5) <= 1
    assert abs(col - 11) <= 1


def test_backbone_weights_are_read_from_files(tmp_path: Path) -> None:
    source = build("mix_cvt13_ccn_avg")
    state = source.backbone.state_dict()
    save_file(state, tmp_path / "cvt.safetensors")
    torch.save({**state, "stage2.cls_token": torch.zeros(1, 1, 384)}, tmp_path / "cvt.pth")
    for name in ("cvt.safetensors", "cvt.pth"):
        loaded = build("mix_cvt13_ccn_avg", tmp_path / name).backbone.state_dict()
        assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_bad_requests_are_told(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not a header")
    torn = tmp_path / "torn.pth"
    torn.write_bytes(b"PK\x03\x04 half")
    other = tmp_path / "other.safetensors"
    save_file({"a": torch.ones(1)}, other)
    cases = (
        ("mix_compact", other, "no pretrained backbone"),
        ("mix_cvt13_ccn_gc", tmp_path / "missing.safetensors", "missing.safetensors"),
        ("mix_cvt13_ccn_gc", damaged, "not a readable weights file"),
        ("mix_cvt13_ccn_gc", torn, "not a readable weights file"),
        ("mix_cvt13_ccn_gc", other, "lacks"),
        ("mix_vits14_pyramid_gc", other, "DINOv2"),
    )
    for name, path, words in cases:
        with pytest.raises(GeolocError, match=words):
            build(name, path)
