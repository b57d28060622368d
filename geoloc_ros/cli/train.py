# SPDX-License-Identifier: Apache-2.0
"""`geoloc train`: train a network on picture pairs or on a data set in the UL14 layout."""

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.arguments import add_device, make_writable, seed

if TYPE_CHECKING:
    from geoloc_models.training.plans import Plan
    from geoloc_models.training.processes import Processes

SOURCES = ("levir", "srif", "dsifn", "tiles")
LOSSES = ("spatial", "wbl", "hann", "balance", "cross_entropy", "focal")

PAIRS_ONLY = ("source", "samples", "heading_deg", "query_px")
UL14_ONLY = ("epochs", "held_out_place", "rsc", "satellite_gsd_m")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "train",
        help="train a network on picture pairs or UL14",
        description="Train a preset: on DATA in the UL14 layout (train/) by the DRL paper's recipe, or on pictures of "
        "the same ground at two dates (pairs/, tiles/) by ours. Held-out places are never trained on. Continues from "
        "OUT/checkpoint.pt if it is there. Several GPUs: torchrun --nproc-per-node N -m geoloc_ros.cli.main train ...",
    )
    parser.add_argument("data", type=Path, help="folder in one of the layouts of docs/training.md")
    parser.add_argument(
        "preset", nargs="?", default="mix_compact", help="what `geoloc models` lists (default %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("out/train"), help="run folder (default %(default)s)"
    )
    parser.add_argument(
        "--backbone-weights",
        type=Path,
        metavar="FILE",
        help="start the backbone from DINOv2 ViT-S/14 (timm names) or from CvT-13 of its model zoo",
    )
    parser.add_argument(
        "--start-from",
        metavar="W",
        help="start from trained weights, by name or file; mix_hybrid also takes those of mix_compact",
    )
    parser.add_argument(
        "--distill-from",
        metavar="W",
        help="learn from the heatmaps of these weights too, by name or file: a small network from a large one",
    )
    parser.add_argument(
        "--loss", choices=LOSSES, help="default: spatial on picture pairs, the preset's own on UL14"
    )
    parser.add_argument(
        "--learning-rate",
        type=float,
        help="peak learning rate (default: 1.2e-3 on picture pairs, 1.5e-4 on UL14)",
    )
    parser.add_argument(
        "--maps-per-batch",
        type=int,
        default=8,
        help="search maps a batch, in all processes together; six views each on picture pairs, one on UL14 "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=("bfloat16", "float32"),
        help="of the network's forward pass (default: bfloat16 on picture pairs, float32 on UL14, as published)",
    )
    parser.add_argument(
        "--workers", type=int, help="processes that draw samples (default: the cores, 8 at most)"
    )
    parser.add_argument(
        "--seed", type=seed, default=666, help="seed of weights and samples (default %(default)s)"
    )
    add_device(parser)
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="where to write the weights (default OUT/PRESET.safetensors)",
    )
    pairs = parser.add_argument_group("picture pairs")
    pairs.add_argument(
        "--source", action="append", choices=SOURCES, help="use only these sources (repeat; default all)"
    )
    pairs.add_argument("--samples", type=int, help="query/map pairs in all (default 160000)")
    pairs.add_argument(
        "--heading-deg", type=float, help="largest heading error drawn (180: unknown; default 15)"
    )
    pairs.add_argument(
        "--query-px",
        type=int,
        help="side of the views, a multiple of 16; maps are three times as wide (default: preset's)",
    )
    ul14 = parser.add_argument_group("UL14 layout")
    ul14.add_argument("--epochs", type=int, help="default 12")
    ul14.add_argument(
        "--held-out-place",
        action="append",
        metavar="PLACE",
        help="choose the weights on this place of train/ and train on the others (repeat; default every fifth place; "
        "none: train on all and keep the last weights)",
    )
    ul14.add_argument(
        "--rsc",
        metavar="SIDES",
        help="sides of random scale crops, px: 512 or 512,768 or 512-1000 (default: preset's)",
    )
    ul14.add_argument(
        "--satellite-gsd-m",
        type=float,
        help="metres a pixel of the maps in train/ (default 0.46: UL14 does not tell, its generator suggests so)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, calibrate and export."""
    from geoloc_models.training.processes import join_processes

    _check(args)
    with join_processes(args.device) as processes:
        _train(args, processes)
    return 0


def _check(args: argparse.Namespace) -> None:
    """All that can be said of the arguments without the data; GeolocError at the first mistake."""
    from geoloc_models.drl.presets import PRESETS

    if args.preset not in PRESETS:
        raise GeolocError(f"no preset is called {args.preset!r}: `geoloc models` lists them")
    for name in ("samples", "epochs", "maps_per_batch", "learning_rate", "satellite_gsd_m"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise GeolocError(f"--{name.replace('_', '-')} is {value}: give a positive number")
    if args.query_px is not None and (args.query_px < 32 or args.query_px % 16):
        raise GeolocError(f"--query-px is {args.query_px}: give a multiple of 16 from 32 up")
    if args.workers is not None and args.workers < 0:
        raise GeolocError(f"--workers is {args.workers}: give 0 or more")
    is_ul14 = _is_ul14(args.data)
    for name in PAIRS_ONLY if is_ul14 else UL14_ONLY:
        if getattr(args, name) is not None:
            kinds = ("picture pairs", "the UL14 layout")
            raise GeolocError(
                f"--{name.replace('_', '-')} is for {kinds[not is_ul14]}, but {args.data} holds {kinds[is_ul14]}: "
                "leave it out"
            )


def _is_ul14(data: Path) -> bool:
    if (data / "train").is_dir():
        return True
    if (data / "pairs").is_dir() or (data / "tiles").is_dir():
        return False
    raise GeolocError(
        f"{data} holds neither train/ (the UL14 layout) nor pairs/ or tiles/ (picture pairs): docs/training.md "
        "shows both layouts"
    )


def _plan(args: argparse.Namespace) -> "Plan":
    """The recipe of the data's layout with what the arguments change of it."""
    from geoloc_models.drl.presets import PRESETS
    from geoloc_models.training.plans import plan_pairs, plan_ul14
    from geoloc_models.training.recipe import PAPER, TrainingSettings

    preset = PRESETS[args.preset]
    is_ul14 = _is_ul14(args.data)
    recipe = (
        replace(PAPER, loss=preset.loss) if is_ul14 else TrainingSettings(samples=args.samples or 160_000)
    )
    settings = replace(
        recipe,
        maps_per_batch=args.maps_per_batch,
        seed=args.seed,
        loss=args.loss or recipe.loss,
        learning_rate=args.learning_rate or recipe.learning_rate,
        half=recipe.half if args.precision is None else args.precision == "bfloat16",
    )
    if not is_ul14:
        if args.query_px is not None:
            preset = replace(preset, query_px=args.query_px, map_px=3 * args.query_px)
        heading_deg = 15.0 if args.heading_deg is None else args.heading_deg
        return plan_pairs(args.data, preset, settings, args.source or SOURCES, heading_deg)
    places = [] if args.held_out_place == ["none"] else args.held_out_place
    return plan_ul14(
        args.data, preset, settings, args.epochs or 12, places, args.rsc, args.satellite_gsd_m or 0.46
    )


def _train(args: argparse.Namespace, processes: "Processes") -> None:
    import torch

    from geoloc_models.drl.presets import build
    from geoloc_models.training.distillation import Teacher
    from geoloc_models.training.held_out import HeldOut, calibrate
    from geoloc_models.training.trainer import train
    from geoloc_models.weights import WeightsInfo, save_weights, start_from

    path = args.export or args.out / f"{args.preset}.safetensors"
    if processes.is_first:
        make_writable(args.out, path)
    plan = _plan(args)
    settings = plan.settings
    workers = args.workers
    if workers is None:
        workers = min(8, max(1, (os.cpu_count() or 1) // processes.count))
    check = None
    if plan.held_out is not None:
        check = HeldOut(plan.held_out, plan.held_out_maps, settings, processes.device, workers)
    torch.manual_seed(args.seed)
    model = build(args.preset, args.backbone_weights)
    if args.start_from is not None:
        start_from(model, args.start_from)
    teacher = None
    if args.distill_from is not None:
        if settings.loss != "spatial":
            raise GeolocError(
                f"--distill-from teaches probabilities of places, and the loss {settings.loss} has none: "
                "give --loss spatial"
            )
        teacher = Teacher(args.distill_from, processes.device, settings.half)
    trained = train(args.preset, model, plan.samples, check, args.out, settings, processes, workers, teacher)
    if not processes.is_first:
        return
    temperature = 1.0
    if plan.calibration is not None:
        temperature = calibrate(
            trained.model, plan.calibration, plan.calibration_maps, processes.device, settings.half
        )
    info = WeightsInfo(args.preset, plan.query_px, *plan.gsd_m, temperature=round(temperature, 3))
    digest = save_weights(path, trained.model, info)
    print(
        f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}, temperature {temperature:.3f}, "
        f"trained by {trained.batch} batches"
    )
    if trained.last is not None:
        last = path.with_stem(f"{path.stem}_last")
        save_weights(last, trained.last, info)
        print(f"wrote {last}: the weights after the last batch, which did less well on the held-out places")
