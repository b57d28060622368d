# SPDX-License-Identifier: Apache-2.0
"""Train a retrieval network.

Train a preset on University-1652, DenseUAV or images of two dates; held-out scenes of the latter are never trained
on. Continues from OUT/checkpoint.pt if it is there.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.ast.retrievers import add_data
from geoloc_ros.cli.shared.arguments import add_device, seed
from geoloc_ros.cli.shared.output import make_writable

if TYPE_CHECKING:
    from collections.abc import Callable

    from geoloc_models.ast.presets import AstPreset
    from geoloc_models.ast.retriever import SegmentTransformer
    from geoloc_models.datasets.retrieval_sets import DataSet
    from geoloc_models.training.processes import Processes
    from geoloc_models.training.recipe import RetrieverRecipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_data(parser)
    parser.add_argument("--preset", default="dinov2_ast", metavar="P", help="network (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("out/ast"), help="run folder (default: %(default)s)")
    parser.add_argument(
        "--trunk-weights",
        type=Path,
        metavar="FILE",
        help="start the trunk from DINOv2 or from timm's vit_small_patch16_224 (safetensors)",
    )
    parser.add_argument(
        "--recipe",
        choices=("paper", "cpu"),
        default="cpu",
        help="the paper's optimisation, or ours: only the trunk's last blocks and the heads (default: %(default)s)",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument(
        "--samples-per-place", type=int, metavar="N", help="N_sample: draws of a place an epoch (figure 5)"
    )
    parser.add_argument("--pairs-per-batch", type=int, metavar="N", help="instead of the recipe's")
    parser.add_argument(
        "--trainable-blocks",
        type=int,
        metavar="N",
        help="train the trunk's last N blocks; 0 trains the heads alone on what the trunk makes of one epoch's "
        "images, computed once",
    )
    parser.add_argument(
        "--plateau-on",
        choices=("epoch", "last_batch"),
        help="the loss that decides about halving the rates: the epoch's mean, or the last batch's as published",
    )
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that draw images (default: 0)")
    parser.add_argument("--seed", type=seed, metavar="N", help="seed (default: 42)")
    add_device(parser)
    parser.add_argument(
        "--export", type=Path, metavar="FILE", help="where to write the weights (default: OUT/PRESET.safetensors)"
    )
    parser.add_argument(
        "--eight-bit", action="store_true", help="write matrices as 8-bit integers: half the size of float16"
    )


def run(args: argparse.Namespace) -> int:
    """Train and export."""
    from dataclasses import replace

    from geoloc_models.training.processes import join_processes
    from geoloc_models.training.recipe import RETRIEVER_RECIPES

    given = {
        "epochs": args.epochs,
        "per_place": args.samples_per_place,
        "pairs_per_batch": args.pairs_per_batch,
        "trainable_blocks": args.trainable_blocks,
        "plateau_on": args.plateau_on,
    }
    for name in ("epochs", "per_place", "pairs_per_batch"):
        if given[name] is not None and given[name] < 1:
            raise GeolocError(f"{given[name]} {name.replace('_', ' ')} train nothing: give at least 1")
    chosen = {name: value for name, value in given.items() if value is not None}
    recipe = replace(RETRIEVER_RECIPES[args.recipe], **chosen)
    with join_processes(args.device) as processes:
        train_retriever(args, args.preset, args.kind, recipe, args.trunk_weights, processes)
    return 0


def train_retriever(
    args: argparse.Namespace,
    name: str,
    kind: DataSet,
    recipe: RetrieverRecipe,
    trunk_weights: Path | None,
    processes: Processes,
) -> None:
    """Train the preset `name` on args.data, which is of that kind, and export it."""
    from dataclasses import replace

    import torch

    from geoloc_models.ast.presets import preset
    from geoloc_models.ast.retriever import SegmentTransformer
    from geoloc_models.ast.retriever_weights import RetrieverInfo, save_retriever
    from geoloc_models.datasets.retrieval_sets import ViewSettings, training_set
    from geoloc_models.training.retriever_task import RetrieverTask
    from geoloc_models.training.trainer import train

    shape = preset(name)
    if not shape.head_width:
        raise GeolocError(f"preset {name!r} has nothing to train: evaluate it with --zero-shot")
    if args.seed is not None:
        recipe = replace(recipe, seed=args.seed)
    path = args.export or args.out / f"{name}.safetensors"
    if processes.is_first:
        make_writable(args.out, path)
    places = training_set(kind, args.data, shape.input_px)
    torch.manual_seed(recipe.seed)
    network = SegmentTransformer(shape, places.classes if shape.classify else 0)
    if trunk_weights is not None:
        network.start_from(trunk_weights)
    check = _check(args, shape) if kind == "pairs" and processes.is_first else None
    task = RetrieverTask(name, network, places, args.out, recipe, processes, check, args.workers or 0)
    trained = train(task, args.out, processes).model
    if not processes.is_first:
        return
    tile_m = ViewSettings().tile_m if kind == "pairs" else None
    info = RetrieverInfo(name, shape, tile_m)
    digest = save_retriever(path, trained.network, info, getattr(args, "eight_bit", True))  # type: ignore[arg-type]
    print(f"wrote {path}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")


def _check(args: argparse.Namespace, shape: AstPreset) -> Callable[[SegmentTransformer], dict[str, float]]:
    """Figures on a few held-out images of two dates."""
    import copy

    from geoloc_models.ast.retriever import Retriever
    from geoloc_models.datasets.retrieval_sets import cross_date_task
    from geoloc_models.evaluation.retrieval import evaluate_retrieval

    task = cross_date_task(args.data, shape.input_px, limit=24)

    def check(trained: SegmentTransformer) -> dict[str, float]:
        figures = evaluate_retrieval(Retriever(copy.deepcopy(trained), "check", args.device), task).summary()
        return {name: figures[name] for name in ("R@1", "R@5", "R@10", "AP")}

    return check
