# SPDX-License-Identifier: Apache-2.0
"""What a mission showed: one line, figures as JSON, and a plot."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geoloc_ros.core.reporting.report import write_text
from geoloc_ros.core.simulation.mission import Flown

# Distinct for colour-blind readers too (Okabe and Ito).
_TRUTH, _ESTIMATE, _LOSS, _QUIET = "#555555", "#0072b2", "#d55e00", "#5c6878"


def figures(flown: Flown) -> dict[str, Any]:
    """Errors of the vehicle's estimate with GNSS, without and while landing, and the fixes; None for what is not."""
    loss_s = flown.gnss_lost_s if math.isfinite(flown.gnss_lost_s) else flown.pattern_end_s
    stages = {
        "with_gnss": (0.0, loss_s),
        "without_gnss": (loss_s, flown.pattern_end_s),
        "landing": (flown.pattern_end_s, flown.landed_s),
    }
    return {
        "ok": not flown.trouble,
        "outcome": outcome(flown),
        "trouble": flown.trouble,
        "vehicle": flown.vehicle,
        "plan": {name: _number(value) for name, value in asdict(flown.plan).items()},
        "gnss_lost_s": _number(flown.gnss_lost_s),
        "pattern_end_s": _number(flown.pattern_end_s),
        "gnss_back_s": _number(flown.gnss_back_s),
        "landed_s": _number(flown.landed_s),
        "touchdown": _touchdown(flown),
        "error_m": {name: _spread(flown.samples.between(*span)) for name, span in stages.items()},
        "fixes_hz": {name: _number(fix_rate_hz(flown, *span)) for name, span in stages.items()},
        "texts": list(dict.fromkeys(flown.texts)),
        "diagnostics": flown.diagnostics,
    }


def outcome(flown: Flown) -> str:
    """The mission in one line."""
    lost_s, end_s = flown.gnss_lost_s, flown.pattern_end_s
    if not math.isfinite(lost_s):
        errors = _words(flown.samples.between(0.0, end_s))
        return f"with GNSS throughout: {flown.trouble or errors}; {_end(flown)}"
    without_s = end_s - lost_s
    before = _words(flown.samples.between(0.0, lost_s))
    after = _words(flown.samples.between(lost_s, end_s))
    rate_hz = fix_rate_hz(flown, lost_s, end_s)
    fate = f"lost: {flown.trouble}, after" if flown.trouble else "flown to the end with"
    words = f"; {_end(flown)}"
    words += f"; {flown.diagnostics}" if flown.trouble and flown.plan.needs_fixes else ""
    return f"{fate} {without_s:.0f} s without GNSS; estimate {after} (with GNSS {before}), {rate_hz:.1f} fixes/s{words}"


def _touchdown(flown: Flown) -> dict[str, Any] | None:
    """Whether GNSS was still away, and the error of the estimate, m; None while it is in the air."""
    if not math.isfinite(flown.landed_s):
        return None
    errors_m = flown.samples.between(-math.inf, flown.landed_s)
    blind = math.isfinite(flown.gnss_lost_s) and not math.isfinite(flown.gnss_back_s)
    return {"blind": blind, "error_m": round(float(errors_m[-1]), 3) if len(errors_m) else None}


def _end(flown: Flown) -> str:
    """How it came down."""
    touchdown = _touchdown(flown)
    if touchdown is None:
        return "disarmed" if "disarmed" in flown.trouble else "still in the air"
    error_m = touchdown["error_m"]
    off = "unknown" if error_m is None else f"{error_m:.1f} m off at touchdown"
    return f"landed{' blindly' if touchdown['blind'] else ''}, with the estimate {off}"


def fix_rate_hz(flown: Flown, start_s: float, end_s: float) -> float:
    """Fixes a second in a part of the flight; NaN for an empty one."""
    inside = (flown.fix_times_s >= start_s) & (flown.fix_times_s < end_s)
    return float(inside.sum() / (end_s - start_s)) if end_s > start_s else math.nan


def write_mission(folder: Path, flown: Flown) -> None:
    """mission.json, with a sample a row, and mission.png into a folder that exists."""
    samples = flown.samples
    columns = np.column_stack(
        [samples.time_s, samples.estimate_enu_m, samples.truth_enu_m, samples.height_m, samples.error_m]
    )
    names = ("time_s", "estimate_east_m", "estimate_north_m", "true_east_m", "true_north_m", "height_m", "error_m")
    table = {
        "columns": names,
        "samples": np.round(columns, 3).tolist(),
        "fix_times_s": np.round(flown.fix_times_s, 3).tolist(),
    }
    write_text(folder / "mission.json", json.dumps(figures(flown) | table, allow_nan=False) + "\n")
    _plot(folder / "mission.png", flown)


def _plot(path: Path, flown: Flown) -> None:
    style = {"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "font.size": 10}
    with matplotlib.rc_context(style):  # type: ignore[arg-type]
        figure = Figure((8.4, 8.4), layout="constrained")
        error, track = figure.subplots(2, 1, height_ratios=(1.0, 1.8))
        _draw_error(error, flown)
        _draw_track(track, flown)
        figure.suptitle(f"{flown.vehicle}: {outcome(flown)}", fontsize=9, wrap=True)
        part = path.with_name(f"{path.stem}.part{path.suffix}")
        figure.savefig(part, dpi=110)
    part.replace(path)


def _draw_error(axes: Axes, flown: Flown) -> None:
    samples, limit_m = flown.samples, flown.plan.max_error_m
    from_left, from_below = axes.get_yaxis_transform(), axes.get_xaxis_transform()
    axes.plot(samples.time_s, samples.error_m, color=_ESTIMATE, lw=1.4)
    axes.axhline(limit_m, color=_QUIET, lw=0.8, ls=":")
    axes.text(1.0, limit_m, "limit", color=_QUIET, va="bottom", ha="right", fontsize=8, transform=from_left)
    if math.isfinite(flown.gnss_lost_s):
        back_s = next(filter(math.isfinite, (flown.gnss_back_s, flown.landed_s, flown.pattern_end_s)))
        axes.axvspan(flown.gnss_lost_s, back_s, color=_LOSS, alpha=0.08, lw=0)
        axes.text(flown.gnss_lost_s, 0.9, " without GNSS", color=_LOSS, va="top", transform=from_below)
    axes.vlines(flown.fix_times_s, 0, 0.03, transform=from_below, color=_TRUTH, lw=0.6)
    axes.margins(x=0.0)
    axes.set_ylim(0.0)
    axes.set_xlabel("time since the pattern began, s (below: each fix)")
    axes.set_ylabel("error of the vehicle's estimate, m")


def _draw_track(axes: Axes, flown: Flown) -> None:
    samples = flown.samples
    axes.plot(*samples.truth_enu_m.T, color=_TRUTH, lw=2.5, alpha=0.5, label="where it was")
    axes.plot(*samples.estimate_enu_m.T, color=_ESTIMATE, lw=1.0, label="where it believed to be")
    lost = np.flatnonzero(samples.time_s >= flown.gnss_lost_s)[:1]
    axes.plot(*samples.truth_enu_m[lost].T, "X", color=_LOSS, ms=9, label="GNSS lost")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("east of the take-off, m")
    axes.set_ylabel("north, m")
    axes.legend(loc="best", fontsize=9)


def _words(errors_m: np.ndarray) -> str:
    if not len(errors_m):
        return "unknown"
    return f"{np.median(errors_m):.1f} m off, {errors_m.max():.1f} m at most"


def _spread(errors_m: np.ndarray) -> dict[str, float] | None:
    if not len(errors_m):
        return None
    return {
        "median": round(float(np.median(errors_m)), 3),
        "p95": round(float(np.percentile(errors_m, 95)), 3),
        "max": round(float(errors_m.max()), 3),
    }


def _number(value: Any) -> Any:
    """As JSON has it: no NaN, no infinity."""
    if not isinstance(value, float):
        return value
    return round(value, 3) if math.isfinite(value) else None
