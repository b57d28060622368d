# SPDX-License-Identifier: Apache-2.0
"""Presets: every row of the paper's tables is there, builds, and gives the map that its R belongs to."""

from pathlib import Path

import pytest
import torch

from geoloc_models.datasets.random_scale_crop import scales_from_text
from geoloc_models.drl.presets import PRESETS, build, build_on_meta, distinct_structures, names_with
from geoloc_models.errors import GeolocError

ROWS = {"V": 7, "VI": 9, "VII": 9, "VIII": 8, "IX": 4, "X": 5}
"""Rows of each table of the paper."""


@pytest.mark.parametrize("table", ROWS)
def test_every_row_of_the_tables_has_a_preset(table: str) -> None:
    rows = names_with(["table", table])
    assert len(rows) == ROWS[table]
    assert all(PRESETS[name].rds is not None and PRESETS[name].ma20 is not None for name in rows)
    # Rows of one table differ from each other in more than what the paper reports.
    assert len({repr(PRESETS[name]).split(", rds")[0] for name in rows}) == len(rows)


def test_training_side_of_the_tables() -> None:
    for name in names_with(["table"]):
        preset = PRESETS[name]
        scales_from_text(preset.rsc)
        studies = {"V", "VIII", "X"} & {word.strip(",") for word in preset.source.split()}
        assert preset.negative_weight == (15 if studies else 130), name
    assert {PRESETS[name].loss for name in names_with(["IX"])} == {"wbl", "focal", "cross_entropy", "balance"}
    assert len({PRESETS[name].rsc for name in names_with(["VI"])}) == ROWS["VI"]


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.backbone != "cvt13"])
def test_other_backbones_give_the_maps_they_promise(name: str) -> None:
    check_map(name)


@pytest.mark.parametrize(
    "name",
    [
        "post_cvt13_ccn_gc", "post_cvt13_ccn_gc_no_padding", "post_cvt13_ccn_saf", "mix_cvt13_ccn_gc_no_padding",
        "mix_cvt13_ccn_linear_h8", "mix_cvt13_fpn_linear_h8", "mix_cvt13_fpn_linear_h4", "mix_cvt13_fpn_linear",
    ],
)  # fmt: skip
def test_structures_give_the_maps_they_promise(name: str) -> None:
    check_map(name)


def check_map(name: str) -> None:
    preset = PRESETS[name]
    network = build_on_meta(name).eval()
    assert preset.query_px % network.multiple_px == preset.map_px % network.multiple_px == 0
    z = torch.empty(2, 3, preset.query_px, preset.query_px, device="meta")
    x = torch.empty(2, 3, preset.map_px, preset.map_px, device="meta")
    shape = network(z, x).shape
    level = {"post_resnet50_ccn_gc": 48, "post_efficientnet_b5_ccn_gc": 12, "post_pvt_s_ccn_gc": 12}
    sides = {
        "fpn_linear_h8": 48, "linear_h8": 48, "fpn_linear_h4": 96, "fpn_linear": 384, "vits14_ccn_linear": 27,
        "vits14_pyramid_gc": 109, "mix_compact": 73, "mix_hybrid": 97, "saf": 24, "no_padding": 17,
    }  # fmt: skip
    side = next((side for end, side in sides.items() if name.endswith(end)), level.get(name, 24) + 1)
    assert shape == (2, 1, side, side)
    if not name.startswith("post"):
        # Positives by the stride: about 2 * 16 / stride - 1 cells.
        assert preset.positive_cells == pytest.approx(32 * side / preset.map_px - 1, abs=1.1)


def test_distinct_structures_need_no_memory_and_leave_the_default_device() -> None:
    found = dict(distinct_structures("mix", ("vits14",)))
    assert list(found) == ["mix_vits14_ccn_linear", "mix_vits14_pyramid_gc"]
    assert all(parameter.is_meta for network in found.values() for parameter in network.parameters())
    assert next(distinct_structures("post", ("cvt13",)))[0] == "post_cvt13_ccn_gc"
    assert not torch.empty(1).is_meta


def test_names_are_found_by_parts_and_sources_by_words() -> None:
    assert names_with(["fpn", "IX"]) == [
        "mix_cvt13_fpn_linear",
        "mix_cvt13_fpn_linear_focal",
        "mix_cvt13_fpn_linear_ce",
        "mix_cvt13_fpn_linear_balance",
    ]
    assert "post_resnet50_ccn_gc" not in names_with(["table", "VII"])
    assert names_with(["nothing"]) == []
    assert names_with([]) == list(PRESETS)


def test_bad_requests_are_told(tmp_path: Path) -> None:
    with pytest.raises(GeolocError, match="mix_resnet"):
        build("mix_resnet")
    with pytest.raises(GeolocError, match=r"missing\.pth"):
        build("post_cvt13_ccn_gc", tmp_path / "missing.pth")
