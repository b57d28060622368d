# SPDX-License-Identifier: Apache-2.0
"""List the retrieval networks.

List the presets: every AST row of the paper's tables and ours, with millions of parameters (classifiers of 701 places
included where there are any), multiply-accumulates of one image as the paper counts them and all of them,
attention's products included, and the rows that they stand for.
"""

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def run(args: argparse.Namespace) -> int:
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
