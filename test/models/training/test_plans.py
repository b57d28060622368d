# SPDX-License-Identifier: Apache-2.0
"""The recipes are those of spec 3.1 to 3.4, and each preset changes of them what its row of the paper says."""

from dataclasses import replace
from pathlib import Path

import pytest

from geoloc_models.drl.presets import PRESETS
from geoloc_models.training.localizer_data import ul14_data
from geoloc_models.training.recipe import DRL_PAPER


def test_the_best_of_the_paper(ul14_tree: Path) -> None:
    plan = ul14_data(ul14_tree, PRESETS["mix_cvt13_fpn_linear"], replace(DRL_PAPER, maps_per_batch=1))
    s = plan.recipe
    assert DRL_PAPER.maps_per_batch == 8
    assert (s.learning_rate, s.weight_decay, s.decay_all, s.warmup_batches, s.seed) == (
        1.5e-4,
        5e-4,
        True,
        500,
        666,
    )
    assert (s.loss, s.positive_cells, s.negative_weight) == ("wbl", 31, 130)
    assert (s.samples, s.check_batches, s.average_decay, s.half) == (12 * 3, 3, 0.0, False)
    drawn = plan.samples.settings
    assert (drawn.query_px, drawn.map_px, drawn.rsc) == (128, 384, "512-1000")
    # One place cannot be split: nothing is held out, and the last weights are kept.
    assert plan.held_out is None and s.best_from is None
    assert plan.gsd_m == pytest.approx((0.46 * 512 / 384, 0.46 * 1000 / 384))


def test_rows_of_the_tables_differ_as_the_paper_says(ul14_tree: Path) -> None:
    plans = {
        name: ul14_data(
            ul14_tree, PRESETS[name], replace(DRL_PAPER, maps_per_batch=1, loss=PRESETS[name].loss)
        )
        for name in (
            "mix_cvt13_ccn_avg",
            "post_cvt13_ccn_caf",
            "mix_cvt13_ccn_linear_rsc_512_768",
            "mix_cvt13_fpn_linear_focal",
        )
    }
    structure, attention, scales, focal = (plan.recipe for plan in plans.values())
    assert (structure.positive_cells, structure.negative_weight, structure.warmup_batches) == (1, 15, 500)
    assert attention.warmup_batches == 0
    assert scales.negative_weight == 130
    assert plans["mix_cvt13_ccn_linear_rsc_512_768"].samples.settings.rsc == "512,768"
    assert focal.loss == "focal"
