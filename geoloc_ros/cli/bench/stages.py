# SPDX-License-Identifier: Apache-2.0
"""Measure milliseconds by stage, from camera to fix.

Fly 1280x960 images over a 10000x10000 COG, generated once in the output folder, and measure each stage from the
camera's bytes to the fix, with the engine that the localizer would choose.
"""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import add_device
from geoloc_ros.cli.shared.output import make_writable, plain_table, print_line, write_json

TARGET_MS = 12.0
"""Median that all stages but the network must stay under together, on two cores."""

MOST_ALIGNMENT = 25.0
"""Largest share that the alignment may add to a frame's time without it, percent."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", metavar="FOLDER", type=Path, default=Path("out/bench"), help="folder for map and stages.json")
    add("--frames", metavar="N", type=int, default=60, help="frames to measure")
    add("--cores", metavar="N", type=int, default=2, help="CPU cores and threads to use")
    add("--weights", metavar="W", default="default", help="weights by name or file")
    add_device(parser, "auto: the CPU and, if there is one, the GPU; or cpu, or cuda")


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, write stages.json."""
    from geoloc_models.devices import choose_device
    from geoloc_models.engines.choice import open_engine
    from geoloc_ros.cli.bench.measuring import keep_to_cores, percentiles
    from geoloc_ros.cli.bench.stage_flight import conditions, devices_of, map_in, measure_stages

    if args.frames < 2 or args.cores < 1:
        raise GeolocError(f"{args.frames} frames on {args.cores} cores: give at least 2 frames and 1 core")
    devices = devices_of(args.device)
    report: dict[str, Any] = {**conditions(devices, args.cores), "stages": []}
    make_writable(folder=args.out)
    keep_to_cores(args.cores)
    console, map_path = Console(), map_in(args.out)
    for device in devices:
        choose_device(device)
        engine = open_engine(args.weights, device, args.cores)
        samples = measure_stages(map_path, engine, args.frames)
        report["weights"] = engine.spec.weights_id
        report["stages"].append(
            {
                "device": engine.spec.label,
                "frames": args.frames,
                "search_px": len(samples.search_map),
                "stages_ms": {stage: percentiles(values) for stage, values in samples.stages.items()},
                "alignment_share": samples.alignment_share,
                "beside_network_ms": percentiles(samples.beside_network),
                "total_ms": percentiles(samples.total),
            }
        )
    write_json(args.out / "stages.json", report)
    for stages in report["stages"]:
        _print(stages, console)
    return 0


def _print(stages: dict[str, Any], console: Console) -> None:
    from geoloc_ros.cli.bench.measuring import verdict

    print_line(console, f"milliseconds by stage, network on {stages['device']}; a crop serves the frames that it holds")
    table = plain_table(("stage",), ("p50", "p95", "p99"))
    # The alignment is a part of the network's time.
    rows = {stage: stages["stages_ms"][stage] for stage in
            ("decode JPEG", "decode raw", "rectify", "crop", "network", "alignment", "heatmap", "fix")}  # fmt: skip
    rows |= {"all but the network": stages["beside_network_ms"], "JPEG to fix": stages["total_ms"]}
    for stage, ms in rows.items():
        table.add_row(stage, *(f"{value:.2f}" for value in ms.values()))
    console.print(table)
    if stages["alignment_share"] > 0:
        share = 100 * stages["alignment_share"]
        print_line(console, f"alignment adds {share:.0f} % p50 to a frame, {verdict(share, MOST_ALIGNMENT, '%')}")
    median_ms = stages["beside_network_ms"]["p50"]
    print_line(console, f"all but the network: {median_ms:.2f} ms p50, {verdict(median_ms, TARGET_MS, 'ms')}")
