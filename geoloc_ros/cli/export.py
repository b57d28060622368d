# SPDX-License-Identifier: Apache-2.0
"""Export a faster engine and check it.

Write an engine that runs the network faster than PyTorch, and check it: the same real views in the same map crops, how
far do its fixes lie from those of PyTorch in float32? What is found is written beside it as engine.json. The localizer
takes only engines that passed, made of the very weights it flies with; with engine:=auto it takes the fastest of them.
Exit status 1 if the check failed.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import add_device
from geoloc_ros.cli.shared.output import make_writable, rated_progress

if TYPE_CHECKING:
    from geoloc_models.engines.export import Sample

GENERATED = "generated world"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--weights", default="default", metavar="W", help="name or file (default: default)")
    add("--retrieval-weights", default="retrieval", metavar="W", help="also for the search of a gallery; empty: none")
    add(
        "--engine",
        action="append",
        metavar="E",
        help="which engine; repeat for more (default: all that this machine can make)",
    )
    add(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="where engines are kept; the node's engine_folder (default: the user's cache)",
    )
    add(
        "--calibrate",
        type=Path,
        metavar="FLIGHT",
        help="flight folder or bag with true positions, to check with and to calibrate int8 on (default: a "
        "generated world is flown over)",
    )
    add("--map", type=Path, metavar="M", help="raster to search; default: the flight folder's map.tif")
    add("--frames", type=int, default=40, metavar="N", help="views to check with (default: 40)")
    add_device(parser)
    add("--threads", type=int, default=2, metavar="N", help="CPU threads (default: 2)")
    add("--missing", action="store_true", help="only engines that have not passed for these weights here yet")
    add("--list", action="store_true", help="tell which engines there are for these weights, and end")


def run(args: argparse.Namespace) -> int:
    """Export, check, tell."""
    from geoloc_models.devices import fix_threads
    from geoloc_models.engines.choice import exportable
    from geoloc_models.engines.export import export
    from geoloc_models.engines.export_records import default_folder
    from geoloc_models.engines.retriever_engine import export_retriever, exportable_retriever, retriever_id
    from geoloc_models.weights import weights_id

    folder = args.out or default_folder()
    if args.list:
        return _list(args, folder)
    if args.frames < 2:
        raise GeolocError(f"--frames {args.frames} checks nothing: give at least 2")
    make_writable(folder)
    fix_threads(args.threads)
    names = args.engine or exportable(args.device)
    of_retriever = [name for name in exportable_retriever(args.device) if name in names and args.retrieval_weights]
    if args.missing:
        network, retriever = weights_id(args.weights), retriever_id(args.retrieval_weights) if of_retriever else ""
        names = [name for name in names if not _has_passed(folder, network, name)]
        of_retriever = [name for name in of_retriever if not _has_passed(folder, retriever, name)]
        if not names and not of_retriever:
            return 0
    samples, source = _samples(args)
    failed = False
    for name in names:
        with rated_progress() as progress:
            task = progress.add_task(name, total=len(samples))
            record = export(
                name, args.weights, folder, samples, source, args.device, args.threads, partial(progress.advance, task)
            )
        check = record.check
        print(
            f"{name} {record.weights_id}: {check.failure or 'passed'}; largest logit error "
            f"{check.max_logit_error:.2g}, fixes moved {check.moved_median_m:.3f} m at the median, "
            f"{check.moved_p95_m:.3f} m at 95 %; MA@20 {check.ma20:.3f}, PyTorch {check.torch_ma20:.3f}; "
            f"{check.median_ms:.0f} ms, PyTorch {check.torch_ms:.0f} ms"
        )
        failed = failed or bool(check.failure)
    for name in of_retriever:
        images = [sample.query for sample in samples]
        record = export_retriever(name, args.retrieval_weights, folder, images, source, args.threads)
        check = record.check
        print(
            f"{name} {record.weights_id}: {check.failure or 'passed'}; vectors at most {check.max_logit_error:.2g} off "
            f"PyTorch's; {check.median_ms:.0f} ms, PyTorch {check.torch_ms:.0f} ms"
        )
        failed = failed or bool(check.failure)
    print(f"in {folder}, checked on {len(samples)} views, {source}")
    return int(failed)


def _has_passed(folder: Path, weights_id: str, name: str) -> bool:
    from geoloc_models.engines.export_records import read_record

    try:
        read_record(folder, weights_id, name)
    except GeolocError:
        return False
    return True


def _list(args: argparse.Namespace, folder: Path) -> int:
    from geoloc_models.engines.choice import KINDS, fastest
    from geoloc_models.engines.export_records import read_record
    from geoloc_models.weights import weights_id

    own = weights_id(args.weights)
    chosen = fastest(own, args.device, folder) or "torch"
    for name in KINDS:
        if name.startswith("torch-"):
            continue
        try:
            check = read_record(folder, own, name).check
            print(f"{name}: passed, {check.median_ms / check.torch_ms:.2f} of PyTorch's time")
        except GeolocError as error:
            print(f"{name}: {error}")
    print(f"engine:=auto takes {chosen} for {own}")
    return 0


def _samples(args: argparse.Namespace) -> tuple[list[Sample], str]:
    """Views and maps to check with, spread over the flight, and where they are from."""
    import tempfile

    from geoloc_models.engines.torch_engine import TorchEngine
    from geoloc_ros.cli.shared.recordings import open_reported, require_on_map, require_truth
    from geoloc_ros.core.evaluation.engine_samples import draw_samples
    from geoloc_ros.core.maps.raster import RasterMap
    from geoloc_ros.core.simulation.generated_flight import generate_flight

    network = TorchEngine(args.weights, args.device)
    with tempfile.TemporaryDirectory() as scratch:
        flight = args.calibrate or generate_flight(Path(scratch), 0)
        recording = open_reported(flight, [])
        require_truth(recording)
        map_path = args.map or recording.map_path
        with RasterMap(map_path) as raster:
            require_on_map(recording, raster, map_path)
            samples = draw_samples(recording, raster, network, args.frames)
    if not samples:
        raise GeolocError(f"no frame of {flight} could be searched on {map_path}: give the map it flew over")
    return samples, f"{flight.name} on {map_path.name}" if args.calibrate else GENERATED
