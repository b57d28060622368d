# SPDX-License-Identifier: Apache-2.0
"""The plots of a report: vector graphics as data URIs, each for light and dark paper and for wide and narrow pages."""

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geoloc_models.metrics import MA_DISTANCES_M
from geoloc_ros.core.evaluation.scores import FrameScore, Run, column, stages

# Distinct for colour-blind readers too (after Okabe and Ito); each colour in a shade for light and one for dark paper.
_RUNS = (
    ("#0060b9", "#5cb3ff"),
    ("#c2410c", "#ff9b55"),
    ("#00795c", "#34d3a6"),
    ("#a03c86", "#ef8fd1"),
    ("#806000", "#e3c04a"),
)
_STATES = {
    "UNINITIALIZED": ("#aab2bd", "#59636f"),
    "RELOCALIZING": ("#e8a400", "#d99a05"),
    "TRACKING": ("#6aa5e0", "#3f7fc0"),
    "DEAD_RECKONING": ("#8e6bbf", "#a98ad6"),
    "LOST": ("#9c1c33", "#e0506a"),
}
_STAGES = (
    ("#7f8b99", "#8b97a6"),
    ("#8e6bbf", "#a98ad6"),
    ("#d17f00", "#e09a2d"),
    ("#2f7fd0", "#4b97e3"),
    ("#1a936f", "#35b48c"),
    ("#b5446e", "#d46a92"),
)
_INK, _QUIET, _GRID, _GAP = _PAPER = (
    ("#1c2430", "#e8edf4"),
    ("#5c6878", "#9aa7b8"),
    ("#dfe4ea", "#323c4a"),
    ("#c0392b", "#ff7b6b"),
)
_DARK = dict((*_RUNS, *_STATES.values(), *_STAGES, *_PAPER))
MAX_RUNS = len(_RUNS)
"""Runs that are drawn."""

_WIDTHS_IN = {"wide": 10.0, "narrow": 4.4}
_MOST_POINTS = 600
"""Points of a line; more are drawn as their median and extremes."""


@dataclass(frozen=True)
class Picture:
    """One plot as data URIs."""

    wide_light: str
    wide_dark: str
    narrow_light: str
    narrow_dark: str


@dataclass(frozen=True)
class Swatch:
    """One entry of a legend, with its colour on light and on dark paper."""

    name: str
    light: str
    dark: str


def picture(draw: Callable[[Figure], None]) -> Picture:
    """All versions of a plot; `draw(figure)` fills a figure of given width, in the colours of light paper."""
    style: dict[Any, Any] = {
        "text.color": _INK[0],
        "axes.labelcolor": _INK[0],
        "axes.edgecolor": _QUIET[0],
        "xtick.color": _QUIET[0],
        "ytick.color": _QUIET[0],
        "grid.color": _GRID[0],
        "font.family": "sans-serif",
        "font.size": 10.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "svg.hashsalt": "geoloc",  # the same run gives the same file
    }
    versions: dict[str, str] = {}
    for name, width_in in _WIDTHS_IN.items():
        with matplotlib.rc_context(style):
            figure = Figure(figsize=(width_in, 4.0), layout="constrained")
            draw(figure)
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        light = buffer.getvalue()
        dark = re.sub(r"#[0-9a-f]{6}\b", lambda match: _DARK.get(match[0], match[0]), light)
        versions |= {f"{name}_light": data_uri("svg+xml", light.encode())}
        versions |= {f"{name}_dark": data_uri("svg+xml", dark.encode())}
    return Picture(**versions)


def data_uri(kind: str, data: bytes) -> str:
    """A picture of MIME type image/`kind` as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def jpeg(image: np.ndarray, quality: int = 85) -> str:
    """Data URI of an (h, w, 3) uint8 RGB picture."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data_uri("jpeg", data.tobytes())


def draw_errors(figure: Figure, runs: Sequence[Run]) -> None:
    """Error and 2 sigma over time; below a strip a run with the states, and red where there was no fix."""
    figure.set_figheight(3.4 + 0.3 * len(runs))
    axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[3.0, 0.3 * len(runs)])
    for row, (run, (colour, _)) in enumerate(zip(runs, _RUNS, strict=False)):
        time_s = _since_start_s(run)
        _draw_line(axes, time_s, column(run.frames, "error_m"), colour, front=row == 0)
        if row == 0:
            # Largest axis of the covariance: the error should stay below twice this.
            sigma_m = [2 * frame.sigma_m if frame.valid else np.nan for frame in run.frames]
            thin_s, _, _, high_m = _thinned(time_s, np.array(sigma_m))
            axes.fill_between(thin_s, 0.0, high_m, color=colour, alpha=0.16, lw=0)
        _draw_strip(strip, run, time_s, len(runs) - 1 - row)
    _scale_errors(axes)
    strip.set_yticks([len(runs) - 0.5 - row for row in range(len(runs))], [run.name for run in runs])
    strip.set_ylim(0.0, len(runs))
    strip.tick_params(length=0)
    strip.spines[["left", "bottom"]].set_visible(False)
    strip.set_xlabel("time since the first frame, s")


def state_legend(runs: Sequence[Run]) -> list[Swatch]:
    """What the colours of the strips below the error say."""
    shown = {frame.state for run in runs if _has_states(run) for frame in run.frames}
    entries = [Swatch(state, *colours) for state, colours in _STATES.items() if state in shown]
    return [*entries, Swatch("no valid fix", *_GAP)]


def run_legend(runs: Sequence[Run]) -> list[Swatch]:
    """The colour of each run that is drawn."""
    return [Swatch(run.name, *colours) for run, colours in zip(runs, _RUNS, strict=False)]


def stage_legend(runs: Sequence[Run]) -> list[Swatch]:
    """The colour of each stage of a frame's latency."""
    names = stages([frame for run in runs for frame in run.frames])
    return [Swatch(name, *_STAGES[place % len(_STAGES)]) for place, name in enumerate(names)]


def _since_start_s(run: Run) -> np.ndarray:
    """(N,) times of the frames since the run's first."""
    stamps_s = column(run.frames, "stamp_s")
    return np.asarray(stamps_s - stamps_s[:1])


def _draw_line(axes: Axes, time_s: np.ndarray, values: np.ndarray, colour: str, front: bool) -> None:
    thin_s, low, middle, high = _thinned(time_s, values)
    width, size = (2.0, 3) if front else (1.0, 2)
    whole = len(thin_s) == len(time_s)
    # The thin ones over the thick one: where they agree, both show.
    axes.plot(thin_s, middle, ".-" if whole else "-", color=colour, lw=width, ms=size, zorder=3 - front)
    if not whole:
        axes.fill_between(thin_s, low, high, color=colour, alpha=0.35, lw=0)


def crowded(runs: Sequence[Run]) -> bool:
    """Whether any run has more frames than its line has points."""
    return any(len(run.frames) > _MOST_POINTS for run in runs)


def _thinned(time_s: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(time, low, middle, high) of at most `_MOST_POINTS` bins of equal numbers of frames; NaN in empty ones."""
    if len(time_s) <= _MOST_POINTS:
        return time_s, values, values, values
    bins = np.array_split(np.arange(len(time_s)), _MOST_POINTS)
    rows = []
    for members in bins:
        known = values[members][~np.isnan(values[members])]
        of_bin = (known.min(), np.median(known), known.max()) if known.size else (np.nan,) * 3
        rows.append((time_s[members[0]], *of_bin))
    thin_s, low, middle, high = np.array(rows, dtype=np.float64).T
    return thin_s, low, middle, high


def _scale_errors(axes: Axes) -> None:
    # Linear near zero, where fixes live, logarithmic where a baseline goes astray.
    axes.set_yscale("symlog", linthresh=10.0)
    axes.set_ylim(bottom=0.0)
    top_m = axes.get_ylim()[1]
    if top_m > 10.0:
        ticks = (0, 2, 4, 6, 8, 10, 20, 50, 100, 200, 500, 1000, 2000)
        axes.set_yticks([tick for tick in ticks if tick <= top_m])
    else:
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(5))
    axes.set_ylim(0.0, top_m)
    axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.margins(x=0.0)
    axes.set_ylabel("error, m")
    axes.grid(True, axis="y", lw=0.7)


def _has_states(run: Run) -> bool:
    """Frames that were searched alone belong to no track, so their states say nothing."""
    return run.mode != "independent"


def _draw_strip(strip: Axes, run: Run, time_s: np.ndarray, base: int) -> None:
    if _has_states(run):
        states = np.array([frame.state for frame in run.frames])
        for state, (colour, _) in _STATES.items():
            strip.broken_barh(spans(time_s, states == state), (base + 0.35, 0.5), color=colour, lw=0)
    valid = np.array([frame.valid for frame in run.frames], dtype=bool)
    strip.broken_barh(spans(time_s, ~valid), (base + 0.12, 0.16), color=_GAP[0], lw=0)


def spans(time_s: np.ndarray, inside: np.ndarray) -> list[tuple[float, float]]:
    """(start, length) of each unbroken stretch of True; a frame lasts until the next one."""
    last_s = float(np.median(np.diff(time_s))) if len(time_s) > 1 else 1.0
    ends_s = np.append(time_s[1:], time_s[-1:] + last_s)
    edges = np.diff(np.concatenate([[0], inside.astype(int), [0]]))
    pairs = zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1, strict=True)
    return [(float(time_s[a]), float(ends_s[b] - time_s[a])) for a, b in pairs]


def draw_cdf(figure: Figure, runs: Sequence[Run]) -> None:
    """Share of all frames with at most so much error; frames without a fix never count."""
    figure.set_figheight(3.6 if figure.get_figwidth() > 6 else 3.2)
    axes = figure.subplots()
    furthest_m = 60.0
    for row, (run, (colour, _)) in enumerate(zip(runs, _RUNS, strict=False)):
        errors = np.sort([frame.error_m for frame in run.frames if frame.valid])
        if errors.size:
            furthest_m = max(furthest_m, float(errors[-1]))
            shares = np.arange(1, errors.size + 1) / len(run.frames)
            kept = np.unique(np.linspace(0, errors.size - 1, min(errors.size, _MOST_POINTS)).astype(int))
            x = np.concatenate([[0.01], np.maximum(errors[kept], 0.01), [1e6]])
            y = np.concatenate([[0.0], shares[kept], shares[-1:]])
            axes.step(x, y, where="post", color=colour, lw=2.0 if row == 0 else 1.4)
    axes.set_xscale("log")
    axes.set_xlim(0.1, furthest_m * 1.2)
    axes.set_ylim(0.0, 1.02)
    for distance_m in MA_DISTANCES_M:
        axes.axvline(distance_m, color=_GRID[0], lw=1.0, zorder=0)
    ticks = [tick for tick in (0.2, 0.5, 1, 3, 5, 10, 20, 50, 100, 200, 500, 1000) if tick <= furthest_m * 1.2]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(True, axis="y", lw=0.7)
    axes.set_xlabel("error, m (logarithmic)")
    axes.set_ylabel("share of all frames")


def draw_stages(figure: Figure, run: Run) -> None:
    """What each frame's time was spent on, stacked over time; cut where a few frames took far longer than the rest."""
    figure.set_figheight(3.0)
    axes = figure.subplots()
    time_s = _since_start_s(run)
    stacked_ms = [stage_times_ms(run.frames, name) for name in stages(run.frames)]
    thin = [_thinned(time_s, values) for values in stacked_ms]
    colours = [_STAGES[place % len(_STAGES)][0] for place in range(len(thin))]
    axes.stackplot(thin[0][0], [middle for _, _, middle, _ in thin], colors=colours, step="post", lw=0)
    totals_ms = np.sum(stacked_ms, axis=0)
    top_ms = 1.3 * max(float(np.percentile(totals_ms, 98)), 1e-3)
    axes.set_ylim(0.0, top_ms)
    cut = int(np.sum(totals_ms > top_ms))
    if cut:
        words = f"{cut} frame{'s' if cut > 1 else ''} above, up to {totals_ms.max():.0f} ms"
        axes.set_title(words, loc="right", fontsize=8.5)
    axes.margins(x=0.0)
    axes.grid(True, axis="y", lw=0.7)
    axes.set_ylabel("ms")
    axes.set_xlabel("time since the first frame, s")


def stage_times_ms(frames: Sequence[FrameScore], stage: str) -> np.ndarray:
    """(N,) of what each frame spent in a stage, 0 where it did not get there."""
    return np.array([frame.stages_ms.get(stage, 0.0) for frame in frames], dtype=np.float64)


def draw_stage_bars(figure: Figure, runs: Sequence[Run]) -> None:
    """The mean time of a frame by stage, one bar a run."""
    figure.set_figheight(0.8 + 0.42 * len(runs))
    axes = figure.subplots()
    left_ms = np.zeros(len(runs))
    for place, name in enumerate(stages([frame for run in runs for frame in run.frames])):
        means_ms = np.array([float(stage_times_ms(run.frames, name).mean()) for run in runs])
        axes.barh(range(len(runs)), means_ms, left=left_ms, height=0.62, color=_STAGES[place % len(_STAGES)][0])
        left_ms += means_ms
    axes.set_yticks(range(len(runs)), [run.name for run in runs])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("mean of a frame, ms")
