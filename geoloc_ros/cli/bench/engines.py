# SPDX-License-Identifier: Apache-2.0
"""Measure every engine against the plain network.

Measure every installed engine, each in a process of its own and all in turn, against the published network run by
PyTorch in float32 (plain-float32): with a new map, with a map whose features are cached, and with 32 maps at once. The
view and the maps are those of a short flight over a 10000x10000 COG, generated once in the output folder.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import add_device
from geoloc_ros.cli.shared.output import make_writable, plain_table, print_line, write_json

if TYPE_CHECKING:
    from geoloc_ros.cli.bench.engine_processes import Scene, Subject

WITHOUT_EXPORT = ("torch-float32", "torch-bf16")
OF_STRUCTURES = ("onnx-float32", "openvino-float32")
"""Engines that can be checked on random weights: they give the same answers as PyTorch."""
SCENE_FRAMES = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", metavar="FOLDER", type=Path, default=Path("out/bench"),
        help="folder for the map and engines.json, or engines_PRESET.json with --structure")  # fmt: skip
    add("--engines", metavar="E", nargs="+", help="engines to measure (default: all of docs/engines.md)")
    add("--rounds", metavar="N", type=int, default=8, help="turns of each engine")
    add("--cores", metavar="N", type=int, default=2, help="CPU cores and threads to use")
    add("--weights", metavar="W", default="default", help="weights by name or file")
    add("--structure", metavar="PRESET",
        help="a preset of `geoloc models` with random weights instead, as they do not change the cost; "
        f"measures {', '.join(WITHOUT_EXPORT)}, and {', '.join(OF_STRUCTURES)} exported for this run")  # fmt: skip
    add_device(parser, "auto: the CPU and, if there is one, the GPU; or cpu, or cuda")
    add("--guard", metavar="FILE", type=Path,
        help="engines.json of an earlier run on the same processor: exit with 1 if the ratio of an engine to the "
        "plain network has dropped, in two measurements, by 25%% or by the file's tolerance")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, write the JSON; 1 if an engine has become slower than the guard allows."""
    from geoloc_models.devices import choose_device
    from geoloc_models.engines.choice import KINDS
    from geoloc_models.engines.plain_engine import random_weights
    from geoloc_ros.cli.bench.engine_guard import Guard
    from geoloc_ros.cli.bench.engine_processes import Subject
    from geoloc_ros.cli.bench.measuring import keep_to_cores
    from geoloc_ros.cli.bench.stage_flight import conditions, devices_of, map_in

    if args.cores < 1 or args.rounds < 2:
        raise GeolocError(f"{args.rounds} rounds on {args.cores} cores: give at least 2 rounds and 1 core")
    if unknown := set(args.engines or ()).difference(KINDS):
        raise GeolocError(f"no engine is called {', '.join(sorted(unknown))}; choose of {', '.join(KINDS)}")
    guard = None if args.guard is None else Guard.read(args.guard)
    devices = devices_of(args.device)
    report: dict[str, Any] = {**conditions(devices, args.cores), "engines": [], "missing": []}
    if guard is not None:
        guard.check_processors(report["processors"])
    make_writable(folder=args.out)
    keep_to_cores(args.cores)
    console = Console()
    with contextlib.ExitStack() as stack:
        weights, folder = args.weights, None
        if args.structure is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            weights = str(random_weights(args.structure, folder))
        map_path = map_in(args.out)
        for device in devices:
            choose_device(device)
            subject = Subject(weights, device, args.cores, folder)
            report["weights"], scene = _scene(map_path, subject)
            names = args.engines or list(KINDS)
            rows, reasons = _measure(names, scene, subject, args.rounds, console)
            if guard is not None and (slow := sorted({row.engine for row in guard.worse(rows)})):
                print_line(console, f"below the guard's limits, measured again: {', '.join(slow)}")
                rows = guard.better(rows, _measure(slow, scene, subject, args.rounds, console)[0])
            report["engines"] += rows
            report["missing"] += [{"engine": e, "device": device, "reason": why} for e, why in reasons.items()]
    name = "engines.json" if args.structure is None else f"engines_{args.structure}.json"
    write_json(args.out / name, report)
    for device in devices:
        _print(report, device, console)
    worse = [] if guard is None else guard.worse(report["engines"])
    for row in worse:
        print_line(console, str(row))
    return 1 if worse else 0


def _scene(map_path: Path, subject: Subject) -> tuple[str, Scene]:
    """The id of the weights, and a view and maps of the flight, as the localizer's engine is given them."""
    import numpy as np

    from geoloc_models.engines.choice import open_engine
    from geoloc_ros.cli.bench.engine_processes import Scene
    from geoloc_ros.cli.bench.stage_flight import measure_stages

    engine = open_engine(subject.weights, subject.device, subject.cores, folder=subject.folder)
    seen = measure_stages(map_path, engine, SCENE_FRAMES)
    side = 2 * engine.spec.query_px
    return engine.spec.weights_id, Scene(seen.query, seen.search_map, np.resize(seen.search_map, (side, side, 3)))


def _measure(
    names: Sequence[str], scene: Scene, subject: Subject, rounds: int, console: Console
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Rows of the engines that run on this device, and the reasons why others are missing."""
    from geoloc_models.devices import choose_device
    from geoloc_models.engines.choice import KINDS, installed
    from geoloc_ros.cli.bench.engine_processes import PLAIN, measure_engines

    kind = choose_device(subject.device).type
    names = [name for name in names if KINDS[name].device in ("any", kind)]
    with console.status("engines") as status:
        if subject.folder is not None:
            names = [name for name in names if name in (*WITHOUT_EXPORT, *OF_STRUCTURES)]
            for name in set(OF_STRUCTURES).intersection(names, installed(subject.device)):
                status.update(f"exporting {name}")
                _export(name, subject, subject.folder, scene)
        return measure_engines(
            [PLAIN, *names], subject, scene, rounds, lambda text: status.update(f"{subject.device}: {text}")
        )


def _export(name: str, subject: Subject, folder: Path, scene: Scene) -> None:
    """Export an engine of a structure; its record holds whether it gives PyTorch's answers."""
    import numpy as np

    from geoloc_models.engines.export import Sample, export

    middle = (scene.search_map.shape[1] / 2, scene.search_map.shape[0] / 2)
    maps = (scene.search_map, np.flip(scene.search_map, 1).copy())
    samples = [Sample(scene.query, image, 1.0, middle) for image in maps]
    export(name, subject.weights, folder, samples, "images of the bench", subject.device, subject.cores)


def _print(report: dict[str, Any], device: str, console: Console) -> None:
    from geoloc_ros.cli.bench.engine_processes import PLAIN

    print_line(
        console,
        f"{report['weights']} on {device} with {report['cores']} cores: milliseconds, maps a second, times as fast as "
        f"{PLAIN}, largest difference of a logit from its, peak memory in MB",
    )
    table = plain_table(("engine", "map"), ("maps", "p50", "p95", "p99", "maps/s", "ratio", "off by", "MB"))
    rows, missing = ([row for row in report[kind] if row["device"] == device] for kind in ("engines", "missing"))
    for row in rows:
        took = [row[f"{share}_ms"] for share in ("p50", "p95", "p99")]
        table.add_row(
            row["engine"], row["map"], str(row["batch"]), *(f"{ms:.{0 if ms > 1e3 else 1}f}" for ms in took),
            f"{row['per_second']:.1f}", f"{row['ratio_to_plain']:.2f}",
            f"{row['max_logit_error']:.0e}", f"{row['peak_mb']:.0f}",
        )  # fmt: skip
    for row in missing:
        table.add_row(row["engine"], "none", *("",) * 8)
    console.print(table)
    for row in missing:
        print_line(console, f"no {row['engine']}: {row['reason']}")
    for row in rows:
        if "synchronizations" in row:
            print_line(
                console,
                f"{row['engine']}, a {row['map']} map: {row['allocations']:g} allocations, "
                f"{row['driver_allocations']:g} of them by the driver, {row['synchronizations']:g} waits for the GPU",
            )
