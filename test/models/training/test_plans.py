# SPDX-License-Identifier: Apache-2.0
"""Recipes are those of the papers, presets change what their rows say, plans run, and cards name plans."""

import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from geoloc_models.ast.presets import PRESETS as AST_PRESETS
from geoloc_models.drl.presets import PRESETS
from geoloc_models.training.localizer_data import ul14_data
from geoloc_models.training.plans import PLANS, AlignmentPlan, LocalizerPlan, Stage
from geoloc_models.training.recipe import DRL_PAPER, LocalizerRecipe
from geoloc_models.weights import FOLDER, load_weights, shipped
from geoloc_ros.cli.main import main


def test_the_best_of_the_paper(ul14_tree: Path) -> None:
    plan = ul14_data(ul14_tree, PRESETS["mix_cvt13_fpn_linear"], replace(DRL_PAPER, maps_per_batch=1))
    s = plan.recipe
    assert DRL_PAPER.maps_per_batch == 8
    assert (s.learning_rate, s.weight_decay, s.decay_all, s.warmup_batches, s.seed) == (1.5e-4, 5e-4, True, 500, 666)
    assert (s.loss, s.positive_cells, s.negative_weight) == ("wbl", 31, 130)
    assert (s.samples, s.check_batches, s.average_decay, s.half) == (12 * 3, 3, 0.0, False)
    drawn = plan.samples.settings
    assert (drawn.query_px, drawn.map_px, drawn.rsc) == (128, 384, "512-1000")
    # One place cannot be split: nothing is held out, and the last weights are kept.
    assert plan.held_out is None and s.best_from is None
    assert plan.gsd_m == pytest.approx((0.46 * 512 / 384, 0.46 * 1000 / 384))


def test_rows_of_the_tables_differ_as_the_paper_says(ul14_tree: Path) -> None:
    plans = {
        name: ul14_data(ul14_tree, PRESETS[name], replace(DRL_PAPER, maps_per_batch=1, loss=PRESETS[name].loss))
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


def test_plans_are_of_networks_that_exist() -> None:
    for name, plan in PLANS.items():
        if isinstance(plan, AlignmentPlan):
            assert plan.weights in shipped("localizer"), name
        else:
            assert plan.preset in (PRESETS if isinstance(plan, LocalizerPlan) else AST_PRESETS), name


def test_the_help_page_names_every_plan(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    words = set(re.split(r"[\s,.:]+", capsys.readouterr().out))
    assert set(PLANS) <= words


def test_every_card_names_a_plan() -> None:
    """A model card's command can be given as it stands."""
    for card in FOLDER.glob("*.md"):
        plans = re.findall(r"geoloc train \S+ (shipped/\w+)", card.read_text(encoding="utf-8"))
        assert plans, card.name
        assert set(plans) <= set(PLANS), card.name


def test_a_plan_runs_its_stages_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each stage starts from the weights of the one before it; a stage that is done is not run again."""
    tiles = tmp_path / "data" / "tiles" / "one"
    tiles.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 255, (30, 30, 3), np.uint8)
    cv2.imwrite(str(tiles / "a.jpg"), cv2.resize(noise, (300, 300), interpolation=cv2.INTER_CUBIC))
    recipe = LocalizerRecipe(samples=12, maps_per_batch=1, half=False)
    stages = (Stage(recipe, 32), Stage(replace(recipe, learning_rate=1e-9), 48))
    plan = LocalizerPlan("two short runs", "mix_compact", stages, sources=("tiles",))
    monkeypatch.setitem(PLANS, "test/two", plan)
    command = ["train", str(tmp_path / "data"), "test/two", "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main([*command, "--device", "cpu"]) == 0
    first, second, whole = (
        load_weights(tmp_path / "out" / name).model.state_dict()
        for name in ("1/mix_compact.safetensors", "2/mix_compact.safetensors", "mix_compact.safetensors")
    )
    for key, value in second.items():
        assert torch.equal(value, whole[key])
        torch.testing.assert_close(value, first[key], rtol=0, atol=1e-3)
    assert "by the plan test/two" in capsys.readouterr().out
    assert main([*command, "--device", "cpu"]) == 0
    assert "trained by" not in capsys.readouterr().out
    assert main([*command, "--samples", "3"]) == 2
    assert "--samples is of a single run, but test/two is a plan" in capsys.readouterr().err
