# SPDX-License-Identifier: Apache-2.0
"""report.json and one self-contained report.html of one or several runs over the same flight.

The page needs no network and no other file: figures are vector graphics, pictures are data URIs, each figure
comes in a light and a dark version and the reader's browser picks one.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import jinja2
import matplotlib
import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from geoloc_models.metrics import MA_DISTANCES_M
from geoloc_ros.core.geodesy import LocalEnu
from geoloc_ros.core.maps import MapSource
from geoloc_ros.core.overlay import odds_text
from geoloc_ros.core.scores import Closeup, FrameScore, Run, SearchRecord, summarize, table_rows

_MAP_PX = 1200
_MAP_MARGIN = 1.15
_MAX_RUNS_DRAWN = 5

# Told apart by the colour-blind too (Okabe and Ito), each in a shade for light and one for dark paper.
_RUN_COLOURS = {
    "light": ("#0060b9", "#c2410c", "#00795c", "#a03c86", "#806000"),
    "dark": ("#5cb3ff", "#ff9b55", "#34d3a6", "#ef8fd1", "#e3c04a"),
}
_PAPER = {
    "light": {"ink": "#1c2430", "quiet": "#5c6878", "grid": "#dfe4ea", "gap": "#c0392b"},
    "dark": {"ink": "#e8edf4", "quiet": "#9aa7b8", "grid": "#323c4a", "gap": "#ff7b6b"},
}


@dataclass(frozen=True)
class _Themed:
    """One figure on light and on dark paper, as data URIs."""

    light: str
    dark: str


def write_report(
    folder: Path, runs: Sequence[Run], map_source: MapSource | None, title: str, note: str = ""
) -> dict[str, Any]:
    """Write report.json and report.html into `folder` (made if need be) and return what the JSON holds.

    The first run is the one that the page is about; its figures stand at the top level of the JSON, all runs
    (itself included) under "runs". `note` says how easy or hard the data are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summaries = [summarize(run) for run in runs]
    figures = {**summaries[0], "title": title, "note": note, "runs": summaries}
    (folder / "report.json").write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")
    headings, rows = table_rows(summaries)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    drawn = runs[:_MAX_RUNS_DRAWN]
    page = environment.get_template("report.html.j2").render(
        title=title,
        note=note,
        main=summaries[0],
        tiles=_tiles(summaries[0]),
        headings=headings,
        rows=rows,
        colours=[
            {"name": run.name, "light": light, "dark": dark}
            for run, light, dark in zip(drawn, *_RUN_COLOURS.values(), strict=False)
        ],
        track=_track(drawn, map_source),
        error_figure=_themed(drawn, _draw_errors),
        cdf_figure=_themed(drawn, _draw_cdf),
        closeups=[_closeup(closeup) for closeup in runs[0].closeups],
        searches=_searches(runs[0]),
        about={key: value for key, value in runs[0].about.items() if not isinstance(value, dict | list)},
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    return figures


def _tiles(summary: dict[str, Any]) -> list[dict[str, str]]:
    """The figures that a reader wants first, in words and units."""

    def number(value: float | None, digits: int, unit: str) -> str:
        return "–" if value is None else f"{value:.{digits}f}{unit}"

    def share(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f} %"

    return [
        {"label": "Available", "value": share(summary["availability"]), "hint": "frames with a valid fix"},
        {"label": "Median error", "value": number(summary["median_error_m"], 2, " m"), "hint": "valid fixes"},
        {"label": "Within 10 m", "value": share(summary["ma"]["10"]), "hint": "MA@10 over all frames"},
        {
            "label": "False fixes",
            "value": str(summary["false_fixes"]),
            "hint": "truth beyond 3σ and over 20 m off",
        },
        {
            "label": "Truth within 2σ",
            "value": share(summary["coverage_2sigma"]),
            "hint": "86.5 % if the covariance is right",
        },
        {
            "label": "Latency",
            "value": number(summary["latency_ms"]["p50"], 0, " ms"),
            "hint": f"median a frame; p95 {number(summary['latency_ms']['p95'], 0, ' ms')}",
        },
    ]  # fmt: skip


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _jpeg(image: np.ndarray, quality: int = 85) -> str:
    """Data URI of an (h, w, 3) uint8 RGB picture."""
    _, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return _data_uri("jpeg", data.tobytes())


def _themed(runs: Sequence[Run], draw: Any) -> _Themed:
    """Both versions of a figure; `draw(figure, runs, theme)` fills it."""
    pictures: dict[str, str] = {}
    for theme, paper in _PAPER.items():
        style: dict[Any, Any] = {
            "text.color": paper["ink"],
            "axes.labelcolor": paper["ink"],
            "axes.edgecolor": paper["quiet"],
            "xtick.color": paper["quiet"],
            "ytick.color": paper["quiet"],
            "grid.color": paper["grid"],
            "font.family": "sans-serif",
            "font.size": 10.0,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "svg.hashsalt": "geoloc",  # the same run gives the same file
        }
        with matplotlib.rc_context(style):
            figure = Figure(layout="constrained")
            draw(figure, runs, theme)
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
        pictures[theme] = _data_uri("svg+xml", buffer.getvalue())
    return _Themed(**pictures)


def _draw_errors(figure: Figure, runs: Sequence[Run], theme: str) -> None:
    """Error and 2 sigma over time; a strip a run below says in which frames there was no fix."""
    figure.set_size_inches(9.0, 3.9)
    axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[1.0, 0.05 + 0.055 * len(runs)])
    start_s = min((run.frames[0].stamp_s for run in runs if run.frames), default=0.0)
    for row, (run, colour) in enumerate(zip(runs, _RUN_COLOURS[theme], strict=False)):
        time_s = np.array([frame.stamp_s for frame in run.frames]) - start_s
        error_m = np.array([frame.error_m for frame in run.frames])
        front = row == 0
        axes.plot(
            time_s, error_m, ".-", color=colour, lw=1.6 if front else 1.0, ms=3 if front else 2,
            zorder=3 if front else 2, label=run.name,
        )  # fmt: skip
        if front:
            # Largest axis of the covariance: the error should stay below twice this.
            sigma_m = np.array([_largest_sigma_m(frame) for frame in run.frames])
            axes.fill_between(
                time_s, 0.0, 2 * sigma_m, color=colour, alpha=0.16, lw=0, label=f"{run.name}, 2σ"
            )
        for valid, shade, alpha in ((True, colour, 0.75), (False, _PAPER[theme]["gap"], 1.0)):
            bars = _spans(time_s, np.array([frame.valid == valid for frame in run.frames]))
            strip.broken_barh(bars, (len(runs) - 1 - row + 0.15, 0.7), color=shade, alpha=alpha, lw=0)
    # Linear near zero, where fixes live, logarithmic where a baseline goes astray.
    axes.set_yscale("symlog", linthresh=10.0)
    axes.set_ylim(bottom=0.0)
    top_m = axes.get_ylim()[1]
    ticks = [tick for tick in (0, 2, 4, 6, 8, 10, 20, 50, 100, 200, 500, 1000, 2000) if tick <= top_m]
    axes.set_yticks(ticks)
    axes.set_ylim(0.0, top_m)
    axes.yaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.margins(x=0.0)
    axes.yaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.set_ylabel("error, m")
    axes.grid(True, axis="y", lw=0.7)
    axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2)
    strip.set_yticks([len(runs) - 0.5 - row for row in range(len(runs))], [run.name for run in runs])
    strip.set_ylim(0.0, len(runs))
    strip.tick_params(length=0)
    strip.spines[["left", "bottom"]].set_visible(False)
    strip.set_xlabel("time since the first frame, s   (strip: red = no valid fix)")


def _spans(time_s: np.ndarray, inside: np.ndarray) -> list[tuple[float, float]]:
    """(start, length) of each unbroken stretch of True; a frame lasts until the next one."""
    last_s = float(np.median(np.diff(time_s))) if len(time_s) > 1 else 1.0
    ends_s = np.append(time_s[1:], time_s[-1:] + last_s)
    edges = np.diff(np.concatenate([[0], inside.astype(int), [0]]))
    pairs = zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1) - 1, strict=True)
    return [(float(time_s[a]), float(ends_s[b] - time_s[a])) for a, b in pairs]


def _largest_sigma_m(frame: FrameScore) -> float:
    if not np.all(np.isfinite(frame.covariance_enu_m2)):
        return float("nan")
    return float(np.sqrt(max(np.linalg.eigvalsh(frame.covariance_enu_m2)[-1], 0.0)))


def _draw_cdf(figure: Figure, runs: Sequence[Run], theme: str) -> None:
    """Share of all frames with at most so much error; frames without a fix never count."""
    figure.set_size_inches(9.0, 3.6)
    axes = figure.subplots()
    furthest_m = 60.0
    for row, (run, colour) in enumerate(zip(runs, _RUN_COLOURS[theme], strict=False)):
        errors = np.sort([frame.error_m for frame in run.frames if frame.valid])
        if errors.size:
            furthest_m = max(furthest_m, float(errors[-1]))
            x = np.concatenate([[0.01], np.repeat(np.maximum(errors, 0.01), 2), [1e6]])
            y = np.repeat(np.arange(errors.size + 1) / len(run.frames), 2)
            axes.plot(x, y, color=colour, lw=2.0 if row == 0 else 1.4, label=run.name)
    axes.set_xscale("log")
    axes.set_xlim(0.1, furthest_m * 1.2)
    axes.set_ylim(0.0, 1.02)
    for distance_m in MA_DISTANCES_M:
        axes.axvline(distance_m, color=_PAPER[theme]["grid"], lw=1.0, zorder=0)
    ticks = [
        tick for tick in (0.2, 0.5, 1, 3, 5, 10, 20, 50, 100, 200, 500, 1000) if tick <= furthest_m * 1.2
    ]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(True, axis="y", lw=0.7)
    axes.set_xlabel("error, m (logarithmic)")
    axes.set_ylabel("share of all frames")
    if len(runs) > 1:
        axes.legend(loc="lower right")


def _track(runs: Sequence[Run], map_source: MapSource | None) -> dict[str, Any] | None:
    """Polylines of truth and fixes in pixels of a square map picture; None without any frame."""
    frames = [frame for run in runs for frame in run.frames]
    if not frames:
        return None
    lat = np.array([frame.truth_lat_deg for frame in frames])
    lon = np.array([frame.truth_lon_deg for frame in frames])
    enu = LocalEnu(float((lat.min() + lat.max()) / 2), float((lon.min() + lon.max()) / 2))
    east_m, north_m = enu.to_enu(lat, lon)
    size_m = _MAP_MARGIN * 2 * max(float(np.abs(east_m).max()), float(np.abs(north_m).max()), 25.0)
    picture = None
    if map_source is not None:
        crop = map_source.crop(enu.lat_deg, enu.lon_deg, size_m, _MAP_PX)
        picture = _jpeg(crop.image, 80) if crop.coverage > 0 else None

    def pixels(lat_deg: Sequence[float], lon_deg: Sequence[float]) -> list[tuple[float, float]]:
        x_m, y_m = enu.to_enu(np.asarray(lat_deg), np.asarray(lon_deg))
        x = (np.atleast_1d(x_m) / size_m + 0.5) * _MAP_PX
        y = (0.5 - np.atleast_1d(y_m) / size_m) * _MAP_PX
        return [(round(float(a), 1), round(float(b), 1)) for a, b in zip(x, y, strict=True)]

    main = runs[0].frames
    truth = pixels([f.truth_lat_deg for f in main], [f.truth_lon_deg for f in main])
    fixes = []
    for run in runs:
        used = [frame for frame in run.frames if frame.valid]
        points = pixels([f.lat_deg for f in used], [f.lon_deg for f in used]) if used else []
        labels = [f"{run.name}, frame {f.index}: {f.error_m:.1f} m off" for f in used]
        fixes.append([{"x": x, "y": y, "label": label} for (x, y), label in zip(points, labels, strict=True)])
    bar_m = _round_length(size_m / 4)
    return {
        "side": _MAP_PX,
        "picture": picture,
        "truth": " ".join(f"{x},{y}" for x, y in truth),
        "start": truth[0],
        "end": truth[-1],
        "fixes": fixes,
        "bar_m": f"{bar_m:g}",
        "bar_px": round(bar_m / size_m * _MAP_PX, 1),
    }


def _round_length(length_m: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above `length_m`."""
    power = 10.0 ** math.floor(math.log10(length_m))
    return max(step * power for step in (1, 2, 5) if step * power <= length_m)


def _searches(run: Run) -> list[dict[str, Any]]:
    """The searches of a run in words, with their pictures as data URIs."""
    first_s = run.frames[0].stamp_s if run.frames else 0.0
    return [_search(search, first_s) for search in run.searches]


def _search(search: SearchRecord, first_s: float) -> dict[str, Any]:
    return {
        "cells": [
            f"{search.begin_s - first_s:.1f} s",
            f"{search.duration_s:.1f} s",
            str(search.frames),
            "found" if search.accepted else "not found",
            "–" if math.isinf(search.log_odds) else odds_text(search.log_odds),
            "–" if math.isnan(search.error_m) else f"{search.error_m:.1f} m",
        ],
        "picture": None if search.picture is None else _jpeg(search.picture),
    }


def _closeup(closeup: Closeup) -> dict[str, Any]:
    """A worst frame's pictures as data URIs and its marks in pixels of the crop."""
    height, width = closeup.search_map.shape[:2]
    overlay = closeup.search_map
    if closeup.heatmap is not None:
        overlay = blend_heatmap(closeup.search_map, closeup.heatmap)
    return {
        "title": closeup.title,
        "query": _jpeg(closeup.query),
        "map": _jpeg(closeup.search_map),
        "overlay": _jpeg(overlay),
        "width": width,
        "height": height,
        "mark": max(width, height) / 28,
        "fix": closeup.fix_xy_px,
        "truth": closeup.truth_xy_px,
    }


def blend_heatmap(search_map: np.ndarray, heatmap: np.ndarray) -> np.ndarray:
    """Probability (H, W) over a map crop (H, W, 3) RGB; the more probable, the more opaque.

    The square root lets a second, weaker hypothesis show beside the peak.
    """
    strength = np.sqrt(np.clip(heatmap / max(float(heatmap.max()), 1e-12), 0.0, 1.0))[..., None]
    colour = colormaps["inferno"](strength[..., 0])[..., :3] * 255.0
    grey = cv2.cvtColor(cv2.cvtColor(search_map, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    faded = 0.75 * grey + 0.25 * search_map
    alpha = 0.85 * np.clip(1.5 * strength, 0.0, 1.0)
    return np.clip((1 - alpha) * faded + alpha * colour, 0, 255).astype(np.uint8)
