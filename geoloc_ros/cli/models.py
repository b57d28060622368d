# SPDX-License-Identifier: Apache-2.0
"""`geoloc models`: the weights that ship, checked."""

import argparse

from rich.console import Console
from rich.table import Table


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "models",
        help="list the weights that ship and check their files",
        description="List the weights that ship with the package: network, parameters, ground sample distance, "
        "size. Each file is loaded and checked against its SHA-256; a damaged one ends this with exit status 2.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from geoloc_models.weights import FOLDER, load_weights, shipped

    # Fits 80 columns; where there are fewer, a long line beats names cut into pieces.
    table = Table()
    for column in ("name", "network", "params", "query", "m per px", "MB", "SHA-256"):
        table.add_column(column, no_wrap=True, overflow="ignore")
    for name, entry in sorted(shipped().items()):
        loaded = load_weights(name)
        info = loaded.info
        count = sum(parameter.numel() for parameter in loaded.model.parameters())
        table.add_row(
            name,
            info.network,
            f"{count / 1e6:.2f} M",
            f"{info.query_px} px",
            f"{info.gsd_min_m:g} to {info.gsd_max_m:g}",
            f"{(FOLDER / entry['file']).stat().st_size / 1e6:.1f}",
            entry["sha256"][:8],
        )
    Console().print(table)
    return 0
