# SPDX-License-Identifier: Apache-2.0
"""ViT-S/14 in the Mix form against a naive float64 DINOv2: positions, asymmetry, loading."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from geoloc_models.backbones.vit import VitMix, VitShape, load_dinov2
from geoloc_models.errors import GeolocError

SMALL = VitShape(channels=24, blocks=2, heads=3, patch_px=14, position_grid=5)


def small_vit() -> VitMix:
    torch.manual_seed(5)
    backbone = VitMix(SMALL).double().eval()
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return backbone


@pytest.fixture(scope="module")
def dinov2(shared_data: Path) -> dict[str, Tensor]:
    path = shared_data / "weights" / "dinov2_vits14_fp16.safetensors"
    if not path.is_file():
        pytest.skip(f"no DINOv2 weights at {path}")
    return load_file(path)


def cubic_matrix(n_in: int, n_out: int) -> np.ndarray:
    """(n_out, n_in) weights of a bicubic (a = -0.5) resize whose kernel widens when shrinking."""

    def cubic(t: np.ndarray) -> np.ndarray:
        t = np.abs(t)
        near = 1.5 * t**3 - 2.5 * t**2 + 1
        far = -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        return np.where(t < 1, near, np.where(t < 2, far, 0))

    ratio = n_in / n_out
    centres = (np.arange(n_out) + 0.5) * ratio
    weights = cubic((np.arange(n_in) + 0.5 - centres[:, None]) / max(ratio, 1.0))
    return weights / weights.sum(1, keepdims=True)


def naive_dinov2(image: Tensor, state: dict[str, Tensor], heads: int, blocks: int) -> Tensor:
    """Patch tokens (n, C) in float64 of one standardised image (3, H, W), head by head."""
    w = {key: value.double() for key, value in state.items()}
    channels = w["norm.weight"].shape[0]
    patch = w["patch_embed.proj.weight"].shape[-1]
    patches = functional.unfold(image[None], patch, stride=patch)[0].T
    tokens = patches @ w["patch_embed.proj.weight"].flatten(1).T + w["patch_embed.proj.bias"]
    height, width = image.shape[1] // patch, image.shape[2] // patch
    side = math.isqrt(w["pos_embed"].shape[1] - 1)
    learned = w["pos_embed"][0, 1:].reshape(side, side, channels).numpy()
    positions = np.einsum("ia,jb,abc->ijc", cubic_matrix(side, height), cubic_matrix(side, width), learned)
    tokens = tokens + torch.from_numpy(positions.reshape(-1, channels))
    tokens = torch.cat((w["cls_token"][0] + w["pos_embed"][0, :1], tokens))

    def norm(t: Tensor, name: str) -> Tensor:
        centred = t - t.mean(-1, keepdim=True)
        return (
            centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]
        )

    for index in range(blocks):
        b = f"blocks.{index}"
        qkv = norm(tokens, f"{b}.norm1") @ w[f"{b}.attn.qkv.weight"].T + w[f"{b}.attn.qkv.bias"]
        q, k, v = qkv.split(channels, dim=1)
        d = channels // heads
        mixed = []
        for head in range(heads):
            part = slice(head * d, (head + 1) * d)
            scores = torch.exp(q[:, part] @ k[:, part].T / math.sqrt(d))
            mixed.append(scores / scores.sum(1, keepdim=True) @ v[:, part])
        out = torch.cat(mixed, 1) @ w[f"{b}.attn.proj.weight"].T + w[f"{b}.attn.proj.bias"]
        tokens = tokens + w[f"{b}.ls1.gamma"] * out
        hidden = norm(tokens, f"{b}.norm2") @ w[f"{b}.mlp.fc1.weight"].T + w[f"{b}.mlp.fc1.bias"]
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
        tokens = tokens + w[f"{b}.ls2.gamma"] * (hidden @ w[f"{b}.mlp.fc2.weight"].T + w[f"{b}.mlp.fc2.bias"])
    return norm(tokens, "norm")[1:]


@pytest.mark.parametrize("size", [(70, 70), (42, 56), (98, 70)])
def test_one_image_alone_is_dinov2(size: tuple[int, int]) -> None:
    """Learned grid, smaller and larger grids, not square."""
    backbone = small_vit()
    image = torch.rand(1, 3, *size, dtype=torch.float64)
    standard = (image - backbone.mean) / backbone.std
    with torch.no_grad():
        ours = backbone.encode_query(image).pyramid[0][0].flatten(1).T
        expected = naive_dinov2(standard[0], backbone.state_dict(), SMALL.heads, SMALL.blocks)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_shared_weights_give_dinov2_features(dinov2: dict[str, Tensor]) -> None:
    backbone = VitMix().eval()
    load_dinov2(backbone, dinov2)
    assert sum(p.numel() for p in backbone.parameters()) == 22_056_192
    image = torch.rand(1, 3, 126, 98, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = backbone.encode_query(image).pyramid[0][0].flatten(1).T
        expected = naive_dinov2(((image - backbone.mean) / backbone.std)[0].double(), dinov2, heads=6, blocks=12)
    assert expected.abs().max() > 1  # features, not zeros
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=2e-3)


def test_query_never_sees_the_map_and_the_map_sees_the_query() -> None:
    backbone = small_vit()
    z1, z2, x1, x2 = (torch.rand(2, 3, h, w, dtype=torch.float64) for h, w in ((42, 42), (42, 42), (70, 70), (56, 84)))
    with torch.no_grad():
        first_z, first_x = backbone(z1, x1)
        second_z, _ = backbone(z1, x2)
        _, other_x = backbone(z2, x1)
        assert torch.equal(first_z[0], second_z[0])
        assert torch.equal(first_z[0], backbone.encode_query(z1).pyramid[0])
    assert first_x[0].shape == (2, 24, 5, 5)
    assert (first_x[0] - other_x[0]).abs().max() > 1e-3


def test_map_without_query_keys_is_dinov2_too() -> None:
    backbone = small_vit()
    image = torch.rand(2, 3, 56, 42, dtype=torch.float64)
    with torch.no_grad():
        alone = backbone.encode_query(image)
        empty = tuple((keys[:, :, :0], values[:, :, :0]) for keys, values in alone.keys_values)
        as_map, _ = backbone.run(image, empty)
    torch.testing.assert_close(alone.pyramid[0], as_map[0])


def test_sides_that_are_no_multiple_of_the_patch_are_refused() -> None:
    with pytest.raises(GeolocError, match="60x42 px"):
        small_vit().encode_query(torch.rand(1, 3, 42, 60))


def test_unfit_weights_are_refused() -> None:
    backbone = small_vit()
    state = backbone.state_dict()
    state.pop("norm.weight")
    with pytest.raises(GeolocError, match=r"norm\.weight"):
        load_dinov2(backbone, state)
    with pytest.raises(GeolocError, match="vit_small_patch14_dinov2"):
        load_dinov2(backbone, {**backbone.state_dict(), "cls_token": torch.zeros(1, 1, 7)})
