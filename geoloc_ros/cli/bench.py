# SPDX-License-Identifier: Apache-2.0
"""`geoloc bench`: every engine beside the plain network, and milliseconds by stage from camera to fix."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from geoloc_models.devices import choose_device
from geoloc_models.engines.choice import KINDS, installed, open_engine, processor_of
from geoloc_models.engines.plain_engine import random_weights
from geoloc_models.errors import GeolocError
from geoloc_ros.cli.arguments import add_device, make_writable
from geoloc_ros.cli.bench_engines import CANDIDATES, PLAIN, Scene, Subject, measure_engines
from geoloc_ros.cli.bench_stages import CAMERA, MAP_PX, SEARCH_M, make_map, measure_stages
from geoloc_ros.cli.measuring import keep_to_cores, percentiles, verdict

TARGET_MS = 12.0
"""Median that all stages but the network must stay under together, on two cores."""
WITHOUT_EXPORT = ("torch-float32", "torch-bf16")
OF_STRUCTURES = ("onnx-float32", "openvino-float32")
"""Engines whose export says something without trained weights: those that give the very same answers."""
GUARD_TOLERANCE = 0.25
"""Share by which a ratio may fall below that of the guard's file unless the file says otherwise."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "bench",
        help="measure engines beside the plain network, and milliseconds by stage",
        description="Measure every engine that is here, each in a process of its own and all in turn, beside the "
        f"network as published run by PyTorch in float32 ({PLAIN}): with a map that it sees for the first time, with "
        f"one whose features it has kept, and with {CANDIDATES} maps at once. Then fly {CAMERA.width}x{CAMERA.height} "
        f"pictures over a {MAP_PX}x{MAP_PX} COG, made once, and measure each stage from the camera's bytes to the fix.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--out",
        metavar="FOLDER",
        type=Path,
        default=Path("out/bench"),
        help="folder for map and bench.json, or bench_PRESET.json with --structure",
    )
    add(
        "--engines",
        metavar="E",
        nargs="+",
        default=list(KINDS),
        choices=list(KINDS),
        help=f"engines to measure beside {PLAIN}: {', '.join(KINDS)}",
    )
    add("--rounds", metavar="N", type=int, default=8, help="turns of each engine")
    add("--frames", metavar="N", type=int, default=60, help="pictures whose stages are measured")
    add("--cores", metavar="N", type=int, default=2, help="CPU cores and threads to use")
    add("--weights", metavar="W", default="default", help="weights by name or file")
    add(
        "--structure",
        metavar="PRESET",
        help="a structure of `geoloc models` with random weights instead, as what it costs does not depend on them; "
        f"measures {', '.join(WITHOUT_EXPORT)}, and {', '.join(OF_STRUCTURES)} exported for this run",
    )
    add_device(parser, "auto: the CPU and, if there is one, the GPU; or cpu, or cuda")
    add(
        "--guard",
        metavar="FILE",
        type=Path,
        help="bench.json of an earlier run on such a processor: exit with 1 if an engine's ratio to the plain network "
        f"has become worse, in two measurements, by {GUARD_TOLERANCE:.0%}% or what the file gives as tolerance",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, write the JSON."""
    if args.frames < 2 or args.cores < 1 or args.rounds < 2:
        raise GeolocError(
            f"{args.frames} frames, {args.rounds} rounds, {args.cores} cores: give at least 2 frames, 2 rounds, 1 core"
        )
    guard = None if args.guard is None else Guard.read(args.guard)
    devices = [args.device]
    if args.device == "auto":
        devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    with contextlib.ExitStack() as stack:
        weights, folder = args.weights, None
        if args.structure is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            weights = str(random_weights(args.structure, folder))
        subjects = [Subject(weights, device, args.cores, folder) for device in devices]
        return _run(args, subjects, guard)


def _run(args: argparse.Namespace, subjects: Sequence[Subject], guard: Guard | None) -> int:
    devices = [subject.device for subject in subjects]
    report: dict[str, Any] = {
        "cores": args.cores,
        "weights": "",
        "processors": {device: processor_of(device) for device in devices},
        "map_px": MAP_PX,
        "frame_px": [CAMERA.width, CAMERA.height],
        "search_m": 2 * SEARCH_M,
        "engines": [],
        "missing": [],
        "stages": [],
    }
    if guard is not None:
        guard.check_processors(report["processors"])
    make_writable(folder=args.out)
    keep_to_cores(args.cores)
    console = Console()
    path = args.out / f"map_{MAP_PX}.tif"
    make_map(path)
    for subject in subjects:
        device = subject.device
        choose_device(device)
        stages, scene = _stages(path, subject, args.frames)
        rows, reasons = _engines(args.engines, scene, subject, args.rounds, console)
        if guard is not None and (worse := guard.worse(rows)):
            names = sorted({found.engine for found in worse})
            console.print(
                f"below the guard's limits, measured again: {', '.join(names)}",
                highlight=False,
                soft_wrap=True,
            )
            again, _ = _engines(names, scene, subject, args.rounds, console)
            rows = guard.better(rows, again)
        report["weights"] = stages.pop("weights")
        report["engines"] += rows
        report["missing"] += [
            {"engine": name, "device": device, "reason": why} for name, why in reasons.items()
        ]
        report["stages"].append(stages)
    name = "bench.json" if args.structure is None else f"bench_{args.structure}.json"
    (args.out / name).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for device, stages in zip(devices, report["stages"], strict=True):
        _print_engines(report, device, console)
        _print_stages(stages, console)
    worse = [] if guard is None else guard.worse(report["engines"])
    for found in worse:
        console.print(str(found), highlight=False, soft_wrap=True)
    return 1 if worse else 0


def _engines(
    names: Sequence[str], scene: Scene, subject: Subject, rounds: int, console: Console
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of this device's engines, and why there are none of others."""
    kind = choose_device(subject.device).type
    names = [name for name in names if KINDS[name].device in ("any", kind)]
    with console.status("engines") as status:
        if subject.folder is not None:
            names = [name for name in names if name in (*WITHOUT_EXPORT, *OF_STRUCTURES)]
            for name in set(OF_STRUCTURES).intersection(names, installed(subject.device)):
                status.update(f"exporting {name}")
                _export(name, subject, subject.folder, scene)
        return measure_engines(
            [PLAIN, *names],
            subject,
            scene,
            rounds,
            lambda text: status.update(f"{subject.device}: {text}"),
        )


def _export(name: str, subject: Subject, folder: Path, scene: Scene) -> None:
    """Make an engine of a structure; whether it gives PyTorch's answers is told by its record."""
    from geoloc_models.engines.export import Sample, export

    middle = (scene.search_map.shape[1] / 2, scene.search_map.shape[0] / 2)
    maps = (scene.search_map, np.flip(scene.search_map, 1).copy())
    samples = [Sample(scene.query, image, 1.0, middle) for image in maps]
    export(name, subject.weights, folder, samples, "the bench's pictures", subject.device, subject.cores)


def _stages(path: Path, subject: Subject, frames: int) -> tuple[dict[str, Any], Scene]:
    """Milliseconds by stage with the engine that the localizer would take, and what it saw last."""
    engine = open_engine(subject.weights, subject.device, subject.cores, folder=subject.folder)
    samples = measure_stages(path, engine, frames)
    side = 2 * engine.spec.query_px
    scene = Scene(samples.query, samples.search_map, np.resize(samples.search_map, (side, side, 3)))
    stages = {
        "weights": engine.spec.weights_id,
        "device": engine.spec.label,
        "frames": frames,
        "search_px": len(samples.search_map),
        "stages_ms": {stage: percentiles(values) for stage, values in samples.stages.items()},
        "beside_network_ms": percentiles(samples.beside_network),
        "total_ms": percentiles(samples.total),
    }
    return stages, scene


@dataclass(frozen=True)
class Guard:
    """Ratios that must not become worse."""

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Guard:
        """GeolocError for a file that is no bench.json."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not (content["engines"] and isinstance(content["processors"], dict)):
                raise ValueError("it holds no engines")
            for row in content["engines"]:
                cls._key(row)
                float(row["ratio_to_plain"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GeolocError(f"{path} is no bench.json of geoloc bench: {error}") from None
        return cls(path, content)

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple[str, str, int, str]:
        return row["engine"], row["device"], row["batch"], row["map"]

    def check_processors(self, here: dict[str, str]) -> None:
        """GeolocError unless they are the file's: what half precision gains, say, differs between processors."""
        for device, name in here.items():
            known = self.content["processors"].get(device)
            if known != name:
                raise GeolocError(
                    f"{self.path} holds ratios of {known or 'no ' + device}, this is {name}: write one here with "
                    "geoloc bench"
                )

    def worse(self, rows: list[dict[str, Any]]) -> list[Worse]:
        """The ratios that have become worse; an engine that is not here is no slower."""
        found = {self._key(row): row["ratio_to_plain"] for row in rows}
        share = 1.0 - self.content.get("tolerance", GUARD_TOLERANCE)
        return [
            Worse(
                *self._key(row), found[self._key(row)], row["ratio_to_plain"], row["ratio_to_plain"] * share
            )
            for row in self.content["engines"]
            if found.get(self._key(row), math.inf) < row["ratio_to_plain"] * share
        ]

    def better(self, rows: list[dict[str, Any]], again: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of each row the one with the higher ratio, as others on the machine slow one engine for a while."""
        second = {self._key(row): row for row in again}
        return [max(row, second.get(self._key(row), row), key=_ratio) for row in rows]


class Worse(NamedTuple):
    """An engine's ratio in one mode, what it was, and how low it may be."""

    engine: str
    device: str
    batch: int
    map: str
    ratio: float
    before: float
    limit: float

    def __str__(self) -> str:
        maps = f"{self.batch} {self.map} map{'s' * (self.batch > 1)}"
        return (
            f"worse: {self.engine} on {self.device}, {maps}: {self.ratio:.2f} times as fast as the plain network, "
            f"it was {self.before:.2f}, the limit is {self.limit:.2f}"
        )


def _ratio(row: dict[str, Any]) -> float:
    return float(row["ratio_to_plain"])


def _print_engines(report: dict[str, Any], device: str, console: Console) -> None:
    console.print(
        f"{report['weights']} on {device} with {report['cores']} cores: milliseconds, maps a second, times as fast as "
        f"{PLAIN}, largest difference of a logit from its, MB that the engine takes at most",
        highlight=False,
        soft_wrap=True,
    )
    left, right = ("engine", "map"), ("maps", "p50", "p95", "p99", "maps/s", "ratio", "off by", "MB")
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for column in (*left, *right):
        table.add_column(column, no_wrap=True, justify="left" if column in left else "right")
    rows, missing = (
        [row for row in report[kind] if row["device"] == device] for kind in ("engines", "missing")
    )
    for row in rows:
        took = [row[f"{share}_ms"] for share in ("p50", "p95", "p99")]
        table.add_row(
            *(
                row["engine"],
                row["map"],
                str(row["batch"]),
                *(f"{ms:.{0 if ms > 1e3 else 1}f}" for ms in took),
            ),
            *(f"{row['per_second']:.1f}", f"{row['ratio_to_plain']:.2f}"),
            *(f"{row['max_logit_error']:.0e}", f"{row['peak_mb']:.0f}"),
        )
    for row in missing:
        table.add_row(row["engine"], "none", *("",) * 8)
    console.print(table)
    for row in missing:
        console.print(f"no {row['engine']}: {row['reason']}", highlight=False, soft_wrap=True)
    for row in rows:
        if "synchronizations" in row:
            console.print(
                f"{row['engine']}, a {row['map']} map: {row['allocations']:g} allocations, "
                f"{row['driver_allocations']:g} of them by the driver, {row['synchronizations']:g} waits for the GPU",
                highlight=False,
                soft_wrap=True,
            )


def _print_stages(stages: dict[str, Any], console: Console) -> None:
    console.print(
        f"milliseconds by stage, network on {stages['device']}; a crop serves the frames that it holds",
        highlight=False,
        soft_wrap=True,
    )
    table = Table("stage", *("p50", "p95", "p99"), box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    total = stages["beside_network_ms"]
    for stage in ("decode JPEG", "decode raw", "rectify", "crop", "network", "heatmap", "fix"):
        table.add_row(stage, *(f"{ms:.2f}" for ms in stages["stages_ms"][stage].values()))
    table.add_row("all but the network", *(f"{ms:.2f}" for ms in total.values()))
    table.add_row("JPEG to fix", *(f"{ms:.2f}" for ms in stages["total_ms"].values()))
    console.print(table)
    console.print(
        f"all but the network: {total['p50']:.2f} ms p50, {verdict(total['p50'], TARGET_MS, 'ms')}",
        soft_wrap=True,
        highlight=False,
    )
