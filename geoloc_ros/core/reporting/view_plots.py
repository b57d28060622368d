# SPDX-License-Identifier: Apache-2.0
"""Plots of single-view figures, in the manner of the DRL paper's figures 8 to 10, with calibration and stress.

One colour an engine throughout; every PNG stands alone: set, units and number of samples are on it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from geoloc_models.evaluation.calibration import RIGHT_WITHIN_M, reliability, risk_coverage
from geoloc_models.evaluation.stress import STRESSES
from geoloc_models.evaluation.views import OFFSET_RINGS, PairScores
from geoloc_models.metrics import MA_ALL_DISTANCES_M

# Distinct for colour-blind readers too (Okabe and Ito).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#555555")
_QUIET = "#5c6878"
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "grid.color": "#dfe4ea",
    "axes.edgecolor": _QUIET,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "legend.frameon": False,
}
_PANELS = (("MA@5", "5"), ("MA@20", "20"))


def write_plots(folder: Path, name: str, by_stress: Mapping[str, Sequence[PairScores]]) -> list[Path]:
    """Write the PNGs of one set into `folder`, which exists, and return their paths.

    by_stress: answers of every engine under each stress, "none" among them. What needs several map sizes, several
    heights or several stresses is left out where there is one only.
    """
    plain = by_stress["none"]
    count = len(plain[0].samples)
    drawn: dict[str, tuple[str, tuple[float, float], Callable[[Figure], None]]] = {
        "ma": ("share of views found", (6.4, 4.2), lambda figure: _ma_curves(figure, plain)),
        "reliability": (
            f"peak against truth, right within {RIGHT_WITHIN_M:g} m",
            (max(5.4, 3.2 * len(plain) + 0.8), 4.8),
            lambda figure: _reliability(figure, plain),
        ),
        "kept": ("accuracy where only the surest answers are kept", (6.4, 4.2), lambda figure: _kept(figure, plain)),
        "by_offset": (
            "by distance of the view from the map's centre",
            (10.5, 3.8),
            lambda figure: _by_group(figure, plain, PairScores.by_offset, "offset, half sides of the map"),
        ),
    }
    if len(plain[0].by_map_size()) > 1:
        drawn["by_map_size"] = (
            "by size of the search map",
            (10.5, 3.8),
            lambda figure: _by_group(figure, plain, PairScores.by_map_size, "side of the search map, m"),
        )
    if len(plain[0].by_height()) > 1:
        drawn["by_height"] = (
            "by height of flight",
            (10.5, 3.8),
            lambda figure: _by_group(figure, plain, PairScores.by_height, "height above ground, m"),
        )
    if len(by_stress) > 1:
        width = max(9.0, 1.5 * len(by_stress))
        drawn["stress"] = ("resistance", (width, 4.6), lambda figure: _stresses(figure, by_stress))
    paths = []
    with matplotlib.rc_context(_STYLE):
        for kind, (title, size, draw) in drawn.items():
            figure = Figure(figsize=size, layout="constrained")
            draw(figure)
            figure.suptitle(f"{name}: {title} ({count} samples)", fontsize=11)
            paths.append(folder / f"{name}_{kind}.png")
            figure.savefig(paths[-1], dpi=130, metadata={"Software": None})
    return paths


def _ma_curves(figure: Figure, scores: Sequence[PairScores]) -> None:
    """Share of errors up to K metres, K from 0.5 to 100 m."""
    axes = figure.subplots()
    for score, colour in zip(scores, _cycle(len(scores)), strict=True):
        errors = np.sort(score.column("error_m"))
        share = np.arange(errors.size + 1) / errors.size
        axes.step(np.append(errors, 1e6), share, where="pre", color=colour, lw=1.8, label=score.name)
    axes.set_xscale("log")
    axes.set_xticks(MA_ALL_DISTANCES_M, [str(k) for k in MA_ALL_DISTANCES_M])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0.5, 100.0)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("K, m")
    axes.set_ylabel("MA@K")
    axes.legend(loc="lower right")


def _by_group(
    figure: Figure, scores: Sequence[PairScores], group: Callable[[PairScores], list[dict[str, Any]]], label: str
) -> None:
    """MA@5, MA@20 and RDS, side by side, with the number of samples behind the last."""
    panels = figure.subplots(1, 3, sharey=True)
    rows = [group(score) for score in scores]
    values = [row["at"] for row in rows[0]]
    is_ring = group is PairScores.by_offset
    places = np.arange(len(values)) if is_ring else np.array(values)
    for axes, (title, key) in zip(panels[:2], _PANELS, strict=True):
        for own, score, colour in zip(rows, scores, _cycle(len(scores)), strict=True):
            axes.plot(places, [row["ma"][key] for row in own], "o-", color=colour, lw=1.6, ms=4, label=score.name)
        axes.set_title(title)
    _count_bars(panels[2], places, [row["samples"] for row in rows[0]])
    for own, colour in zip(rows, _cycle(len(scores)), strict=True):
        panels[2].plot(places, [row["rds"] for row in own], "o-", color=colour, lw=1.6, ms=4)
    panels[2].set_title("RDS; grey bars: samples")
    for axes in panels:
        axes.set_xlabel(label)
        axes.set_ylim(0.0, 1.02)
        if is_ring:
            axes.set_xticks(places, [_ring(value) for value in values])
        elif len(values) <= 5:
            axes.set_xticks(places, [f"{value:.0f}" for value in values])
            axes.margins(x=0.15)
    panels[0].set_ylabel("score, 0 to 1")
    _legend_below(figure, panels[0])


def _count_bars(axes: Axes, places: np.ndarray, counts: Sequence[int]) -> None:
    """Number of samples, on an axis of its own to the right."""
    beside = axes.twinx()
    width = 0.6 * float(np.diff(places).min()) if len(places) > 1 else 0.6
    beside.bar(places, counts, width=width, color="#dfe4ea", zorder=0)
    beside.set_ylim(0, 2.5 * max(counts))
    beside.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    beside.set_ylabel("samples", color=_QUIET)
    beside.grid(visible=False)
    # Lines over bars: the twin is drawn last unless it is told not to be.
    axes.set_zorder(beside.get_zorder() + 1)
    axes.patch.set_visible(False)


def _ring(inner: float) -> str:
    outer = OFFSET_RINGS[OFFSET_RINGS.index(inner) + 1]
    return f"≥{inner:g}" if outer == OFFSET_RINGS[-1] else f"{inner:g}–{outer:g}".replace("0.", ".")


def _reliability(figure: Figure, scores: Sequence[PairScores]) -> None:
    """Stated against true share, a panel an engine; the area of a dot is its number of samples."""
    panels = figure.subplots(1, len(scores), sharex=True, sharey=True, squeeze=False)[0]
    for axes, score, colour in zip(panels, scores, _cycle(len(scores)), strict=True):
        bins = reliability(score.column("peak"), score.column("error_m") <= RIGHT_WITHIN_M)
        error = score.summary()["calibration_error"]
        axes.plot([0, 1], [0, 1], color=_QUIET, lw=1.0, ls="--")
        axes.plot([b["stated"] for b in bins], [b["true"] for b in bins], color=colour, lw=1.2)
        areas = [12 + 400 * b["samples"] / len(score.samples) for b in bins]
        axes.scatter([b["stated"] for b in bins], [b["true"] for b in bins], s=areas, color=colour, alpha=0.75, lw=0)
        axes.set_title(f"{score.name}\ncalibration error {error:.3f}")
        axes.set_xlabel("stated; dot area: samples")
        axes.set_box_aspect(1)
        axes.set_xlim(-0.04, 1.04)
        axes.set_ylim(-0.04, 1.04)
    panels[0].set_ylabel("share that was right")


def _kept(figure: Figure, scores: Sequence[PairScores]) -> None:
    """Accuracy among the most certain answers, by how many are kept."""
    axes = figure.subplots()
    for score, colour in zip(scores, _cycle(len(scores)), strict=True):
        kept, accuracy = risk_coverage(score.column("peak"), score.column("error_m") <= RIGHT_WITHIN_M)
        axes.plot(kept, accuracy, color=colour, lw=1.8, label=score.name)
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("share of answers kept, the surest first")
    axes.set_ylabel(f"share of them within {RIGHT_WITHIN_M:g} m")
    axes.legend(loc="lower left")


def _stresses(figure: Figure, by_stress: Mapping[str, Sequence[PairScores]]) -> None:
    """MA@5 and MA@20 of every engine under each stress, as groups of bars."""
    panels = figure.subplots(2, 1, sharex=True, sharey=True)
    engines = [score.name for score in by_stress["none"]]
    width = 0.8 / len(engines)
    for axes, (title, key) in zip(panels, _PANELS, strict=True):
        for number, (name, colour) in enumerate(zip(engines, _cycle(len(engines)), strict=True)):
            heights = [scores[number].summary()["ma"][key] for scores in by_stress.values()]
            places = np.arange(len(by_stress)) + (number - (len(engines) - 1) / 2) * width
            axes.bar(places, heights, width=0.9 * width, color=colour, label=name)
        axes.set_ylabel(title)
        axes.set_ylim(0.0, 1.02)
        axes.grid(visible=False, axis="x")
    labels = [STRESSES[stress].title.replace(", ", ",\n").replace(" ", "\n", 1) for stress in by_stress]
    panels[1].set_xticks(np.arange(len(by_stress)), labels)
    _legend_below(figure, panels[0])


def _legend_below(figure: Figure, axes: Axes) -> None:
    """One legend for all panels, outside of them."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _cycle(count: int) -> list[str]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(count)]
