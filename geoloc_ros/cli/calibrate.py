# SPDX-License-Identifier: Apache-2.0
"""Calibrate a network's stated probabilities.

Fit the temperature of weights on one half of the held-out places, show on the other half what it does, and write the
weights with it. The temperature is the one under which the peak best foretells whether the answer is right (within 10
m). Runs the network once on each sample.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import add_device
from geoloc_ros.cli.shared.output import make_writable, rated_progress

if TYPE_CHECKING:
    from geoloc_models.evaluation.calibration import Answer

SETS = ("levir", "srif")


Part = Literal["calibration", "judging"]


PARTS: tuple[Part, ...] = ("calibration", "judging")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("weights", metavar="WEIGHTS", help="name or file")
    add("data", type=Path, metavar="DATA", help="folder with pairs/")
    add("--out", type=Path, required=True, metavar="FILE", help="where to write the calibrated weights")
    add(
        "--eight-bit", action="store_true",
        help="write matrices as int8 with a scale per 64 inputs: half the size of float16",
    )  # fmt: skip
    add_device(parser)
    add("--threads", type=int, default=2, metavar="N", help="CPU threads (default: 2)")
    add("--limit", type=int, metavar="N", help="use this many samples of each set only")


def run(args: argparse.Namespace) -> int:
    """Fit, report, write."""
    from geoloc_models.devices import fix_threads

    if args.out.suffix != ".safetensors":
        raise GeolocError(f"--out is {args.out}: weights are written as .safetensors, name such a file")
    make_writable(file=args.out)
    fix_threads(args.threads)
    digest = calibrate_file(args.weights, args.data, args.out, args.device, args.limit, args.eight_bit)
    print(f"wrote {args.out}, SHA-256 {digest}")
    return 0


def calibrate_file(
    weights: str | Path, data: Path, out: Path, device: str, limit: int | None = None, eight_bit: bool = False
) -> str:
    """Write `weights` with a new temperature; the file's SHA-256."""
    from dataclasses import replace

    from geoloc_models.evaluation.calibration import fit_temperature, peak_calibration
    from geoloc_models.weights import load_weights, save_weights

    fitted, judged = (_answers(weights, data, device, limit, part) for part in PARTS)
    loaded = load_weights(weights)
    factor = fit_temperature(fitted)
    temperature = round(loaded.info.temperature * factor, 3)
    print(f"temperature {loaded.info.temperature} -> {temperature}, fitted on {len(fitted)} samples")
    print(f"on {len(judged)} samples of other places:")
    for title, stated in (("before", 1.0), ("after", factor)):
        error, coverage = peak_calibration(judged, stated)
        print(f"  {title:6s} calibration error {error:.3f}, truth within 2 sigma {coverage:.3f}")
    return save_weights(out, loaded.model, replace(loaded.info, temperature=temperature), eight_bit)


def _answers(weights: str | Path, data: Path, device: str, limit: int | None, part: Part) -> list[Answer]:
    from geoloc_models.engines.torch_engine import TorchEngine
    from geoloc_models.evaluation.calibration import Answer
    from geoloc_models.evaluation.view_sets import PairProtocol
    from geoloc_models.evaluation.views import fit_to_engine
    from geoloc_ros.core.evaluation.recorded_view_sets import open_set

    engine = TorchEngine(weights, device=device)
    protocol = PairProtocol(limit=limit, part=part)
    sets = [open_set(data, name, protocol, [], None) for name in SETS]
    answers = []
    with rated_progress() as progress:
        task = progress.add_task(f"{part} half", total=sum(len(one) for one in sets))
        for one in sets:
            for index in range(len(one)):
                sample = one.draw(index)
                progress.advance(task)
                if sample is None:
                    continue
                query, search_map, ratio = fit_to_engine(sample, engine)
                logits, stride_px = engine.logits(query[None], search_map[None])
                target_x, target_y = sample.target_xy_px
                answers.append(Answer(logits[0], stride_px, (target_x / ratio, target_y / ratio), sample.gsd_m * ratio))
    return answers
