# SPDX-License-Identifier: Apache-2.0
"""Whole trainings as data: the published recipes, and those of the networks that ship.

`geoloc train DATA PLAN` runs a plan; its stages are runs in folders of their own, each resumable.
"""

from dataclasses import dataclass, replace
from typing import Literal

from geoloc_models.training.recipe import AST_PAPER, AlignmentRecipe, LocalizerRecipe, RetrieverRecipe


@dataclass(frozen=True)
class Stage:
    """One run of a localizer on image pairs; it starts from the weights of the stage before it."""

    recipe: LocalizerRecipe
    query_px: int
    """Side of the views; maps are three times as wide."""


@dataclass(frozen=True)
class LocalizerPlan:
    """A localizer on image pairs."""

    about: str
    preset: str
    stages: tuple[Stage, ...]
    sources: tuple[str, ...] = ("levir", "srif", "dsifn", "tiles")
    """Image pairs that it trains on (`datasets.image_pairs`)."""
    start_from: str | None = None
    """Weights that the first stage starts from, by name."""
    blend: float | None = None
    """Share of the trained weights when blended with the compact network (`blend.py`); None: not blended."""
    calibrate: bool = False
    """Whether the temperature is fitted anew by how often the peak is right (`geoloc calibrate`)."""


@dataclass(frozen=True)
class RetrieverPlan:
    """A retriever; data: what the folder must be."""

    about: str
    preset: str
    data: Literal["pairs", "university1652", "denseuav"]
    recipe: RetrieverRecipe


@dataclass(frozen=True)
class AlignmentPlan:
    """The alignment head of trained weights; each run goes on from the head of the one before it.

    All runs draw the same views; a run on more of them has the views of the others among its own.
    """

    about: str
    weights: str
    """Whose features the head reads, by name; they stay as they are."""
    stages: tuple[AlignmentRecipe, ...]
    sources: tuple[str, ...] = ("levir", "srif", "dsifn", "naip", "tiles")
    """Image pairs that it trains on."""
    held_out_views: int = 400


_HYBRID = LocalizerRecipe(weight_decay=0.05)

PLANS: dict[str, LocalizerPlan | AlignmentPlan | RetrieverPlan] = {
    "shipped/mix_compact": LocalizerPlan(
        "mix_compact on image pairs", "mix_compact", (Stage(LocalizerRecipe(samples=125_000), 96),)
    ),
    "shipped/mix_hybrid": LocalizerPlan(
        "mix_hybrid, the default: from mix_compact and DINOv2, in three runs of growing views",
        "mix_hybrid",
        (
            Stage(replace(_HYBRID, samples=16_800), 96),
            Stage(replace(_HYBRID, samples=16_200, maps_per_batch=6, learning_rate=6e-4), 128),
            Stage(replace(_HYBRID, samples=4_560, maps_per_batch=4, learning_rate=4e-4), 192),
        ),
        start_from="mix_compact",
        blend=0.35,
        calibrate=True,
    ),
    "shipped/alignment": AlignmentPlan(
        "the alignment head of the default",
        "default",
        (AlignmentRecipe(), AlignmentRecipe(views=13_000, epochs=2, other_maps=3, same_map=3, learning_rate=2e-3)),
    ),
    "shipped/retrieval": RetrieverPlan(
        "the retriever, AST on DINOv2, on image pairs", "dinov2_ast", "pairs", RetrieverRecipe()
    ),
    "paper/university1652": RetrieverPlan("AST as published, on University-1652", "ast", "university1652", AST_PAPER),
}
"""`geoloc train UL14 PRESET` is the plan of every row of the DRL paper: recipe.DRL_PAPER with what the preset says."""
