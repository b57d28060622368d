# SPDX-License-Identifier: Apache-2.0
"""Asymmetric mixed attention (DRL paper, section III-B2), shared by all Mix-Fusion backbones.

The query view z attends to itself only; the search map x attends to the concatenation of z and x. So nothing of z
depends on x: x needs only the keys and values of z, and one encoding of the view yields them exactly for any number of
maps.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

KeysValues = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class QueryFeatures:
    """What the search map needs of a query view.

    pyramid: feature maps (B, C_i, h_i, w_i), finest first.
    keys_values: for every block in order, keys and values (B, heads, tokens, head_dim).
    """

    pyramid: tuple[Tensor, ...]
    keys_values: tuple[KeysValues, ...]

    def expand(self, batch: int) -> "QueryFeatures":
        """The same view for `batch` maps (a view of the memory, no copy); only a batch of one is repeated."""

        def repeat(tensor: Tensor) -> Tensor:
            return tensor.expand(batch, *tensor.shape[1:])

        return QueryFeatures(
            tuple(repeat(level) for level in self.pyramid),
            tuple((repeat(keys), repeat(values)) for keys, values in self.keys_values),
        )


class Mlp(nn.Module):
    """Two linear layers with an activation between; the keys are those of all published checkpoints."""

    def __init__(self, channels: int, activation: nn.Module, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.act = activation
        self.fc2 = nn.Linear(ratio * channels, channels)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(tokens)))


class MixBackbone(nn.Module, ABC):
    """A one-stream backbone; images are (B, 3, H, W), RGB in 0..1, and z and x may differ in size.

    channels: of the levels of a pyramid, finest first. multiple_px: sides that are multiples of it fill every
    level.
    """

    channels: tuple[int, ...]
    multiple_px: int

    @abstractmethod
    def run(
        self, image: Tensor, context: tuple[KeysValues, ...] | None
    ) -> tuple[tuple[Tensor, ...], tuple[KeysValues, ...]]:
        """Pyramid of one image and its own keys and values; context: those of the query view, for a map."""

    def encode_query(self, z: Tensor) -> QueryFeatures:
        """Everything any search map needs of the view z."""
        return QueryFeatures(*self.run(z, None))

    def forward_map(self, query: QueryFeatures, x: Tensor) -> tuple[Tensor, ...]:
        """The pyramid of the map x given a view of the same batch size."""
        return self.run(x, query.keys_values)[0]

    def forward(self, z: Tensor, x: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Pyramids of z and x."""
        query = self.encode_query(z)
        return query.pyramid, self.forward_map(query, x)


def mixed_attention(queries: Tensor, own: KeysValues, context: KeysValues | None, scale: float) -> Tensor:
    """Attend to the context's and the image's own tokens.

    queries: (B, heads, n, d); own: keys and values (B, heads, m, d) of the same image; context: those of the
    query view, or None while the query view itself is encoded. Returns (B, heads, n, d).
    """
    keys, values = own
    if context is not None:
        keys = torch.cat((context[0], keys), dim=2)
        values = torch.cat((context[1], values), dim=2)
    return functional.scaled_dot_product_attention(queries, keys, values, scale=scale)


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, n, C) -> (B, heads, n, C / heads)."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(tokens: Tensor) -> Tensor:
    """(B, heads, n, d) -> (B, n, heads * d)."""
    return tokens.transpose(1, 2).flatten(2)


def to_grid(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, h * w, C) -> (B, C, h, w)."""
    # Not unflatten: exporters would freeze the sizes of their example as constants.
    return tokens.transpose(1, 2).reshape(tokens.shape[0], tokens.shape[2], grid[0], grid[1])


def to_tokens(grid: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h * w, C)."""
    return grid.flatten(2).transpose(1, 2)


class DropPath(nn.Module):
    """Stochastic depth: leave a residual branch out for a random share of the samples, in training only."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.probability == 0.0:
            return branch
        keep = 1.0 - self.probability
        mask = branch.new_empty((branch.shape[0],) + (1,) * (branch.ndim - 1)).bernoulli_(keep)
        return branch * mask / keep
