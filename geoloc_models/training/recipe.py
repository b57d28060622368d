# SPDX-License-Identifier: Apache-2.0
"""How networks are trained: optimiser, schedule and what else a run is set to; ours and the papers'."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from geoloc_models.drl.losses import PublishedLoss, published_loss, spatial_cross_entropy


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What all runs have."""

    optimiser: Literal["adamw", "sgd"] = "adamw"
    """sgd: with Nesterov momentum of 0.9."""
    weight_decay: float = 0.02
    schedule: Literal["cosine", "plateau"] = "cosine"
    """cosine: warm-up from a hundredth, then down to a hundredth; plateau: `Plateau`."""
    warmup_batches: int | None = None
    """Of the cosine; None: 2 % of the run."""
    plateau_on: Literal["epoch", "last_batch"] = "epoch"
    """The loss that the plateau watches: the epoch's mean, or its last batch's as published."""
    gradient_norm: float = 10.0
    """Longer gradients are cut to this length."""
    average_decay: float = 0.0
    """Exponential moving average of the weights, which is what is checked and exported; 0: the weights themselves."""
    checkpoint_batches: int = 50
    check_batches: int = 150
    """Batches between two checks on held-out data."""
    best_from: float | None = None
    """Export the weights of the best held-out RDS after this share of the run; None: the last ones."""
    seed: int = 666


@dataclass(frozen=True, kw_only=True)
class LocalizerRecipe(Recipe):
    """One run of a localizer; the defaults are our recipe for image pairs."""

    samples: int = 160_000
    """Query/map pairs in all; the schedule ends here. It may be changed on resuming."""
    maps_per_batch: int = 8
    """In all processes together."""
    learning_rate: float = 1.2e-3
    decay_all: bool = False
    """Whether biases and norms decay too."""
    warmup_batches: int | None = 200
    gradient_norm: float = 2.0
    average_decay: float = 0.998
    target_sigma_nodes: float = 0.7
    """Spread of the soft target; about 1 m of the pairs' truth is noise."""
    loss: PublishedLoss | Literal["spatial"] = "spatial"
    """spatial: cross-entropy of the softmax over the map; wbl and the rest: of single cells, as in the DRL paper."""
    positive_cells: int = 7
    """R: side of the square of positive cells; about 32 / stride - 1."""
    negative_weight: float = 130.0
    """w_neg of wbl and hann."""
    half: bool = True
    """Mixed precision: the network's forward pass in bfloat16; weights, loss and optimiser stay float32."""


DRL_PAPER = LocalizerRecipe(
    learning_rate=1.5e-4,
    weight_decay=5e-4,
    decay_all=True,
    gradient_norm=math.inf,
    warmup_batches=500,
    loss="wbl",
    average_decay=0.0,
    half=False,
    checkpoint_batches=200,
    best_from=0.5,
)
"""Optimisation as in the DRL paper (section IV-B) and its published code, except that the best is chosen on held-out
places."""


@dataclass(frozen=True, kw_only=True)
class RetrieverRecipe(Recipe):
    """One run of a retriever; the defaults are ours, for image pairs without a GPU: all but the trunk's last blocks
    stay as DINOv2 made them."""

    epochs: int = 6
    per_place: int = 1
    """N_sample: draws of each place in an epoch."""
    pairs_per_batch: int = 32
    """In all processes together."""
    head_rate: float = 1e-3
    trunk_rate: float = 1e-4
    trainable_blocks: int | None = 3
    """Of the trunk, counted from its end; None: all of it, embeddings included."""
    seed: int = 42


AST_PAPER = RetrieverRecipe(
    epochs=20,
    per_place=8,
    pairs_per_batch=8,
    optimiser="sgd",
    head_rate=0.01,
    trunk_rate=0.004,
    weight_decay=5e-4,
    schedule="plateau",
    trainable_blocks=None,
)
"""Optimisation as in the AST paper (section 4.2)."""
RETRIEVER_RECIPES = {"paper": AST_PAPER, "cpu": RetrieverRecipe()}


@dataclass(frozen=True, kw_only=True)
class AlignmentRecipe(Recipe):
    """One run of the alignment head, the network frozen."""

    views: int = 6000
    epochs: int = 3
    views_per_batch: int = 16
    other_maps: int = 4
    """Views a batch that are also put beside the window of another map, where they lie nowhere."""
    same_map: int = 0
    """Views a batch that are put beside another part of their own map."""
    negative_share: float = 0.5
    """Weight of the loss of those, against that of the others."""
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    warmup_batches: int | None = 100
    gradient_norm: float = 1.0
    average_decay: float = 0.998
    check_batches: int = 100
    seed: int = 1


def loss_function(recipe: LocalizerRecipe) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of logits (B, 1, H, W) and targets (B, 2), (row, col) fractions of the map's sides."""

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        if recipe.loss != "spatial":
            return published_loss(recipe.loss, logits, target, recipe.positive_cells, recipe.negative_weight)
        nodes = target * target.new_tensor([logits.shape[-2] - 1, logits.shape[-1] - 1])
        return spatial_cross_entropy(logits, nodes, recipe.target_sigma_nodes)

    return loss


def cosine(step: int, total: int, warmup: int) -> float:
    """Share of the learning rate at a batch: up from a hundredth, then down to a hundredth."""
    if step < warmup:
        return 0.01 + 0.99 * step / warmup
    done = (step - warmup) / max(1, total - warmup)
    return max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class Cosine:
    """Warm-up and cosine over a whole run."""

    def __init__(self, recipe: Recipe, total: int) -> None:
        self._total = total
        self._warmup = max(1, total // 50) if recipe.warmup_batches is None else recipe.warmup_batches

    def factor(self, step: int) -> float:
        """Share of the learning rates at a batch."""
        return cosine(step, self._total, self._warmup)

    def end_epoch(self, losses: Sequence[float]) -> None:
        """Nothing depends on the loss."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Plateau:
    """Rates are halved after the second epoch in a row whose loss does not improve by 1e-4 of itself, down to a
    thousandth of the start."""

    def __init__(self, recipe: Recipe, total: int) -> None:
        self._on = recipe.plateau_on
        self._best, self._bad_epochs, self._factor = math.inf, 0, 1.0

    def factor(self, step: int) -> float:
        """Share of the learning rates now."""
        return self._factor

    def end_epoch(self, losses: Sequence[float]) -> None:
        """losses: of the epoch's batches."""
        loss = losses[-1] if self._on == "last_batch" else sum(losses) / len(losses)
        self._bad_epochs = 0 if loss < self._best * (1 - 1e-4) else self._bad_epochs + 1
        self._best = min(self._best, loss)
        if self._bad_epochs > 1:
            self._factor, self._bad_epochs = max(self._factor / 2, 1e-3), 0

    def state_dict(self) -> dict[str, Any]:
        return {"state": [self._best, self._bad_epochs, self._factor]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best, self._bad_epochs, self._factor = state["state"]


SCHEDULES: dict[str, type[Cosine] | type[Plateau]] = {"cosine": Cosine, "plateau": Plateau}
