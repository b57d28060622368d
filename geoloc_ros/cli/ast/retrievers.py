# SPDX-License-Identifier: Apache-2.0
"""Arguments that name data sets and retrieval networks, and the networks that they name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from geoloc_ros.cli.shared.arguments import add_device

if TYPE_CHECKING:
    from geoloc_models.ast.retriever import Retriever

DATA_SETS = ("university1652", "denseuav", "pairs")


def add_data(parser: argparse.ArgumentParser) -> None:
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
        help="what DATA is (default: pairs, images of two dates)",
    )


def add_weights(parser: argparse.ArgumentParser) -> None:
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


def open_retrievers(args: argparse.Namespace) -> dict[str, Retriever]:
    """The networks that the arguments name, by the ids of their weights."""
    from geoloc_models.ast.retriever_weights import load_retriever, zero_shot

    retrievers = [load_retriever(weights, args.device)[0] for weights in args.weights or ["retrieval"]]
    if args.zero_shot is not None:
        names = ("zero_shot_class", "zero_shot_segments", "zero_shot_adaptive")
        retrievers += [zero_shot(name, args.zero_shot, args.device) for name in names]
    return {retriever.weights_id: retriever for retriever in retrievers}
