# SPDX-License-Identifier: Apache-2.0
"""Train a network by a recipe, or a whole plan of runs.

Train a preset of `geoloc models`: on DATA in the UL14 layout (train/) by the DRL paper's recipe, or on images of the
same ground at two dates (pairs/, tiles/) by ours. Or run a plan, the recipe of a network that ships or of a paper:
shipped/mix_compact, shipped/mix_hybrid, shipped/alignment, shipped/retrieval, paper/university1652. Held-out places are
never trained on.
Continues from OUT/checkpoint.pt if it is there. Several GPUs: torchrun --nproc-per-node N -m geoloc_ros.cli.main train
...
"""

from __future__ import annotations

import argparse
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.shared.arguments import add_device, seed
from geoloc_ros.cli.shared.output import make_writable

if TYPE_CHECKING:
    from geoloc_models.training.localizer_data import LocalizerData
    from geoloc_models.training.plans import AlignmentPlan, LocalizerPlan
    from geoloc_models.training.processes import Processes

SOURCES = ("levir", "srif", "dsifn", "tiles")
LOSSES = ("spatial", "wbl", "hann", "balance", "cross_entropy", "focal")

PAIRS_ONLY = ("source", "samples", "heading_deg", "query_px")
UL14_ONLY = ("epochs", "held_out_place", "rsc", "satellite_gsd_m")
_OF_A_RUN = (
    *PAIRS_ONLY,
    *UL14_ONLY,
    "start_from",
    "distill_from",
    "loss",
    "learning_rate",
    "maps_per_batch",
    "precision",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, help="folder in one of the layouts of docs/training.md")
    parser.add_argument("what", nargs="?", default="mix_compact", metavar="PRESET_OR_PLAN", help="default %(default)s")
    parser.add_argument("--out", type=Path, default=Path("out/train"), help="run folder (default %(default)s)")
    parser.add_argument(
        "--backbone-weights",
        type=Path,
        metavar="FILE",
        help="start the backbone from DINOv2 ViT-S/14 (timm names) or from CvT-13 of its model zoo",
    )
    parser.add_argument("--workers", type=int, help="processes that draw samples (default: the cores, 8 at most)")
    parser.add_argument("--seed", type=seed, help="seed of weights and samples (default: the recipe's)")
    add_device(parser)
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="where to write the weights (default OUT/PRESET.safetensors)"
    )
    _add_run(parser.add_argument_group("a run of a preset"))
    _add_pairs(parser.add_argument_group("image pairs"))
    _add_ul14(parser.add_argument_group("UL14 layout"))


def _add_run(group: Any) -> None:
    group.add_argument(
        "--start-from",
        metavar="W",
        help="start from trained weights, by name or file; mix_hybrid also takes those of mix_compact",
    )
    group.add_argument(
        "--distill-from",
        metavar="W",
        help="learn from the heatmaps of these weights too, by name or file: a small network from a large one",
    )
    group.add_argument("--loss", choices=LOSSES, help="default: spatial on image pairs, the preset's own on UL14")
    group.add_argument(
        "--learning-rate", type=float, help="peak learning rate (default: 1.2e-3 on image pairs, 1.5e-4 on UL14)"
    )
    group.add_argument(
        "--maps-per-batch",
        type=int,
        help="search maps a batch, in all processes together; six views each on image pairs, one on UL14 (default 8)",
    )
    group.add_argument(
        "--precision",
        choices=("bfloat16", "float32"),
        help="of the network's forward pass (default: bfloat16 on image pairs, float32 on UL14, as published)",
    )


def _add_pairs(group: Any) -> None:
    group.add_argument(
        "--source", action="append", choices=SOURCES, help="use only these sources (repeat; default all)"
    )
    group.add_argument("--samples", type=int, help="query/map pairs in all (default 160000)")
    group.add_argument("--heading-deg", type=float, help="largest heading error drawn (180: unknown; default 15)")
    group.add_argument(
        "--query-px",
        type=int,
        help="side of the views, a multiple of 16; maps are three times as wide (default: preset's)",
    )


def _add_ul14(group: Any) -> None:
    group.add_argument("--epochs", type=int, help="default 12")
    group.add_argument(
        "--held-out-place",
        action="append",
        metavar="PLACE",
        help="choose the weights on this place of train/ and train on the others (repeat; default every fifth place; "
        "none: train on all and keep the last weights)",
    )
    group.add_argument(
        "--rsc", metavar="SIDES", help="sides of random scale crops, px: 512 or 512,768 or 512-1000 (default: preset's)"
    )
    group.add_argument(
        "--satellite-gsd-m",
        type=float,
        help="metres a pixel of the maps in train/ (default 0.46: UL14 does not state it, its generator suggests so)",
    )


def run(args: argparse.Namespace) -> int:
    """Train, calibrate and export."""
    from geoloc_models.training.plans import PLANS, AlignmentPlan, LocalizerPlan
    from geoloc_models.training.processes import join_processes

    if args.workers is not None and args.workers < 0:
        raise GeolocError(f"--workers is {args.workers}: give 0 or more")
    plan = PLANS.get(args.what)
    if plan is None:
        _check(args)
    elif given := [name for name in _OF_A_RUN if getattr(args, name) is not None]:
        raise GeolocError(f"--{given[0].replace('_', '-')} is of a single run, but {args.what} is a plan: leave it out")
    with join_processes(args.device) as processes:
        if plan is None:
            _train(args, args.what, _data(args), args.out, args.start_from, processes)
        elif isinstance(plan, LocalizerPlan):
            _run_plan(args, plan, processes)
        elif isinstance(plan, AlignmentPlan):
            _align(args, plan, processes)
        else:
            from geoloc_ros.cli.ast.train import train_retriever

            train_retriever(args, plan.preset, plan.data, plan.recipe, args.backbone_weights, processes)
    return 0


def _check(args: argparse.Namespace) -> None:
    """All that the arguments alone tell; GeolocError at the first mistake."""
    from geoloc_models.drl.presets import PRESETS
    from geoloc_models.training.plans import PLANS

    if args.what not in PRESETS:
        raise GeolocError(
            f"no preset is called {args.what!r}: `geoloc models` lists them; plans are {', '.join(PLANS)}"
        )
    for name in ("samples", "epochs", "maps_per_batch", "learning_rate", "satellite_gsd_m"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise GeolocError(f"--{name.replace('_', '-')} is {value}: give a positive number")
    if args.query_px is not None and (args.query_px < 32 or args.query_px % 16):
        raise GeolocError(f"--query-px is {args.query_px}: give a multiple of 16 from 32 up")
    is_ul14 = _is_ul14(args.data)
    for name in PAIRS_ONLY if is_ul14 else UL14_ONLY:
        if getattr(args, name) is not None:
            kinds = ("image pairs", "the UL14 layout")
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
        f"{data} holds neither train/ (the UL14 layout) nor pairs/ or tiles/ (image pairs): docs/training.md "
        "shows both layouts"
    )


def _data(args: argparse.Namespace) -> LocalizerData:
    """Data and recipe of the layout with what the arguments change of it."""
    from geoloc_models.drl.presets import PRESETS
    from geoloc_models.training.localizer_data import pairs_data, ul14_data
    from geoloc_models.training.recipe import DRL_PAPER, LocalizerRecipe

    preset, is_ul14 = PRESETS[args.what], _is_ul14(args.data)
    recipe = replace(DRL_PAPER, loss=preset.loss) if is_ul14 else LocalizerRecipe()
    changes = {
        name: getattr(args, name)
        for name in ("samples", "maps_per_batch", "seed", "loss", "learning_rate")
        if getattr(args, name) is not None
    }
    if args.precision is not None:
        changes["half"] = args.precision == "bfloat16"
    recipe = replace(recipe, **changes)
    if not is_ul14:
        heading_deg = 15.0 if args.heading_deg is None else args.heading_deg
        return pairs_data(args.data, preset, recipe, args.source or SOURCES, heading_deg, args.query_px)
    places = [] if args.held_out_place == ["none"] else args.held_out_place
    return ul14_data(args.data, preset, recipe, args.epochs or 12, places, args.rsc, args.satellite_gsd_m or 0.46)


def _run_plan(args: argparse.Namespace, plan: LocalizerPlan, processes: Processes) -> None:
    """All runs of a plan; each starts from the weights of the one before it."""
    from geoloc_models.drl.presets import PRESETS
    from geoloc_models.training.blend import blend
    from geoloc_models.training.localizer_data import pairs_data
    from geoloc_models.weights import load_weights, save_weights
    from geoloc_ros.cli.calibrate import calibrate_file

    if _is_ul14(args.data):
        raise GeolocError(f"{args.what} trains on image pairs, but {args.data} holds the UL14 layout")
    start_from = plan.start_from
    for number, stage in enumerate(plan.stages, start=1):
        recipe = stage.recipe if args.seed is None else replace(stage.recipe, seed=args.seed)
        data = pairs_data(args.data, PRESETS[plan.preset], recipe, plan.sources, query_px=stage.query_px)
        folder = args.out / f"{number}"
        weights = folder / f"{plan.preset}.safetensors"
        if not weights.is_file():
            _train(args, plan.preset, data, folder, start_from, processes)
        start_from = str(weights)
        processes.wait_for_all()
    if not processes.is_first:
        return
    path = args.export or args.out / f"{plan.preset}.safetensors"
    loaded = load_weights(weights)
    if plan.blend is not None:
        blend(loaded.model, plan.blend)  # type: ignore[arg-type]
    digest = save_weights(path, loaded.model, loaded.info)
    if plan.calibrate:
        digest = calibrate_file(path, args.data, path, args.device)
    print(f"wrote {path}, SHA-256 {digest}, by the plan {args.what}")


def _align(args: argparse.Namespace, plan: AlignmentPlan, processes: Processes) -> None:
    """All runs of an alignment head, and its network's weights with it."""
    import torch

    from geoloc_models.drl.alignment_head import AlignmentHead
    from geoloc_models.training.alignment_data import AlignmentSource
    from geoloc_models.training.alignment_task import AlignmentTask
    from geoloc_models.training.localizer_data import HELD_OUT_SOURCES
    from geoloc_models.training.trainer import train
    from geoloc_models.weights import load_weights, save_weights

    if _is_ul14(args.data):
        raise GeolocError(f"{args.what} trains on image pairs, but {args.data} holds the UL14 layout")
    if args.backbone_weights is not None:
        raise GeolocError(f"--backbone-weights starts a backbone, but {args.what} trains none: leave it out")
    seeds = {} if args.seed is None else {"seed": args.seed}
    stages = [replace(stage, **seeds) for stage in plan.stages]
    network = load_weights(plan.weights)
    path = args.export or args.out / f"{network.info.network}.safetensors"
    make_writable(args.out, path)
    views = AlignmentSource(args.data, plan.sources, held_out=False, seed=stages[0].seed)
    held_out = AlignmentSource(
        args.data, tuple(s for s in plan.sources if s in HELD_OUT_SOURCES), held_out=True, seed=50
    ).views(plan.held_out_views, network, args.out / "held_out", processes.device, _workers(args, processes))
    torch.manual_seed(stages[0].seed)
    head = AlignmentHead()
    for number, recipe in enumerate(stages, start=1):
        drawn = views.views(recipe.views, network, args.out / "views", processes.device, _workers(args, processes))
        task = AlignmentTask(f"the alignment head of {network.id}", head, drawn, held_out, recipe, processes)
        trained = train(task, args.out / f"{number}", processes).model
        head = AlignmentHead()
        head.load_state_dict(trained.state_dict())
    network.model.alignment = head.eval()
    digest = save_weights(path, network.model, network.info, eight_bit=True)
    print(f"wrote {path}, SHA-256 {digest}, by the plan {args.what}")


def _train(
    args: argparse.Namespace,
    preset: str,
    data: LocalizerData,
    out: Path,
    start_weights: str | None,
    processes: Processes,
) -> None:
    """One run, and its weights."""
    import torch

    from geoloc_models.drl.presets import build
    from geoloc_models.training.held_out import HeldOut, calibrate
    from geoloc_models.training.localizer_task import LocalizerTask
    from geoloc_models.training.trainer import train
    from geoloc_models.weights import WeightsInfo, save_weights, start_from

    path = out / f"{preset}.safetensors" if out != args.out or args.export is None else args.export
    if processes.is_first:
        make_writable(out, path)
    recipe, device, workers = data.recipe, processes.device, _workers(args, processes)
    check = None
    if data.held_out is not None:
        check = HeldOut(data.held_out, data.held_out_maps, recipe, device, workers)
    torch.manual_seed(recipe.seed)
    model = build(preset, args.backbone_weights)
    if start_weights is not None:
        start_from(model, start_weights)
    teacher = _teacher(args, data, processes)
    task = LocalizerTask(preset, model, data.samples, check, recipe, processes, workers, teacher)
    trained = train(task, out, processes)
    if not processes.is_first:
        return
    temperature = 1.0
    if data.calibration is not None:
        temperature = calibrate(trained.model, data.calibration, data.calibration_maps, device, recipe.half)
    info = WeightsInfo(preset, data.query_px, *data.gsd_m, temperature=round(temperature, 3))
    digest = save_weights(path, trained.model, info)
    print(
        f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}, temperature {temperature:.3f}, "
        f"trained by {trained.batch} batches"
    )
    if trained.last is not None:
        last = path.with_stem(f"{path.stem}_last")
        save_weights(last, trained.last, info)
        print(f"wrote {last}: the weights after the last batch, which did less well on the held-out places")


def _workers(args: argparse.Namespace, processes: Processes) -> int:
    """Processes that draw samples, for each that trains."""
    if args.workers is not None:
        return int(args.workers)
    return min(8, max(1, (os.cpu_count() or 1) // processes.count))


def _teacher(args: argparse.Namespace, data: LocalizerData, processes: Processes) -> Any:
    from geoloc_models.training.distillation import Teacher

    if args.distill_from is None:
        return None
    if data.recipe.loss != "spatial":
        raise GeolocError(
            f"--distill-from teaches probabilities of places, and the loss {data.recipe.loss} has none: "
            "give --loss spatial"
        )
    return Teacher(args.distill_from, processes.device, data.recipe.half)
