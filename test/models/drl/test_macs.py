# SPDX-License-Identifier: Apache-2.0
"""Counting: against hand-made sums, and every figure of the reference's cost table."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from geoloc_models.drl.heads import GroupCorrelation
from geoloc_models.drl.macs import count_cost


class Everything(nn.Module):
    """One of each kind of layer, with a correlation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, groups=1)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.linear = nn.Linear(4, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.layer_norm = nn.LayerNorm(6)
        self.head = GroupCorrelation(6, 5)

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        def features(image: Tensor) -> Tensor:
            grid = self.up(self.norm(self.conv(image)))
            tokens = self.layer_norm(self.linear(grid.flatten(2).transpose(1, 2)))
            mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return mixed.transpose(1, 2).unflatten(2, grid.shape[-2:])

        return self.head(features(z), features(x))


def test_count_equals_the_sum_by_hand() -> None:
    model = Everything()
    cost = count_cost(model, torch.empty(1, 3, 2, 2), torch.empty(1, 3, 6, 4))
    counted = projections = products = 0
    for pixels in (2 * 2, 6 * 4):
        tokens = 4 * pixels
        counted += pixels * (8 * 3 * 9 + 8 * 4 * 4) + tokens * (4 * 6 + 6 * 5)
        projections += tokens * 4 * 6 * 6
        products += 2 * tokens * tokens * 6
    norms = 4 * 8 * (2 * 2 + 6 * 4)
    correlation = 13 * 9 * 5 * 4 * 4
    assert cost.counted_macs == counted + norms
    assert cost.macs == counted + projections + products + correlation
    assert cost.macs_by_part["head"] == correlation + 6 * 5 * (16 + 96)
    uncounted = (model.attention, model.layer_norm)
    missing = sum(p.numel() for layer in uncounted for p in layer.parameters()) + 1  # and the head's scale
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.counted_parameters == cost.parameters - missing


def test_counting_leaves_the_network_as_it_was() -> None:
    model = Everything().train()
    count_cost(model, torch.empty(1, 3, 2, 2), torch.empty(1, 3, 6, 4))
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


@pytest.fixture
def reproduce_check() -> ModuleType:
    path = Path(__file__).resolve().parents[3] / "tools" / "reproduce_check.py"
    spec = importlib.util.spec_from_file_location("reproduce_check", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_figure_of_the_reference(
    reproduce_check: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reproduce_check.main() == 0
    assert "DIFFERS" not in capsys.readouterr().out
    row = reproduce_check.Reference("mix_cvt13_ccn_gc", "19.70", "13.24", "18.15")
    monkeypatch.setattr(reproduce_check, "REFERENCES", (row,))
    assert reproduce_check.main() == 1
    assert capsys.readouterr().out.count("DIFFERS") == 1
