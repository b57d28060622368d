# SPDX-License-Identifier: Apache-2.0
"""Segment tokens and the trunk's scores against loops written out in float64."""

import itertools
import math

import numpy as np
import pytest
import torch

from geoloc_models.ast.retriever_weights import load_retriever
from geoloc_models.ast.segment_tokens import (
    STRATEGIES,
    Strategy,
    assign_groups,
    group_sizes,
    score_spread,
    segment_tokens,
)
from geoloc_models.ast.trunk import AstTrunk, TrunkName
from geoloc_models.backbones.timm_backbone import import_timm
from geoloc_models.errors import GeolocError


@pytest.mark.parametrize(
    ("groups", "sizes"),
    [
        (1, [256]),
        (2, [69, 187]),
        (3, [23, 63, 170]),
        (4, [8, 22, 61, 165]),
        (5, [3, 8, 22, 60, 163]),
        (6, [1, 3, 8, 22, 60, 162]),
    ],
)
def test_sizes_are_the_papers(groups: int, sizes: list[int]) -> None:
    assert group_sizes(256, groups) == sizes
    assert group_sizes(256, groups, "decreasing") == sizes[::-1]


def test_averaging_gives_the_rest_to_the_last() -> None:
    assert group_sizes(256, 3, "averaging") == [85, 85, 86]


@pytest.mark.parametrize("strategy", STRATEGIES[:3])
@pytest.mark.parametrize(("patches", "groups"), [(256, 9), (16, 6), (4, 4), (7, 5), (1, 1)])
def test_no_group_is_empty(strategy: Strategy, patches: int, groups: int) -> None:
    sizes = group_sizes(patches, groups, strategy)
    assert min(sizes) >= 1
    assert sum(sizes) == patches
    assert len(sizes) == groups


def test_more_groups_than_patches_are_refused() -> None:
    with pytest.raises(GeolocError, match="4 patches cannot be split into 5 groups: ask for 1 to 4"):
        group_sizes(4, 5)
    with pytest.raises(GeolocError, match="into 0 groups"):
        assign_groups(torch.zeros(1, 4), 0, "adaptive")


def naive_groups(scores: list[float], sizes: list[int]) -> list[int]:
    order = sorted(range(len(scores)), key=lambda patch: (-scores[patch], patch))
    groups = [0] * len(scores)
    start = 0
    for group, size in enumerate(sizes):
        for patch in order[start : start + size]:
            groups[patch] = group
        start += size
    return groups


@pytest.mark.parametrize("strategy", STRATEGIES[:3])
@pytest.mark.parametrize("groups", [1, 3, 6])
def test_groups_equal_a_plain_sort(strategy: Strategy, groups: int) -> None:
    rng = np.random.default_rng(groups)
    # Few levels, so that many patches tie.
    scores = rng.integers(0, 9, (4, 64)).astype(np.float32)
    assigned = assign_groups(torch.from_numpy(scores), groups, strategy)
    for row, found in zip(scores.tolist(), assigned.tolist(), strict=True):
        assert found == naive_groups(row, group_sizes(64, groups, strategy))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_groups_are_ordered_by_attention(strategy: Strategy) -> None:
    scores = torch.randn(5, 100, generator=torch.Generator().manual_seed(1))
    assigned = assign_groups(scores, 4, strategy)
    for row, groups in zip(scores, assigned, strict=True):
        for group in range(3):
            assert row[groups == group].min() >= row[groups == group + 1].max()


@pytest.mark.parametrize("weighted", [True, False])
def test_segment_tokens_equal_the_double_loop(weighted: bool) -> None:
    rng = np.random.default_rng(5)
    patches, scores = rng.normal(size=(2, 25, 7)), rng.normal(size=(2, 25))
    assigned = assign_groups(torch.from_numpy(scores), 3)
    tokens = segment_tokens(torch.from_numpy(patches), torch.from_numpy(scores), assigned, 3, weighted)
    for image, group in itertools.product(range(2), range(3)):
        members = [j for j in range(25) if assigned[image, j] == group]
        raw = [math.exp(scores[image, j]) if weighted else 1.0 for j in members]
        weights = [value / sum(raw) for value in raw]
        assert math.isclose(sum(weights), 1.0)
        expected = sum(w * patches[image, j] for w, j in zip(weights, members, strict=True))
        np.testing.assert_allclose(tokens[image, group], expected, atol=1e-5)


def test_equal_scores_weigh_equally() -> None:
    """Constant attention: the first patches form the first group, and weighting changes nothing."""
    patches, scores = torch.randn(1, 256, 4), torch.full((1, 256), 3.7)
    assigned = assign_groups(scores, 3)
    assert assigned[0].tolist() == [0] * 23 + [1] * 63 + [2] * 170
    weighted, plain = (segment_tokens(patches, scores, assigned, 3, flag) for flag in (True, False))
    torch.testing.assert_close(weighted, plain)
    torch.testing.assert_close(plain[0, 1], patches[0, 23:86].mean(0))


def test_the_gradient_reaches_the_scores_through_the_weights_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    patches = torch.randn(1, 30, 5, generator=generator, dtype=torch.float64)
    scores = torch.randn(1, 30, generator=generator, requires_grad=True)
    assigned = assign_groups(scores, 3)
    segment_tokens(patches, scores, assigned, 3, weighted=True).sum().backward()
    assert scores.grad is not None
    for patch in range(30):
        step = torch.zeros_like(scores)
        step[0, patch] = 1e-3
        with torch.no_grad():
            up, down = (segment_tokens(patches, scores + sign * step, assigned, 3, True).sum() for sign in (1, -1))
        assert scores.grad[0, patch].item() == pytest.approx((up - down).item() / 2e-3, abs=2e-2)


def test_adaptive_groups_leave_the_least_spread() -> None:
    """Natural breaks against all splits tried one by one."""
    rng = np.random.default_rng(7)
    count, groups, least = 14, 3, 1
    scores = np.concatenate([rng.normal(4, 0.3, (3, 3)), rng.normal(1, 0.5, (3, 4)), rng.normal(-1, 0.4, (3, 7))], 1)
    assigned = assign_groups(torch.from_numpy(scores), groups, "adaptive")
    spread = score_spread(torch.from_numpy(scores), assigned, groups)
    for image in range(3):
        ranked = sorted(scores[image].astype(np.float32).astype(np.float64), reverse=True)
        best = min(
            sum(((np.array(part) - np.mean(part)) ** 2).sum() for part in (ranked[:i], ranked[i:j], ranked[j:]))
            for i, j in itertools.combinations(range(least, count), 2)
        )
        assert spread[image].item() == pytest.approx(best / count, rel=1e-5)
        assert sorted(np.bincount(assigned[image]).tolist()) == [3, 4, 7]


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_adaptive_groups_hold_a_least_share(groups: int) -> None:
    """One bright patch is no group; flat attention and few patches still give groups without gaps."""
    bright = torch.zeros(1, 256)
    bright[0, 100] = 50.0
    for scores in (bright, torch.zeros(1, 256)):
        sizes = torch.bincount(assign_groups(scores, groups, "adaptive")[0], minlength=groups)
        assert sizes.min() >= 8
    small = assign_groups(torch.arange(6.0)[None], groups, "adaptive")
    assert sorted(set(small[0].tolist())) == list(range(groups))


def test_adaptive_groups_spread_less_than_fixed_ones() -> None:
    scores = torch.distributions.Gamma(1.0, 1.0).sample((8, 256))
    spreads = {s: score_spread(scores, assign_groups(scores, 3, s), 3).mean() for s in STRATEGIES}
    assert spreads["adaptive"] <= min(spreads.values())


@pytest.fixture(scope="module")
def trunk() -> AstTrunk:
    torch.manual_seed(0)
    return AstTrunk("vits16", 64, blocks=2).eval()


def test_scores_are_the_last_blocks_logits(trunk: AstTrunk) -> None:
    """q . k / 8 head by head and patch by patch, in float64, and the mean over the six heads."""
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        scores = trunk(images).scores
        block = trunk.vit.blocks[-1]
        qkv = block.attn.qkv(block.norm1(trunk.enter(images, 1))).double()
    queries, keys = qkv[..., :384], qkv[..., 384:768]
    for image, patch in itertools.product(range(2), range(16)):
        logits = [
            sum(
                float(queries[image, 0, 64 * head + c]) * float(keys[image, 1 + patch, 64 * head + c])
                for c in range(64)
            )
            / 8
            for head in range(6)
        ]
        assert scores[image, patch].item() == pytest.approx(sum(logits) / 6, abs=1e-5)


@pytest.mark.parametrize("name", ["vits16", "vits14"])
def test_tokens_are_those_of_timm(name: TrunkName) -> None:
    """timm's network with the same parameters, which have the same names."""
    torch.manual_seed(0)
    side_px = 64 if name == "vits16" else 56
    trunk = AstTrunk(name, side_px, blocks=2).eval()
    timm_name = {"vits16": "vit_small_patch16_224", "vits14": "vit_small_patch14_dinov2"}[name]
    timm = import_timm().create_model(timm_name, img_size=side_px, depth=2, num_classes=0).eval()
    timm.load_state_dict(trunk.vit.state_dict())
    images = torch.randint(0, 256, (2, 3, side_px, side_px), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    standard = (images / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        out, plain = trunk(images), timm.forward_features(standard)
        halves = trunk.leave(trunk.enter(images, 1), 1)
    torch.testing.assert_close(out.class_token, plain[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out.patches, plain[:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(halves.patches, out.patches)


def test_shipped_trunk_is_the_network_of_timm() -> None:
    """All blocks, with the weights that ship, at the size that flies."""
    trunk = load_retriever("retrieval", "cpu")[0]._network.trunk.float()
    timm = import_timm().create_model("vit_small_patch14_dinov2", img_size=trunk.input_px, num_classes=0).eval()
    timm.load_state_dict(trunk.vit.state_dict())
    images = torch.rand(1, 3, trunk.input_px, trunk.input_px, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        ours, tokens = trunk(images), timm.forward_features((images / 255 - trunk.mean) / trunk.std)
    assert tokens.abs().max() > 1
    torch.testing.assert_close(ours.class_token, tokens[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours.patches, tokens[:, 1:], atol=1e-5, rtol=1e-5)


def test_pictures_that_do_not_split_into_patches_are_refused() -> None:
    with pytest.raises(GeolocError, match="250 px do not split into 16 px patches: give a multiple of 16"):
        AstTrunk("vits16", 250)
