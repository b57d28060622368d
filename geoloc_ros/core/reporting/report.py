# SPDX-License-Identifier: Apache-2.0
"""The report of one or several runs over the same flight: a page, its figures as JSON and CSV, and the tracks.

The page, report.html, needs no network and no other file: plots are vector graphics, pictures are data URIs, each plot
comes in a light and a dark version and the reader's browser picks one.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np
from matplotlib import colormaps

from geoloc_ros.core.evaluation.scores import Closeup, Run, SearchRecord, gaps, summarize
from geoloc_ros.core.localization.overlay import odds_text
from geoloc_ros.core.maps.crop import MapSource
from geoloc_ros.core.reporting.exports import write_geojson, write_kml, write_tum
from geoloc_ros.core.reporting.figures import COVERAGE_EXPECTED, FIGURES, NEES_EXPECTED, table_rows, write_summary_csv
from geoloc_ros.core.reporting.plots import (
    MAX_RUNS,
    crowded,
    draw_cdf,
    draw_errors,
    draw_stages,
    jpeg,
    picture,
    run_legend,
    stage_legend,
    state_legend,
)
from geoloc_ros.core.reporting.records import table, write_errors_csv
from geoloc_ros.core.reporting.track import CONFIDENCE_STEPS, draw_track

_MOST_GAPS = 12
"""Gaps that the page lists, the longest; report.json holds all."""


def write_report(
    folder: Path, runs: Sequence[Run], map_source: MapSource | None, title: str, note: str = ""
) -> dict[str, Any]:
    """Write report.html and all files of `write_figures` into `folder`; returns the figures.

    The first run is the one that the page is about. `note` says how easy or hard the data are.
    """
    figures, files = write_figures(folder, runs, title, note)
    write_text(folder / "report.html", _page(runs, figures, map_source, files))
    return figures


def write_figures(folder: Path, runs: Sequence[Run], title: str, note: str = "") -> tuple[dict[str, Any], list[str]]:
    """Write figures and tracks into `folder` (made if need be); returns the figures and the names of the files.

    report.json: the first run's figures at the top level, those of all runs (itself included) under "runs", and the
    frames that they were computed from under "records". Beside it summary.csv, tracks.geojson, tracks.kml, truth.tum,
    and for each run NAME.tum and NAME_errors.csv.
    """
    folder.mkdir(parents=True, exist_ok=True)
    summaries = [summarize(run) for run in runs]
    figures = {**summaries[0], "title": title, "note": note, "runs": summaries}
    files = ["report.json", "summary.csv", "tracks.geojson", "tracks.kml", "truth.tum"]
    write_text(folder / "report.json", _with_records(figures, runs))
    write_summary_csv(folder / "summary.csv", summaries)
    write_geojson(folder / "tracks.geojson", runs)
    write_kml(folder / "tracks.kml", runs, title)
    write_tum(folder / "truth.tum", runs[0].frames, truth=True)
    for run in runs:
        write_tum(folder / f"{run.name}.tum", run.frames)
        write_errors_csv(folder / f"{run.name}_errors.csv", run.frames)
        files += [f"{run.name}.tum", f"{run.name}_errors.csv"]
    return figures, files


def write_text(path: Path, text: str) -> None:
    """A whole file or none."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _with_records(figures: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """JSON of the figures with `records.table` of each run under "records", by its name; a frame a line."""
    tables = []
    for run in runs:
        columns, rows = table(run.frames)
        lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
        tables.append(f'    {json.dumps(run.name)}: {{"columns": {json.dumps(columns)}, "rows": [\n{lines}\n    ]}}')
    head = json.dumps(figures, indent=2, allow_nan=False).removesuffix("\n}")
    return head + ',\n  "records": {\n' + ",\n".join(tables) + "\n  }\n}\n"


def render(template: str, **values: Any) -> str:
    """A page of templates/."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(**values)


def _page(runs: Sequence[Run], figures: Mapping[str, Any], map_source: MapSource | None, files: Sequence[str]) -> str:
    drawn, main, summaries = runs[:MAX_RUNS], runs[0], figures["runs"]
    plots = {
        "errors": picture(lambda figure: draw_errors(figure, drawn)),
        "cdf": picture(lambda figure: draw_cdf(figure, drawn)),
    }
    latency = _latency(summaries[0])
    if latency:
        plots["stages"] = picture(lambda figure: draw_stages(figure, main))
    return render(
        "report.html.j2",
        title=figures["title"],
        note=figures["note"],
        alarms=[partial_words(summary) for summary in summaries if summary["partial"]],
        main=summaries[0],
        tiles=_tiles(summaries[0]),
        short=dict(zip(("headings", "rows"), table_rows(summaries), strict=True)),
        swatches=run_legend(drawn),
        crowded=crowded(drawn),
        states=state_legend(drawn),
        stages=stage_legend([main]),
        ramp=CONFIDENCE_STEPS,
        track=draw_track(drawn, map_source, by_confidence=True),
        plots=plots,
        pose=_pose_errors(summaries),
        calibration=calibration(summaries),
        outages=_outages(main, summaries[0]),
        latency=latency,
        closeups=[_closeup(closeup) for closeup in main.closeups],
        searches=_searches(main),
        about={key: _words(value) for key, value in main.about.items() if key not in ("note", "kidnaps")},
        files=files,
    )


def partial_words(summary: Mapping[str, Any]) -> str:
    """What a page says of a run that was stopped."""
    read, expected = summary["frames_read"], summary["frames_expected"]
    known = expected is not None and read is not None
    extent = f"{read} of {expected} frames" if known else f"{summary['frames']} frames, of how many is not known"
    return f"{summary['name']} is partial: {extent}. The run was stopped, and all figures are of what it got to."


def _tiles(summary: dict[str, Any]) -> list[dict[str, str]]:
    """The figures that a reader wants first, with names and units."""

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


def _pose_errors(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """APE and RPE of all runs."""
    names = ("rmse", "mean", "median", "std", "min", "max", "sse")
    rows = []
    for summary in summaries:
        kinds = {"APE": summary["ape_m"] | {"pairs": None}}
        kinds |= {f"RPE, {step}": figures for step, figures in summary["rpe_m"].items()}
        prefix = f"{summary['name']}: " if len(summaries) > 1 else ""
        for kind, figures in kinds.items():
            cells = [FIGURES[f"ape_m.{name}"].text(figures[name]) for name in names]
            pairs = "" if figures["pairs"] is None else f"{figures['pairs']:.0f}"
            rows.append([prefix + kind, *cells, pairs])
    return {"headings": ["", *names, "pairs"], "rows": rows}


def calibration(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """NEES and coverage of all runs, and what is expected of a calibrated covariance."""
    keys = ["nees_mean", *(f"coverage_{k}sigma" for k in COVERAGE_EXPECTED)]
    rows = [[s["name"], *(FIGURES[key].text(FIGURES[key].of(s)) for key in keys)] for s in summaries]
    expected = [NEES_EXPECTED, *COVERAGE_EXPECTED.values()]
    rows.append(["expected", *(FIGURES[key].text(value) for key, value in zip(keys, expected, strict=True))])
    return {"headings": ["run", "NEES, mean", *(f"within {k}σ" for k in COVERAGE_EXPECTED)], "rows": rows}


def _words(value: Any) -> str:
    """A setting as text: lists and tables on one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(each)}" for key, each in value.items()) or "–"
    if isinstance(value, list | tuple):
        return "; ".join(_words(each) for each in value) or "–"
    return str(value)


def _outages(run: Run, summary: Mapping[str, Any]) -> dict[str, Any]:
    """The longest gaps of a run, in the order of time, and a sentence on all of them."""
    every = gaps(run.frames)
    shown = sorted(every, key=lambda gap: -gap.frames)[:_MOST_GAPS]
    first_s = run.frames[0].stamp_s if run.frames else 0.0
    rows = [
        [
            f"{gap.begin_s - first_s:.1f} s",
            str(gap.frames),
            "never" if math.isnan(gap.duration_s) else f"{gap.duration_s:.1f} s",
            gap.reason,
        ]
        for gap in sorted(shown, key=lambda gap: gap.begin_s)
    ]
    lost = sum(gap.frames for gap in every)
    words = f"{lost} of {len(run.frames)} frames have no valid fix, in {len(every)} gap{'s'[: len(every) != 1]}."
    recovery = summary["recovery_s"]
    if recovery["count"]:
        words += f" Time to the next fix: median {recovery['median']:.1f} s, longest {recovery['max']:.1f} s."
    words += f" Dropped frames, which were never looked at: {summary['dropped_frames']}."
    words += f" False fixes: {summary['false_fixes']} of {len(run.frames) - lost}."
    for event in run.about.get("kidnaps", []):
        after_s = event["found_after_s"]
        outcome = "not found again" if after_s is None else f"found after {after_s:.1f} s"
        words += f" Kidnap ({event['what']}): {outcome}."
    if len(every) > len(shown):
        words += f" The {len(shown)} longest gaps:"
    return {"words": words, "headings": ["begin", "frames", "fix after", "why it began"], "rows": rows}


def _latency(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Percentiles of a run by stage; None where no stage was timed."""
    figures = summary["latency_ms"]
    if not figures["stages"]:
        return None
    names = ("p50", "p95", "p99")
    rows = [
        [stage, *(FIGURES["latency_ms.p50"].text(each[name]) for name in names)]
        for stage, each in {**figures["stages"], "total": figures}.items()
    ]
    return {"headings": ["stage", *(f"{name}, ms" for name in names)], "rows": rows}


def _searches(run: Run) -> dict[str, Any]:
    """The searches of a run as text, with their pictures as data URIs."""
    first_s = run.frames[0].stamp_s if run.frames else 0.0
    return {
        "headings": ["begin", "took", "frames", "end", "odds", "distance"],
        "rows": [_search(search, first_s) for search in run.searches],
        "pictures": [
            {"image": jpeg(search.picture), "begin": f"{search.begin_s - first_s:.1f} s"}
            for search in run.searches
            if search.picture is not None
        ],
    }


def _search(search: SearchRecord, first_s: float) -> list[str]:
    return [
        f"{search.begin_s - first_s:.1f} s",
        f"{search.duration_s:.1f} s",
        str(search.frames),
        "found" if search.accepted else "not found",
        "–" if math.isinf(search.log_odds) else odds_text(search.log_odds),
        "–" if math.isnan(search.error_m) else f"{search.error_m:.1f} m",
    ]


def _closeup(closeup: Closeup) -> dict[str, Any]:
    """A worst frame's pictures as data URIs and its marks in pixels of the crop."""
    height, width = closeup.search_map.shape[:2]
    overlay = closeup.search_map
    if closeup.heatmap is not None:
        overlay = blend_heatmap(closeup.search_map, closeup.heatmap)
    return {
        "title": closeup.title,
        "query": jpeg(closeup.query),
        "map": jpeg(closeup.search_map),
        "overlay": jpeg(overlay),
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
