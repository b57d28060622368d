# SPDX-License-Identifier: Apache-2.0
"""make reproduce-check: parameters and multiply-accumulates of the DRL networks against the reference's figures.

The reference (random weights, batch 1, 128 and 384 px) was measured on the published networks with a counting tool
that sees modules only; how it counts stands at `geoloc_models.drl.macs.Cost`. The published networks also compute some
layers whose output nothing reads. Ours leave them out, and here they are added for the comparison. Ends with status 1
if any figure differs in the last digit that the reference prints.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from geoloc_models.backbones.cvt import CvtMix, CvtStream
from geoloc_models.drl.heads import GroupCorrelation, LinearChain, SoftmaxPool
from geoloc_models.drl.macs import Cost, count_cost
from geoloc_models.drl.necks import ChannelConvert, FeaturePyramid
from geoloc_models.drl.presets import PRESETS, build_on_meta


@dataclass(frozen=True)
class Unread:
    """A convolution that the published network runs for nothing: kernel side, and the side of its output."""

    in_channels: int
    out_channels: int
    kernel: int
    cells: int

    @property
    def parameters(self) -> int:
        return self.out_channels * (self.in_channels * self.kernel**2 + 1)

    @property
    def macs(self) -> int:
        return self.cells**2 * self.in_channels * self.out_channels * self.kernel**2


UNREAD_CONVERT = (Unread(384, 128, 1, 8),)
"""The query's neck, which only a correlating head reads."""
UNREAD_SMOOTHING = (Unread(128, 128, 3, 48), Unread(128, 128, 3, 24))
UNREAD_PYRAMID = (
    *(Unread(channels, 128, 1, cells) for channels, cells in ((64, 32), (192, 16), (384, 8))),
    *(Unread(128, 128, 3, cells) for cells in (32, 16, 8)),
)
"""The query's whole pyramid; UNREAD_SMOOTHING: the map's two coarser levels."""
CLASSIFIER = 2 * 384 + 384 * 1000 + 1000
"""CvT's final norm and classifier, which the published file of weights carries."""


@dataclass(frozen=True)
class Reference:
    """A row of the reference: millions of parameters; billions of MACs without attention's products, and of all."""

    preset: str
    parameters_m: str
    counted_g: str
    true_g: str
    unread: tuple[Unread, ...] = ()


REFERENCES = (
    Reference("mix_cvt13_ccn_avg", "19.67", "13.22", "18.14", UNREAD_CONVERT),
    Reference("mix_cvt13_ccn_gem", "19.67", "13.22", "18.14", UNREAD_CONVERT),
    Reference("mix_cvt13_ccn_linear", "19.68", "13.23", "18.14", UNREAD_CONVERT),
    Reference("mix_cvt13_ccn_gc", "19.70", "13.23", "18.15"),
    Reference("mix_cvt13_fpn_linear", "20.63", "15.44", "20.35", UNREAD_SMOOTHING + UNREAD_PYRAMID),
    Reference("post_cvt13_ccn_gc", "39.32", "13.29", "17.71"),
    Reference("post_cvt13_ccn_saf", "39.55", "13.45", "18.45"),
)
BEST = "mix_cvt13_fpn_linear"
BREAKDOWN = {
    "stage0": "3.60",
    "stage1": "3.42",
    "stage2": "11.08",
    "map's FPN": "1.94",
    "query's FPN": "0.22",
    "head": "0.09",
}
"""True billions of MACs of the best model by part."""


@dataclass(frozen=True)
class Line:
    """One figure: what it is, ours, the reference's, both as printed."""

    name: str
    ours: str
    reference: str

    @property
    def agrees(self) -> bool:
        return self.ours == self.reference


def check_networks() -> Iterator[Line]:
    """The rows of the cost table, and the best model by part."""
    for row in REFERENCES:
        cost = _cost(row.preset)
        parameters = cost.counted_parameters + sum(part.parameters for part in row.unread)
        unread_macs = sum(part.macs for part in row.unread)
        yield Line(f"{row.preset}: parameters, M", f"{parameters / 1e6:.2f}", row.parameters_m)
        yield Line(
            f"{row.preset}: MACs without attention, G", f"{(cost.counted_macs + unread_macs) / 1e9:.2f}", row.counted_g
        )
        yield Line(f"{row.preset}: true MACs, G", f"{(cost.macs + unread_macs) / 1e9:.2f}", row.true_g)
        if row.preset == BEST:
            carried = cost.parameters + sum(part.parameters for part in row.unread) + 384 + CLASSIFIER
            yield Line(f"{BEST}: parameters with dead weights, M", f"{carried / 1e6:.2f}", "21.03")
            yield from _check_parts(cost)


def _check_parts(cost: Cost) -> Iterator[Line]:
    parts = {f"stage{index}": cost.macs_by_part[f"backbone.stage{index}"] for index in range(3)}
    parts["map's FPN"] = cost.macs_by_part["neck"] + sum(part.macs for part in UNREAD_SMOOTHING)
    parts["query's FPN"] = sum(part.macs for part in UNREAD_PYRAMID)
    parts["head"] = cost.macs_by_part["head"]
    for name, reference in BREAKDOWN.items():
        yield Line(f"{BEST}: true MACs of {name}, G", f"{parts[name] / 1e9:.2f}", reference)


def check_parts() -> Iterator[Line]:
    """Exact parameter counts of the parts."""
    with torch.device("meta"):
        mix, post = CvtMix(), CvtStream()
        stages = [(mix.get_submodule(f"stage{i}"), post.get_submodule(f"stage{i}")) for i in range(3)]
        # The published Mix-Fusion file carries a class token of 384 numbers that nothing reads.
        counts = [_parameters(ours) + 384 * (index == 2) for index, (ours, _) in enumerate(stages)]
        for index, reference in enumerate((61_312, 1_011_264, 18_513_408)):
            yield Line(f"CvT-13, Mix-Fusion, stage {index}", f"{counts[index]:,}", f"{reference:,}")
        yield Line("CvT-13, Mix-Fusion", f"{sum(counts):,}", "19,585,984")
        for index, reference in enumerate((61_696, 1_013_568, 18_536_448)):
            yield Line(f"CvT-13, Post-Fusion, stage {index}", f"{_parameters(stages[index][1]):,}", f"{reference:,}")
        yield Line("CvT-13, Post-Fusion", f"{_parameters(post):,}", "19,611,712")
        yield Line("channel convert", f"{_parameters(ChannelConvert(384, 128)):,}", "49,280")
        pyramid = _parameters(FeaturePyramid((64, 192, 384), 128)) + sum(p.parameters for p in UNREAD_SMOOTHING)
        yield Line("feature pyramid", f"{pyramid:,}", "525,056")
        yield Line("Linear head after the pyramid", f"{_parameters(LinearChain((128, 64, 16, 1))):,}", "9,313")
        yield Line("GeM head as published", f"{_parameters(SoftmaxPool(128)):,}", "128")
        yield Line("GC head", f"{_parameters(GroupCorrelation(128)):,}", "33,025")


def _cost(name: str) -> Cost:
    preset = PRESETS[name]
    images = [torch.empty(1, 3, side, side) for side in (preset.query_px, preset.map_px)]
    return count_cost(build_on_meta(name), *images)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def main() -> int:
    """Print every figure beside the reference's."""
    table = Table("", "ours", "reference", "")
    lines = [*check_parts(), *check_networks()]
    for line in lines:
        table.add_row(line.name, line.ours, line.reference, "" if line.agrees else "DIFFERS")
    Console().print(table)
    differing = sum(not line.agrees for line in lines)
    print(f"{len(lines) - differing} of {len(lines)} figures agree")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
