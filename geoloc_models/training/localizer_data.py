# SPDX-License-Identifier: Apache-2.0
"""What a preset is trained with on each kind of data: samples, held-out samples and recipe."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from geoloc_models.datasets.image_pairs import calibrates, list_pairs
from geoloc_models.datasets.pair_samples import PairSamples, SampleSettings
from geoloc_models.datasets.ul14 import load_train
from geoloc_models.datasets.ul14_samples import Ul14Samples, Ul14Settings, default_held_out, split_by_place
from geoloc_models.drl.presets import Preset
from geoloc_models.training.held_out import Samples
from geoloc_models.training.recipe import DRL_PAPER, LocalizerRecipe

HELD_OUT_SOURCES = ("levir", "srif")
HELD_OUT_MAPS = 48
"""Search maps of a check on image pairs."""
CALIBRATION_MAPS = 48
_CROP_SIDES_PX = (158, 576)
"""Sides of the squares that become search maps, in pixels of the images; an image's own side limits them too."""


@dataclass(frozen=True)
class LocalizerData:
    """samples, held_out: what to train on and what to check on, the first `held_out_maps` of it; None: no check.

    calibration: what sets the temperature, the first `calibration_maps` of it; None: it stays 1. query_px, gsd_m: how
    the network is to be used, side of the view and range of ground sample distances.
    """

    samples: Samples
    held_out: Samples | None
    held_out_maps: int
    calibration: Samples | None
    calibration_maps: int
    recipe: LocalizerRecipe
    query_px: int
    gsd_m: tuple[float, float]


def pairs_data(
    root: Path,
    preset: Preset,
    recipe: LocalizerRecipe,
    sources: Sequence[str],
    heading_deg: float = 15.0,
    query_px: int | None = None,
) -> LocalizerData:
    """Our recipe on the image pairs of `root`; recipe: all but what the preset decides.

    query_px: side of the views, maps are three times as wide; None: the preset's.
    """
    if query_px is not None:
        preset = replace(preset, query_px=query_px, map_px=3 * query_px)
    pairs = [pair for source in sources for pair in list_pairs(root, source, held_out=False)]
    held_out = [p for source in sources if source in HELD_OUT_SOURCES for p in list_pairs(root, source, True)]
    samples = SampleSettings(
        map_px=preset.map_px,
        query_px=preset.query_px,
        map_scale=(_CROP_SIDES_PX[0] / preset.map_px, _CROP_SIDES_PX[1] / preset.map_px),
        heading_deg=heading_deg,
    )
    # Ours see more of the ground in flight than in training, where small views make more samples.
    flown_px = preset.flown_query_px or preset.query_px
    # Calibrated as it is used: errors of a usual IMU and altimeter, and only half of the held-out scenes, so that
    # the other half can tell whether the calibration holds.
    flown = replace(
        samples,
        query_px=flown_px,
        map_px=3 * flown_px,
        map_scale=(0.8, 1.2),
        tilt_deg=6.0,
        heading_deg=min(6.0, heading_deg),
        height_share=0.07,
    )
    return LocalizerData(
        samples=PairSamples(pairs, samples, recipe.seed),
        held_out=PairSamples(held_out, samples, seed=1) if held_out else None,
        held_out_maps=HELD_OUT_MAPS,
        calibration=PairSamples([p for p in held_out if calibrates(p.name)] or pairs, flown, seed=2),
        calibration_maps=CALIBRATION_MAPS,
        recipe=_with_targets(recipe, preset),
        query_px=flown_px,
        gsd_m=(0.25, 1.2),
    )


def ul14_data(
    root: Path,
    preset: Preset,
    recipe: LocalizerRecipe = DRL_PAPER,
    epochs: int = 12,
    held_out_places: Sequence[str] | None = None,
    rsc: str | None = None,
    satellite_gsd_m: float = 0.46,
) -> LocalizerData:
    """The paper's recipe on <root>/train; recipe: all but what the preset and the data decide.

    held_out_places: None: every fifth. satellite_gsd_m: of the stored maps.
    """
    items = load_train(root)
    places = default_held_out(items) if held_out_places is None else held_out_places
    train_items, held_out_items = split_by_place(items, places)
    drawn = Ul14Settings(preset.query_px, preset.map_px, rsc or preset.rsc, satellite_gsd_m)
    samples = Ul14Samples(train_items, drawn, recipe.maps_per_batch, recipe.seed)
    held_out = Ul14Samples(held_out_items, drawn, seed=1, augment=False) if held_out_items else None
    sides_px = [int(side) for side in re.findall("[0-9]+", drawn.rsc)]
    return LocalizerData(
        samples=samples,
        held_out=held_out,
        held_out_maps=len(held_out_items),
        calibration=held_out,
        calibration_maps=min(CALIBRATION_MAPS, len(held_out_items)),
        recipe=replace(
            _with_targets(recipe, preset),
            samples=epochs * samples.epoch_items,
            warmup_batches=preset.warmup_batches,
            check_batches=samples.epoch_items // recipe.maps_per_batch,
            best_from=recipe.best_from if held_out_items else None,
        ),
        query_px=preset.query_px,
        gsd_m=(satellite_gsd_m * min(sides_px) / preset.map_px, satellite_gsd_m * max(sides_px) / preset.map_px),
    )


def _with_targets(recipe: LocalizerRecipe, preset: Preset) -> LocalizerRecipe:
    return replace(recipe, positive_cells=preset.positive_cells, negative_weight=preset.negative_weight)
