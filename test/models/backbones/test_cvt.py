# SPDX-License-Identifier: Apache-2.0
"""CvT-13 in the Mix form: parameter counts, a naive reference, asymmetry, odd grids, checkpoints."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from geoloc_models.backbones.cvt import CvtMix, CvtStream, Stage, load_cvt_zoo
from geoloc_models.errors import GeolocError

SMALL = (
    Stage(channels=16, heads=1, blocks=1, kernel=7, stride=4, padding=2),
    Stage(channels=48, heads=3, blocks=2, kernel=3, stride=2, padding=1, drop_path=0.5),
)


def small_cvt() -> CvtMix:
    """A small CvT in float64 whose frozen batch norms are not the identity."""
    torch.manual_seed(3)
    backbone = CvtMix(SMALL).double().eval()
    for name, buffer in backbone.named_buffers():
        buffer.uniform_(0.5, 1.5) if name.endswith(("weight", "running_var")) else buffer.normal_(std=0.3)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
    return backbone


def images(*sizes: tuple[int, int], batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.rand(batch, 3, *size, generator=generator, dtype=torch.float64) for size in sizes]


def test_parameter_counts_are_those_of_the_specification() -> None:
    backbone = CvtMix()
    counts = [sum(p.numel() for p in backbone.get_submodule(f"stage{i}").parameters()) for i in range(3)]
    # Stage 2 without the 384 numbers of the class token, which Mix-Fusion never uses.
    assert counts == [61_312, 1_011_264, 18_513_408 - 384]
    frozen = sum(b.numel() for n, b in backbone.named_buffers() if n.endswith(("weight", "bias")))
    assert sum(counts) + frozen + 384 == 19_611_712  # the count with trainable batch norms


def test_parameter_counts_of_one_stream_are_those_of_the_specification() -> None:
    with torch.device("meta"):
        backbone = CvtStream()
    counts = [sum(p.numel() for p in backbone.get_submodule(f"stage{i}").parameters()) for i in range(3)]
    assert counts == [61_696, 1_013_568, 18_536_448]
    assert sum(p.numel() for p in backbone.parameters()) == 19_611_712


def test_strides_and_channels() -> None:
    backbone = CvtMix().eval()
    with torch.no_grad():
        z, x = backbone(torch.rand(1, 3, 64, 64), torch.rand(1, 3, 128, 96))
    assert [tuple(level.shape[1:]) for level in z] == [(64, 16, 16), (192, 8, 8), (384, 4, 4)]
    assert [tuple(level.shape[1:]) for level in x] == [(64, 32, 24), (192, 16, 12), (384, 8, 6)]


def naive_norm(t: Tensor, norm: nn.Module) -> Tensor:
    mean = t.mean(-1, keepdim=True)
    variance = ((t - mean) ** 2).mean(-1, keepdim=True)
    return (t - mean) / torch.sqrt(variance + 1e-5) * norm.weight + norm.bias


def naive_projection(tokens: Tensor, grid: tuple[int, int], projection: nn.Module, linear: nn.Module) -> Tensor:
    """One image's tokens (n, C) through depthwise convolution, batch norm and linear layer, by loops."""
    height, width = grid
    stride = projection.conv.stride[0]
    padded = functional.pad(tokens.T.reshape(-1, height, width), (1, 1, 1, 1))
    out = []
    for row in range(0, height, stride):
        for col in range(0, width, stride):
            window = padded[:, row : row + 3, col : col + 3]
            out.append((window * projection.conv.weight[:, 0]).sum((1, 2)))
    bn = projection.bn
    normed = (torch.stack(out) - bn.running_mean) / torch.sqrt(bn.running_var + 1e-5) * bn.weight + bn.bias
    return normed @ linear.weight.T + linear.bias


def naive_attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    channels = q.shape[-1]
    out = torch.zeros_like(q)
    for head in range(heads):
        part = slice(head * channels // heads, (head + 1) * channels // heads)
        for row in range(q.shape[0]):
            weights = torch.exp(k[:, part] @ q[row, part] / math.sqrt(channels))
            out[row, part] = (weights[:, None] * v[:, part]).sum(0) / weights.sum()
    return out


def naive_mix(backbone: CvtMix, z: Tensor, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """One pair of images (3, h, w) as the paper draws it: a joint sequence, split to attend."""
    pyramids: tuple[list[Tensor], list[Tensor]] = ([], [])
    pair = [z, x]
    for index in range(len(backbone.channels)):
        stage = backbone.get_submodule(f"stage{index}")
        grids, tokens = [], []
        for image in pair:
            grid = functional.conv2d(
                image[None],
                stage.patch_embed.proj.weight,
                stage.patch_embed.proj.bias,
                SMALL[index].stride,
                SMALL[index].padding,
            )[0]
            grids.append((grid.shape[1], grid.shape[2]))
            tokens.append(naive_norm(grid.flatten(1).T, stage.patch_embed.norm))
        for block in stage.blocks:
            attn = block.attn
            normed = [naive_norm(t, block.norm1) for t in tokens]
            q, k, v = (
                [
                    naive_projection(t, g, getattr(attn, f"conv_proj_{part}"), getattr(attn, f"proj_{part}"))
                    for t, g in zip(normed, grids, strict=True)
                ]
                for part in "qkv"
            )
            attended = [
                naive_attend(q[0], k[0], v[0], attn.heads),
                naive_attend(q[1], torch.cat(k), torch.cat(v), attn.heads),
            ]
            joint = torch.cat(tokens) + torch.cat(attended) @ attn.proj.weight.T + attn.proj.bias
            hidden = naive_norm(joint, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
            hidden = hidden / (1 + torch.exp(-1.702 * hidden))
            joint = joint + hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
            tokens = list(joint.split([len(t) for t in tokens]))
        pair = [t.T.reshape(-1, *g) for t, g in zip(tokens, grids, strict=True)]
        for pyramid, image in zip(pyramids, pair, strict=True):
            pyramid.append(image)
    return pyramids


@pytest.mark.parametrize(("z_size", "x_size"), [((32, 32), (48, 48)), ((28, 36), (52, 41))])
def test_equals_a_naive_joint_sequence(z_size: tuple[int, int], x_size: tuple[int, int]) -> None:
    """Square and even grids, and ones that are neither (spec oracle 4 lies in the comparison of z)."""
    backbone = small_cvt()
    z, x = images(z_size, x_size, batch=2)
    with torch.no_grad():
        ours_z, ours_x = backbone(z, x)
        for sample in range(2):
            naive_z, naive_x = naive_mix(backbone, z[sample], x[sample])
            for ours, naive in zip((*ours_z, *ours_x), (*naive_z, *naive_x), strict=True):
                torch.testing.assert_close(ours[sample], naive, rtol=1e-10, atol=1e-10)


def small_stream() -> CvtStream:
    """The small CvT as one stream, with a class token in its last stage and statistics in its batch norms."""
    torch.manual_seed(5)
    backbone = CvtStream((SMALL[0], replace(SMALL[1], class_token=True))).double().eval()
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
    for name, buffer in backbone.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return backbone


def naive_project_all(tokens: Tensor, count: int, grid: tuple[int, int], attn: nn.Module, part: str) -> Tensor:
    """Queries, keys or values of tokens whose first `count` pass the convolution by."""
    linear = getattr(attn, f"proj_{part}")
    patches = naive_projection(tokens[count:], grid, getattr(attn, f"conv_proj_{part}"), linear)
    return torch.cat((tokens[:count] @ linear.weight.T + linear.bias, patches))


def naive_stream(backbone: CvtStream, image: Tensor) -> Tensor:
    """The last level of one image (3, h, w): the class token is a token like any other but for the convolutions."""
    for index, stage in enumerate((backbone.get_submodule("stage0"), backbone.get_submodule("stage1"))):
        convolution = stage.patch_embed.proj
        grid = functional.conv2d(
            image[None], convolution.weight, convolution.bias, SMALL[index].stride, SMALL[index].padding
        )[0]
        size = (grid.shape[1], grid.shape[2])
        tokens = naive_norm(grid.flatten(1).T, stage.patch_embed.norm)
        if index:
            tokens = torch.cat((stage.cls_token[0], tokens))
        for block in stage.blocks:
            normed, attn = naive_norm(tokens, block.norm1), block.attn
            q, k, v = (naive_project_all(normed, index, size, attn, part) for part in "qkv")
            attended = naive_attend(q, k, v, attn.heads)
            tokens = tokens + attended @ attn.proj.weight.T + attn.proj.bias
            hidden = naive_norm(tokens, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
            tokens = tokens + (hidden / (1 + torch.exp(-1.702 * hidden))) @ block.mlp.fc2.weight.T + block.mlp.fc2.bias
        image = tokens[index:].T.reshape(-1, *size)
    return image


def test_one_stream_with_class_token_equals_a_naive_one() -> None:
    backbone = small_stream()
    (image,) = images((36, 28))
    with torch.no_grad():
        level = backbone(image)[-1]
        for sample in range(2):
            torch.testing.assert_close(level[sample], naive_stream(backbone, image[sample]), rtol=1e-10, atol=1e-10)


def test_batch_norms_of_one_stream_learn() -> None:
    backbone = small_stream().train()
    norm = backbone.get_submodule("stage0.blocks.0.attn.conv_proj_q.bn")
    before = norm.running_mean.clone()
    backbone(images((32, 32))[0])[-1].sum().backward()
    assert not torch.equal(norm.running_mean, before)
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_zoo_checkpoint_fills_class_token_and_counters_of_one_stream() -> None:
    source = small_stream()
    state = {key: value.clone() for key, value in source.state_dict().items()}
    target = CvtStream((SMALL[0], replace(SMALL[1], class_token=True))).double()
    load_cvt_zoo(target, {**state, "norm.weight": torch.ones(48), "head.bias": torch.ones(10)})
    assert all(torch.equal(value, state[key]) for key, value in target.state_dict().items())
    del state["stage1.cls_token"]
    with pytest.raises(GeolocError, match=r"lacks stage1\.cls_token"):
        load_cvt_zoo(target, state)


def test_query_never_sees_the_map() -> None:
    backbone = small_cvt()
    z, x1, x2 = images((32, 32), (48, 48), (64, 40))
    with torch.no_grad():
        z1, _ = backbone(z, x1)
        z2, _ = backbone(z, x2)
        alone = backbone.encode_query(z).pyramid
    for first, second, third in zip(z1, z2, alone, strict=True):
        assert torch.equal(first, second)
        assert torch.equal(first, third)


def test_map_sees_the_query_and_only_its_own_sample() -> None:
    backbone = small_cvt()
    z, other, x = images((32, 32), (32, 32), (48, 48))
    with torch.no_grad():
        _, first = backbone(z, x)
        _, second = backbone(torch.cat((z[:1], other[1:])), x)
    assert torch.allclose(first[-1][0], second[-1][0])
    assert not torch.allclose(first[-1][1], second[-1][1])


def test_map_without_query_keys_is_plain_cvt() -> None:
    """Spec oracle 4: mixed attention whose foreign keys are masked out is plain self-attention."""
    backbone = small_cvt()
    (image,) = images((32, 40))
    with torch.no_grad():
        alone = backbone.encode_query(image)
        empty = tuple((keys[:, :, :0], values[:, :, :0]) for keys, values in alone.keys_values)
        as_map, _ = backbone.run(image, empty)
    for first, second in zip(alone.pyramid, as_map, strict=True):
        torch.testing.assert_close(first, second)


def test_stochastic_depth_only_in_training() -> None:
    backbone = small_cvt()
    (z,) = images((32, 32))
    with torch.no_grad():
        steady = [backbone.encode_query(z).pyramid[-1] for _ in range(2)]
        backbone.train()
        shaken = [backbone.encode_query(z).pyramid[-1] for _ in range(8)]
    assert torch.equal(*steady)
    assert any(not torch.equal(shaken[0], other) for other in shaken[1:])


def test_frozen_batch_norm_equals_batch_norm_in_evaluation_and_never_changes() -> None:
    backbone = small_cvt()
    frozen = backbone.get_submodule("stage0.blocks.0.attn.conv_proj_q.bn")
    reference = nn.BatchNorm2d(16).double().eval()
    reference.load_state_dict({**frozen.state_dict(), "num_batches_tracked": torch.tensor(0)})
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    grid = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    torch.testing.assert_close(frozen.train()(grid), reference(grid))
    assert all(torch.equal(value, before[name]) for name, value in frozen.state_dict().items())
    assert not list(frozen.parameters())


def zoo_checkpoint(backbone: CvtMix) -> dict[str, Tensor]:
    """The backbone's weights in the dress of a classification checkpoint."""
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    counters = {
        key.replace("running_var", "num_batches_tracked"): torch.tensor(5) for key in state if "running_var" in key
    }
    extra = {"stage1.cls_token": torch.zeros(1, 1, 48), "norm.weight": torch.ones(48), "norm.bias": torch.ones(48)}
    return {**state, **counters, **extra, "head.weight": torch.ones(10, 48), "head.bias": torch.ones(10)}


def test_zoo_checkpoint_loads_and_leaves_out_what_has_no_place() -> None:
    source = small_cvt()
    target = CvtMix(SMALL).double().eval()
    load_cvt_zoo(target, zoo_checkpoint(source))
    z, x = images((32, 32), (48, 48))
    with torch.no_grad():
        for first, second in zip(source(z, x)[1], target(z, x)[1], strict=True):
            assert torch.equal(first, second)


def test_unfit_zoo_checkpoints_are_refused() -> None:
    backbone = small_cvt()
    key = "stage0.blocks.0.attn.proj_q.weight"
    good = zoo_checkpoint(backbone)
    cases = {
        "lacks": {name: value for name, value in good.items() if name != key},
        "unknown": {**good, "stage0.blocks.1.norm1.weight": torch.ones(16)},
        "shape": {**good, key: torch.ones(3, 3)},
    }
    for word, state in cases.items():
        with pytest.raises(GeolocError, match=word):
            load_cvt_zoo(backbone, state)
