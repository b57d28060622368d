# SPDX-License-Identifier: Apache-2.0
"""The hybrid Mix-Fusion: the trunk is DINOv2's, the start is the compact network's, queries share maps."""

from pathlib import Path

import pytest
import torch

from geoloc_models.backbones.vit import VitMix
from geoloc_models.backbones.vit_trunk import VitTrunk
from geoloc_models.drl.compact_mix_fusion import CompactMixFusion
from geoloc_models.drl.hybrid_mix_fusion import HybridMixFusion
from geoloc_models.drl.presets import build
from geoloc_models.errors import GeolocError
from geoloc_models.training.blend import blend
from geoloc_models.weights import WeightsInfo, load_weights, save_weights, start_from


def images(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 255


@pytest.fixture(scope="module")
def model() -> HybridMixFusion:
    torch.manual_seed(0)
    model = HybridMixFusion().eval()
    for layer in (model.context, model.to_fine, model.to_coarse):
        torch.nn.init.normal_(layer.weight, std=0.05)  # they start at zero, which would hide them
    return model


@torch.inference_mode()
def test_trunk_gives_the_tokens_of_the_whole_transformer_after_its_blocks() -> None:
    torch.manual_seed(1)
    whole, trunk = VitMix().eval(), VitTrunk(taps=(2, 3)).eval()
    trunk.load_dinov2(whole.state_dict())
    image = images(2, 64, 2)
    small = torch.nn.functional.interpolate(image, size=(56, 56), mode="bilinear", antialias=True) / 255
    tokens = whole.patch_embed((small - whole.mean) / whole.std).flatten(2).transpose(1, 2)
    tokens = torch.cat((whole.cls_token.expand(2, -1, -1), tokens), 1) + whole.positions((4, 4))
    expected = []
    for block in list(whole.blocks)[:3]:
        tokens, _ = block(tokens, None)
        expected.append(tokens[:, 1:].transpose(1, 2).unflatten(2, (4, 4)))
    torch.testing.assert_close(trunk(image, 16), torch.cat(expected[1:], 1), atol=1e-4, rtol=1e-4)


def test_trunk_refuses_other_weights() -> None:
    with pytest.raises(GeolocError, match="cls_token is missing"):
        VitTrunk().load_dinov2({"head.weight": torch.zeros(1)})


def test_trunk_stays_as_it_is_in_training(model: HybridMixFusion) -> None:
    loss = model(images(1, 32), images(1, 64, 1)).square().mean()
    loss.backward()
    assert all(p.grad is None for p in model.trunk.parameters())
    trained = [name for name, p in model.named_parameters() if not name.startswith("trunk.")]
    missing = [name for name in trained if model.get_parameter(name).grad is None]
    assert not missing
    assert all(torch.isfinite(model.get_parameter(name).grad).all() for name in trained)  # type: ignore[arg-type]


@torch.inference_mode()
def test_queries_of_one_map_equal_each_alone(model: HybridMixFusion) -> None:
    query, search_map = images(4, 48), images(2, 96, 1)
    together = model(query, search_map)
    assert together.shape == (4, 1, 25, 25)
    for i in range(4):
        alone = model(query[i : i + 1], search_map[i // 2 : i // 2 + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_larger_queries_are_seen_in_larger_cells(model: HybridMixFusion) -> None:
    assert [model.cell_px(side) for side in (96, 128, 192)] == [16, 16, 24]
    view = model.encode(images(1, 192), 24)
    assert (view.semantic.shape[-2:], view.coarse.shape[-2:], view.fine.shape[-2:]) == ((8, 8), (12, 12), (48, 48))
    assert model(images(1, 192), images(1, 240, 1)).shape == (1, 1, 61, 61)


@torch.inference_mode()
def test_starts_as_the_compact_network_plus_the_semantic_head() -> None:
    torch.manual_seed(3)
    compact, hybrid = CompactMixFusion().eval(), HybridMixFusion().eval()
    torch.nn.init.zeros_(hybrid.semantic.scale)
    query, search_map = images(2, 64), images(1, 128, 1)
    hybrid.start_from(compact)
    torch.testing.assert_close(hybrid(query, search_map), compact(query, search_map), atol=1e-4, rtol=1e-4)
    # Bent bilinearly over cells or over quarters of cells, one value all over is the same.
    assert compact.context.bias is not None
    compact.context.bias += 3.0
    torch.nn.init.normal_(compact.context.weight, std=0.1)
    hybrid.start_from(compact)
    assert (hybrid.context.weight == compact.context.weight).all()
    assert (hybrid.context.bias == compact.context.bias).all()


def test_start_from_weights_of_another_network_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "compact.safetensors"
    save_weights(path, CompactMixFusion(), WeightsInfo("mix_compact", 128, 0.25, 1.2, 1.0))
    start_from(HybridMixFusion(), path)
    with pytest.raises(GeolocError, match="cannot start this network"):
        start_from(build("mix_cvt13_ccn_avg"), path)


def test_an_alignment_head_does_not_outlive_the_features_it_was_trained_on() -> None:
    model = HybridMixFusion()
    start_from(model, "default")
    assert model.alignment is None
    assert torch.equal(model.to_fine.weight, load_weights("default").model.to_fine.weight)  # type: ignore[union-attr]


def test_blend_lies_between_start_and_tuned(tmp_path: Path) -> None:
    torch.manual_seed(4)
    tuned, start = HybridMixFusion(), HybridMixFusion()
    start.start_from(load_weights("mix_compact").model)  # type: ignore[arg-type]
    torch.nn.init.normal_(tuned.to_fine.weight)
    before = {name: value.clone() for name, value in tuned.state_dict().items()}
    blend(tuned, 0.25)
    after, first = tuned.state_dict(), start.state_dict()
    for name in ("neck.smooth.weight", "backbone.mix.0.qkv.weight", "correlation.scale", "context.bias"):
        torch.testing.assert_close(after[name], 0.25 * before[name] + 0.75 * first[name])
    torch.testing.assert_close(after["to_fine.weight"], 0.25 * before["to_fine.weight"])
    for name in ("trunk.cls_token", "semantic_norm.weight", "semantic.project_x.weight"):
        assert torch.equal(after[name], before[name])
