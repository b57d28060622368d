# SPDX-License-Identifier: Apache-2.0
"""A network cut where its inputs meet: what depends on the view alone, on the map alone, and on both.

Each part is plain arithmetic on tensors of any height and width, which every engine can compile. What an engine has
computed once it can cache: a view's part serves all candidate maps, a map's part all views. Between and after the parts
PyTorch adds, in float32 and the same for all engines, what is cheap or known nowhere else: correlation by FFT and the
sum of logits.

Networks on CvT mix in their very first block, so nothing of a map can be cached: what precedes it, one convolution and
one layer norm, is 0.4 % of their arithmetic.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from geoloc_models.backbones.cvt import Attention as CvtAttention
from geoloc_models.backbones.cvt import CvtMix, CvtStream
from geoloc_models.backbones.mixed_attention import QueryFeatures
from geoloc_models.backbones.vit_trunk import cell_grid, resampled_positions
from geoloc_models.drl.alignment_head import AlignmentHead
from geoloc_models.drl.compact_mix_fusion import CompactMixFusion, cells_to_nodes, standardise
from geoloc_models.drl.heads import GroupCorrelation, correlate_spectrum, map_spectrum
from geoloc_models.drl.hybrid_mix_fusion import HybridMixFusion, resized
from geoloc_models.drl.mix_fusion import MixFusion
from geoloc_models.drl.post_fusion import PostFusion
from geoloc_models.drl.presets import Network
from geoloc_models.engines.folding import composed, folded

Tensors = tuple[Tensor, ...]

IMAGE = {"image": ("B", "H", "W", 3)}
"""Images as they come: uint8 RGB."""
_KEYS = ("B", 3, "n", 64)
"""Keys and values of a mixing block."""


@dataclass(frozen=True)
class Part:
    """module: tensors in, tuple of tensors out. inputs: name -> axes, a letter where any size goes; outputs: names."""

    module: nn.Module
    inputs: Mapping[str, Sequence[str | int]]
    outputs: Sequence[str]


class Parts(ABC):
    """query: (image, *geometry) -> features. map: the same of a map, missing where nothing of a map stands alone.
    mix: what `mix_inputs` names -> tensors that `finish` needs; missing where the features suffice.
    """

    parts: dict[str, Part]
    rest: nn.Module
    alignment: AlignmentHead | None = None
    """What `finish` computes with, in float32."""
    exportable = True
    """Whether the parts are arithmetic that other runtimes know."""

    def forget_modules(self) -> None:
        """Free the parts' weights: another runtime has them."""
        for name, part in self.parts.items():
            self.parts[name] = replace(part, module=nn.Identity())

    def geometry(self, height: int, width: int, query_px: int) -> Tensors:
        """Further inputs of `query` and `map` for images of this size, where views have query_px a side."""
        return ()

    def cacheable(self, features: Tensors, query: Tensors) -> Tensors:
        """What is cached of a map's features for further views like `query`."""
        return features

    def descriptors(self, query: Tensors, search: Tensors) -> tuple[Tensor, Tensor] | None:
        """Of views and maps, for fine alignment; None without a head for it."""
        return None

    @abstractmethod
    def mix_inputs(self, query: Tensors, search: Tensors) -> tuple[Tensors, Tensors]:
        """What `mix` takes first, of the map, and then, of the view."""

    @abstractmethod
    def finish(self, query: Tensors, search: Tensors, mixed: Tensors, map_px: tuple[int, int]) -> Tensor:
        """Logits (B * K, 1, R, C) float32 of K views a map; map_px: (H, W) of the maps."""


def parts_of(network: Network) -> Parts:
    """The parts of a network, without what needs no computing (`engines.folding`)."""
    network = folded(network)
    if isinstance(network, HybridMixFusion):
        return HybridParts(network)
    if isinstance(network, CompactMixFusion):
        return CompactParts(network)
    return MixParts(network) if isinstance(network, MixFusion) else PostParts(network)


class _Fine(nn.Module):
    """The neck of a compact network and one of GC's projections behind it, as one convolution; and the features that
    alignment describes, where the network has a head for it.
    """

    def __init__(self, network: CompactMixFusion | HybridMixFusion, projection: nn.Conv2d) -> None:
        super().__init__()
        self.neck = network.neck
        self.smooth = composed(network.neck.smooth, projection)
        self.describes = network.alignment is not None

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        merged = self.neck.merge(levels)
        return self.smooth(merged), self.neck.smooth(merged) if self.describes else None


class _CompactEncoder(nn.Module):
    def __init__(self, network: CompactMixFusion, of_query: bool) -> None:
        super().__init__()
        head = network.correlation
        self.backbone = network.backbone
        self.fine = _Fine(network, head.project_z if of_query else head.project_x)
        self.of_query = of_query
        self.alignment = network.alignment

    def forward(self, image: Tensor) -> Tensors:
        levels = self.backbone(_standard(image, self.backbone))
        own = _flat(self.backbone.mix_query(levels[-1])) if self.of_query else (levels[-1],)
        fine, features = self.fine(levels)
        described = () if self.alignment is None else (self.alignment(features),)
        return (fine, *own, *described)


class _HybridEncoder(nn.Module):
    def __init__(self, network: HybridMixFusion, of_query: bool) -> None:
        super().__init__()
        head, semantic = network.correlation, network.semantic
        self.network = network
        projection = head.project_z if of_query else head.project_x
        self.fine = _Fine(network, projection)
        self.to_fine = composed(network.to_fine, projection)
        assert self.to_fine.bias is not None and projection.bias is not None
        self.to_fine.bias.data -= projection.bias  # the neck has added it already
        self.project = semantic.project_z if of_query else semantic.project_x
        self.of_query = of_query

    def forward(self, image: Tensor, rows: Tensor, columns: Tensor, positions: Tensor) -> Tensors:
        network = self.network
        small = rows @ _first_channels(image) @ columns
        tokens = network.trunk.tokens_of(small, positions.to(network.trunk.cls_token.dtype))
        semantic = network.semantic_norm(tokens)
        levels = network.levels(_standard(image, network.backbone), semantic)
        fine, features = self.fine(levels)
        fine = fine + resized(self.to_fine(semantic), fine)
        own = _flat(network.backbone.mix_query(levels[-1])) if self.of_query else (levels[-1],)
        described: Tensors = ()
        if network.alignment is not None:
            described = (network.alignment(features + resized(network.to_fine(semantic), features)),)
        return (fine, self.project(semantic), *own, *described)


class _Mixer(nn.Module):
    """Map tokens, then keys and values of each block -> context logits a token."""

    def __init__(self, network: CompactMixFusion | HybridMixFusion) -> None:
        super().__init__()
        self.backbone = network.backbone
        self.context = network.context

    def forward(self, coarse: Tensor, *keys_values: Tensor) -> Tensors:
        return (self.context(self.backbone.mix_search(coarse, list(_pairs(keys_values)))),)


class CompactParts(Parts):
    """Fine features, then the query's keys and values or the map's stride-16 tokens."""

    _first = 1
    """How many features are correlated."""

    def __init__(self, network: CompactMixFusion) -> None:
        # Their projections are in the parts already.
        self._correlation = _bare(network.correlation)
        self.alignment = copy.deepcopy(network.alignment)
        self.rest = nn.ModuleList(m for m in (self._correlation, self.alignment) if m is not None)
        self._keys, of_mix = _keys_of_mix(network, network.backbone.channels[-1])
        described = () if network.alignment is None else ("descriptors",)
        self.parts = {
            "query": Part(_CompactEncoder(network, True), IMAGE, ("fine", *self._keys, *described)),
            "map": Part(_CompactEncoder(network, False), IMAGE, ("fine", "coarse", *described)),
            "mix": Part(_Mixer(network), of_mix, ("context",)),
        }

    def cacheable(self, features: Tensors, query: Tensors) -> Tensors:
        spectra = (map_spectrum(x, _sides(z)) for x, z in zip(features[: self._first], query, strict=False))
        return (*spectra, *features[self._first :])

    def descriptors(self, query: Tensors, search: Tensors) -> tuple[Tensor, Tensor] | None:
        """As Parts."""
        return None if self.alignment is None else (query[-1], search[-1])

    def mix_inputs(self, query: Tensors, search: Tensors) -> tuple[Tensors, Tensors]:
        return search[self._first : self._first + 1], query[self._first : self._first + len(self._keys)]

    def finish(self, query: Tensors, search: Tensors, mixed: Tensors, map_px: tuple[int, int]) -> Tensor:
        fine = _correlated(self._correlation, query[0], search[0], map_px, 4)
        return fine + cells_to_nodes(mixed[0].float(), fine.shape[-2:])


class HybridParts(CompactParts):
    """As the compact network's, with the trunk's projected features as the second that are correlated."""

    _first = 2

    def __init__(self, network: HybridMixFusion) -> None:
        self._correlation, self._semantic = _bare(network.correlation), _bare(network.semantic)
        self.alignment = copy.deepcopy(network.alignment)
        self.rest = nn.ModuleList(m for m in (self._correlation, self._semantic, self.alignment) if m is not None)
        self._positions = network.trunk.pos_embed.detach().clone()
        self._patch_px = network.trunk.patch_px
        self._cell_px = network.cell_px
        self._context_nodes = network.context_nodes
        self._geometry = lru_cache(maxsize=32)(self._make_geometry)
        self._keys, of_mix = _keys_of_mix(network, network.backbone.channels[-1])
        described = () if network.alignment is None else ("descriptors",)
        channels = network.trunk.pos_embed.shape[-1]
        inputs = {**IMAGE, "rows": ("h", "H"), "columns": ("W", "w"), "positions": (1, "n", channels)}
        self.parts = {
            "query": Part(_HybridEncoder(network, True), inputs, ("fine", "semantic", *self._keys, *described)),
            "map": Part(_HybridEncoder(network, False), inputs, ("fine", "semantic", "coarse", *described)),
            "mix": Part(_Mixer(network), of_mix, ("context",)),
        }

    def geometry(self, height: int, width: int, query_px: int) -> Tensors:
        """The antialiased resizing to the trunk's cells as two matrices (exact: it is linear and separable), and the
        positions of its tokens.
        """
        return self._geometry(height, width, query_px)

    @torch.inference_mode()
    def _make_geometry(self, height: int, width: int, query_px: int) -> Tensors:
        grid = cell_grid(height, width, self._cell_px(query_px))
        rows, columns = (
            _resizing(side, cells * self._patch_px) for side, cells in zip((height, width), grid, strict=True)
        )
        device = self._correlation.scale.device
        positions = resampled_positions(self._positions, grid)
        return rows.to(device), columns.T.contiguous().to(device), positions.to(device)

    def finish(self, query: Tensors, search: Tensors, mixed: Tensors, map_px: tuple[int, int]) -> Tensor:
        fine = _correlated(self._correlation, query[0], search[0], map_px, 4)
        cells = cell_grid(*map_px, self._cell_px(4 * query[0].shape[-1]))
        rough = _correlated(self._semantic, query[1], search[1], cells, 1)
        size = fine.shape[-2:]
        rough = F.interpolate(rough, size=tuple(size), mode="bilinear", align_corners=True)
        return fine + rough + self._context_nodes(mixed[0], size)


class _MixQuery(nn.Module):
    def __init__(self, network: MixFusion) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensors:
        network = self.network
        features = network.backbone.encode_query(_unit(image, network.backbone))
        template = () if network.query_neck is None else (network.query_neck(features.pyramid),)
        return (*template, *_flat(features.keys_values))


class _MixMap(nn.Module):
    """The map under keys and values of the view: features to correlate, or logits."""

    def __init__(self, network: MixFusion) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, *keys_values: Tensor) -> Tensors:
        network = self.network
        x = _unit(image, network.backbone)
        pyramid = network.neck(network.backbone.forward_map(QueryFeatures((), tuple(_pairs(keys_values))), x))
        return (pyramid if isinstance(network.head, GroupCorrelation) else network.head(pyramid),)


class MixParts(Parts):
    """One-stream networks: keys and values of every block go from the view's part to the map's."""

    def __init__(self, network: MixFusion) -> None:
        # A copy: the parts' own may be turned to half precision.
        self.rest, self._enlarge = copy.deepcopy(network.head), network.enlarge
        self._correlates = isinstance(network.head, GroupCorrelation)
        self.exportable = isinstance(network.backbone, CvtMix)
        keys: dict[str, Sequence[str | int]] = {}
        if isinstance(network.backbone, CvtMix):
            blocks = (m for m in network.backbone.modules() if isinstance(m, CvtAttention))
            for number, block in enumerate(blocks):
                for kind in ("keys", "values"):
                    keys[f"{kind}{number}"] = ("B", block.heads, f"n{number}", 64)
        template = ("template",) if self._correlates else ()
        self.parts = {
            "query": Part(_MixQuery(network), IMAGE, (*template, *keys)),
            "mix": Part(_MixMap(network), {**IMAGE, **keys}, ("answer",)),
        }

    def mix_inputs(self, query: Tensors, search: Tensors) -> tuple[Tensors, Tensors]:
        return search, query[self._correlates :]

    def finish(self, query: Tensors, search: Tensors, mixed: Tensors, map_px: tuple[int, int]) -> Tensor:
        answer = mixed[0].float()
        logits = self.rest(query[0].float(), answer) if self._correlates else answer
        return logits if self._enlarge is None else self._enlarge(logits, torch.Size(map_px))


class _PostStream(nn.Module):
    def __init__(self, backbone: nn.Module, neck: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck

    def forward(self, image: Tensor) -> Tensors:
        return (self.neck(self.backbone(_unit(image, self.backbone))),)


class PostParts(Parts):
    """Two streams that meet in the head."""

    def __init__(self, network: PostFusion) -> None:
        self.rest, self._enlarge = network.head, network.enlarge
        self.exportable = isinstance(network.query_backbone, CvtStream)
        map_backbone = network.map_backbone or network.query_backbone
        self.parts = {
            "query": Part(_PostStream(network.query_backbone, network.query_neck), IMAGE, ("template",)),
            "map": Part(_PostStream(map_backbone, network.map_neck), IMAGE, ("features",)),
        }

    def mix_inputs(self, query: Tensors, search: Tensors) -> tuple[Tensors, Tensors]:
        return (), ()

    def finish(self, query: Tensors, search: Tensors, mixed: Tensors, map_px: tuple[int, int]) -> Tensor:
        logits: Tensor = self.rest(query[0].float(), search[0].float())
        return logits if self._enlarge is None else self._enlarge(logits, torch.Size(map_px))


def _keys_of_mix(
    network: CompactMixFusion | HybridMixFusion, channels: int
) -> tuple[list[str], dict[str, Sequence[str | int]]]:
    """Names of keys and values of all mixing blocks, and the inputs of the part that mixes."""
    keys = [f"{kind}{block}" for block in range(len(network.backbone.mix)) for kind in ("keys", "values")]
    return keys, {"coarse": ("B", channels, "h", "w"), **dict.fromkeys(keys, _KEYS)}


def _correlated(head: GroupCorrelation, z: Tensor, spectrum: Tensor, map_px: tuple[int, ...], stride_px: int) -> Tensor:
    """GC's logits of projected features; map_px: (H, W) of what the spectrum is of, times stride_px."""
    logits = correlate_spectrum(spectrum, [side // stride_px for side in map_px], z, head.padding)
    return head.scaled(logits, z)


def _standard(image: Tensor, backbone: nn.Module) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W), standardised in float32, in the backbone's own type."""
    return standardise(_first_channels(image)).to(next(backbone.parameters()).dtype)


def _unit(image: Tensor, backbone: nn.Module) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W), 0..1, in the backbone's own type."""
    return (_first_channels(image) / 255.0).to(next(backbone.parameters()).dtype)


def _bare(head: GroupCorrelation) -> GroupCorrelation:
    """A GC head without its projections."""
    head = copy.deepcopy(head)
    del head.project_z, head.project_x
    return head


def _first_channels(image: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32."""
    return image.float().permute(0, 3, 1, 2)


def _resizing(side: int, to: int) -> Tensor:
    """(to, side): the antialiased bilinear resizing of one axis as a matrix."""
    return F.interpolate(torch.eye(side)[None, None], size=(to, side), mode="bilinear", antialias=True)[0, 0]


def _sides(z: Tensor) -> tuple[int, int]:
    return z.shape[-2], z.shape[-1]


def _flat(pairs: Sequence[tuple[Tensor, Tensor]]) -> Tensors:
    return tuple(tensor for pair in pairs for tensor in pair)


def _pairs(flat: Sequence[Tensor]) -> zip:
    return zip(flat[::2], flat[1::2], strict=True)
