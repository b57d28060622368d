# SPDX-License-Identifier: Apache-2.0
"""`geoloc ast`: retrieval by AST: its networks, training, evaluation, and pictures of what it attends to."""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.arguments import add_device, add_verbs, make_writable, seed

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from geoloc_models.ast.presets import AstPreset
    from geoloc_models.ast.retriever import Retriever, SegmentTransformer
    from geoloc_models.datasets.retrieval_sets import DataSet, RetrievalTask
    from geoloc_models.training.processes import Processes
    from geoloc_models.training.recipe import RetrieverRecipe

# Heavy imports wait until the command runs, so that the help page comes at once.

DATA_SETS = ("university1652", "denseuav", "pairs")


def add_parser(subparsers: Any) -> None:
    """Register the subcommand and its verbs."""
    add_verbs(
        subparsers, "ast", _models_parser, _train_parser, _evaluate_parser, _show_parser,
        summary="train, score and look into the retrieval network",
        description="AST (Attention-guided Segment Transformer) turns a picture into a vector, so that a drone's view "
        "finds its place among the tiles of a map.",
    )  # fmt: skip


def _models_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "models",
        help="list the networks",
        description="List the presets: every AST row of the paper's tables and ours, with millions of parameters "
        "(classifiers of 701 places included where there are any), multiply-accumulates of one picture as the paper "
        "counts them and all of them, attention's products included, and the rows that they stand for.",
    )
    parser.set_defaults(run=run_models)


def _train_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "train",
        help="train a network",
        description="Train a preset on University-1652, DenseUAV or pictures of two dates; held-out scenes of the "
        "latter are never trained on. Continues from OUT/checkpoint.pt if it is there.",
    )
    _data_arguments(parser)
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
        "pictures, computed once",
    )
    parser.add_argument(
        "--plateau-on",
        choices=("epoch", "last_batch"),
        help="the loss that decides about halving the rates: the epoch's mean, or the last batch's as published",
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes that draw pictures (default: 0)"
    )
    parser.add_argument("--seed", type=seed, metavar="N", help="seed (default: 42)")
    add_device(parser)
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="where to write the weights (default: OUT/PRESET.safetensors)",
    )
    parser.add_argument(
        "--eight-bit", action="store_true", help="write matrices as 8-bit integers: half the size of float16"
    )
    parser.set_defaults(run=run_train)


def _evaluate_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "evaluate",
        help="score networks: R@K, R@1 %%, AP",
        description="Score trained weights, and DINOv2 without training beside them, on the same queries and gallery: "
        "both tasks of University-1652 and DenseUAV, or views of held-out pictures among tiles of their other date.",
    )
    _data_arguments(parser)
    _weights_arguments(parser)
    parser.add_argument(
        "--task",
        action="append",
        choices=("drone-to-satellite", "satellite-to-drone"),
        help="one task of the two (default: both); not for pairs",
    )
    parser.add_argument(
        "--by",
        action="append",
        choices=("distance", "angle"),
        default=[],
        help="also by the drone's distance (table 7) or angle (table 8); University-1652; may be repeated",
    )
    parser.add_argument(
        "--tile-m", type=float, default=80.0, metavar="M", help="ground side of pairs' tiles, m (default: 80)"
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of pairs' views (default: 0)")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="use about this many queries, or pictures of the pairs, only"
    )
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures to this file")
    parser.set_defaults(run=run_evaluate)


def _show_parser(verbs: Any) -> None:
    parser = verbs.add_parser(
        "show",
        help="draw attention, segments and matches over pictures",
        description="Draw, for each picture, what the class token attends to and the segments that follow from it (the "
        "paper's figure 6; spread: mean squared deviation of the attention logits within segments), and with --gallery "
        "the most similar pictures of a folder (figures 7 and 8): framed green if they lie in a folder of the query's "
        "folder's name, else red; without frame if no folder has that name.",
    )
    parser.add_argument("pictures", type=Path, nargs="+", metavar="IMAGE", help="pictures to look at")
    _weights_arguments(parser)
    parser.add_argument("--gallery", type=Path, metavar="FOLDER", help="rank the pictures below this folder")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="matches to show (default: 5)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/ast.png"),
        metavar="F",
        help="picture to write (default: %(default)s)",
    )
    parser.set_defaults(run=run_show)


def _data_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        type=Path,
        metavar="DATA",
        help="root of University-1652 or DenseUAV, or the folder with pairs/ (docs/training.md)",
    )
    parser.add_argument(
        "--set",
        dest="kind",
        choices=DATA_SETS,
        default="pairs",
        help="what DATA is (default: pairs, pictures of two dates)",
    )


def _weights_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        action="append",
        metavar="W",
        help="trained weights, name or file; may be repeated (default: retrieval)",
    )
    parser.add_argument(
        "--zero-shot",
        type=Path,
        metavar="FILE",
        help="also DINOv2 as it is, from this file: its class token, and with segment tokens, fixed and adaptive",
    )
    add_device(parser)


def run_models(args: argparse.Namespace) -> int:
    """Print the table of presets."""
    import torch
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from geoloc_models.ast.presets import PRESETS
    from geoloc_models.ast.retriever import SegmentTransformer
    from geoloc_models.drl.macs import Cost, count_cost

    sizes, rows = (Table(box=SIMPLE, padding=(0, 1), pad_edge=False) for _ in range(2))
    for column in ("name", "px", "groups", "dim", "params", "trunk", "GMACs", "all"):
        sizes.add_column(column, no_wrap=True, justify="left" if column in ("name", "groups") else "right")
    rows.add_column("name", no_wrap=True)
    rows.add_column("stands for")
    costs: dict[Any, Cost] = {}  # few trunks, many networks on them
    for name, shape in PRESETS.items():
        with torch.device("meta"):
            network = SegmentTransformer(shape, 701 if shape.classify else 0)
        trunk = (shape.trunk, shape.input_px, shape.blocks)
        if trunk not in costs:
            costs[trunk] = count_cost(network.trunk, torch.zeros(1, 3, shape.input_px, shape.input_px))
        groups = f"{shape.groups} {shape.strategy}" if shape.groups else "none"
        counts = (_millions(network), _millions(network.trunk))
        macs = (f"{count / 1e9:.2f}" for count in (costs[trunk].counted_macs, costs[trunk].macs))
        sizes.add_row(name, str(shape.input_px), groups, str(network.dim), *counts, *macs)
        rows.add_row(name, "; ".join(shape.rows))
    Console().print(sizes, rows)
    return 0


def _millions(module: Any) -> str:
    return f"{sum(parameter.numel() for parameter in module.parameters()) / 1e6:.2f}"


def run_train(args: argparse.Namespace) -> int:
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


def run_evaluate(args: argparse.Namespace) -> int:
    """Evaluate, print the tables, write the JSON."""
    from rich.console import Console
    from rich.progress import Progress

    from geoloc_models.evaluation.retrieval import evaluate_retrieval

    retrievers = _retrievers(args)
    if args.by and args.kind != "university1652":
        raise GeolocError(f"--by {args.by[0]} needs --set university1652: {args.kind} does not say it")
    if args.limit is not None and args.limit < 1:
        raise GeolocError(f"a limit of {args.limit} leaves nothing to measure; give at least 1")
    make_writable(file=args.json)
    console = Console()
    figures: dict[str, Any] = {}
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for name, retriever in retrievers.items():
            for task in _tasks(args, retriever.input_px):
                total = task.queries.count + task.gallery.count
                bar = progress.add_task(f"{name}, {task.name}", total=total)
                ranked = evaluate_retrieval(retriever, task, functools.partial(progress.advance, bar))
                of_task = figures.setdefault(task.name, {}).setdefault(name, {"all": ranked.summary()})
                for kind in args.by:
                    for subset, mask in task.subsets.get(kind, {}).items():
                        of_task[subset] = ranked.of(mask).summary()
    for task_name, by_retriever in figures.items():
        console.print(_table(task_name, by_retriever))
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n")
    return 0


def _tasks(args: argparse.Namespace, side_px: int) -> list[RetrievalTask]:
    from geoloc_models.datasets.retrieval_sets import TASKS, cross_date_task, labelled_task

    if args.kind == "pairs":
        if args.tile_m <= 0:
            raise GeolocError(f"tiles of {args.tile_m:g} m show nothing: give a positive --tile-m")
        return [cross_date_task(args.data, side_px, args.tile_m, seed=args.seed, limit=args.limit)]
    return [labelled_task(args.kind, args.data, task, side_px, args.limit) for task in args.task or TASKS]


def _table(title: str, by_retriever: dict[str, dict[str, dict[str, float]]]) -> Table:
    from rich.table import Table

    first = next(iter(by_retriever.values()))["all"]
    table = Table(title=f"{title}: gallery of {first['gallery']}")
    table.add_column("")
    columns = [name for name in first if name != "gallery"]
    for column in columns:
        table.add_column(column, justify="right")
    for name, subsets in by_retriever.items():
        for subset, figures in subsets.items():
            label = name if subset == "all" else f"  {subset}"
            cells = [f"{figures[c]:.0f}" if c == "queries" else f"{100 * figures[c]:.2f}" for c in columns]
            table.add_row(label, *cells)
    return table


def _retrievers(args: argparse.Namespace) -> dict[str, Retriever]:
    """The networks that the arguments name, by the ids of their weights."""
    from geoloc_models.ast.retriever_weights import load_retriever, zero_shot

    retrievers = [load_retriever(weights, args.device)[0] for weights in args.weights or ["retrieval"]]
    if args.zero_shot is not None:
        names = ("zero_shot_class", "zero_shot_segments", "zero_shot_adaptive")
        retrievers += [zero_shot(name, args.zero_shot, args.device) for name in names]
    return {retriever.weights_id: retriever for retriever in retrievers}


def run_show(args: argparse.Namespace) -> int:
    """Draw the sheet."""
    import cv2

    from geoloc_models.ast.drawing import picture_row, sheet
    from geoloc_models.datasets.image_pairs import read_rgb

    if args.top < 1:
        raise GeolocError(f"--top is {args.top}: give at least 1")
    retrievers = list(_retrievers(args).values())
    make_writable(file=args.out)
    pictures = [read_rgb(path) for path in args.pictures]
    matches = _matches(args, retrievers[0], pictures) if args.gallery is not None else [[] for _ in pictures]
    rows = [
        picture_row(picture, path.name, retrievers, found)
        for picture, path, found in zip(pictures, args.pictures, matches, strict=True)
    ]
    cv2.imwrite(str(args.out), sheet(rows)[..., ::-1])
    print(f"wrote {args.out}")
    return 0


def _matches(args: argparse.Namespace, retriever: Retriever, pictures: list[Any]) -> list[list[Any]]:
    """For each picture the cells of its most similar ones below --gallery, by the first network."""
    import numpy as np
    from rich.progress import track

    from geoloc_models.ast.drawing import RIGHT_RGB, WRONG_RGB, Cell
    from geoloc_models.datasets.faults import PICTURE_SUFFIXES
    from geoloc_models.datasets.image_pairs import read_rgb

    paths = sorted(p for p in args.gallery.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise GeolocError(
            f"no picture lies below {args.gallery}: give a folder with {', '.join(PICTURE_SUFFIXES)}"
        )
    gallery = retriever.embed_stream(read_rgb(path) for path in track(paths, "gallery", transient=True))
    rows = []
    for picture, query_path in zip(pictures, args.pictures, strict=True):
        similarity = (retriever.embed(picture[None]) @ gallery.T)[0]
        place = query_path.resolve().parent.name
        known = any(path.parent.name == place for path in paths)
        row = []
        for index in np.argsort(-similarity, kind="stable")[: args.top]:
            path = paths[index]
            frame = (RIGHT_RGB if path.parent.name == place else WRONG_RGB) if known else None
            row.append(Cell(read_rgb(path), f"{similarity[index]:.3f} {path.parent.name}/{path.name}", frame))
        rows.append(row)
    return rows
