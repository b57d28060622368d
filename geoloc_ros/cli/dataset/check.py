# SPDX-License-Identifier: Apache-2.0
"""Check a UL14 or DenseUAV folder.

Read every file of a data set in the UL14 or DenseUAV layout and say, one sentence each, what is wrong: missing or
damaged files, labels that disagree with coordinates, places that train and test share. Exit status 1 when there is a
fault.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

if TYPE_CHECKING:
    from geoloc_models.datasets.checks import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", metavar="PATH", type=Path, help="root of the data set, the folder above train")


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if there is a fault."""
    from geoloc_models.datasets.checks import check_dataset

    report = check_dataset(args.root, _reading)
    print_report(args.root, report)
    return 1 if report.faults else 0


def print_report(root: Path, report: Report) -> None:
    """Facts, warnings and faults, a line each, paths relative to the root."""
    print(f"{root}: {report.layout} layout")
    for fact in report.facts:
        print(f"  {fact}")
    for warning in report.warnings:
        print(f"warning: {warning}")
    for fault in report.faults:
        path = fault.path.relative_to(root) if fault.path.is_relative_to(root) else fault.path
        print(f"fault: {path}: {fault.text}")
    count = len(report.faults)
    print("no faults" if not count else "1 fault" if count == 1 else f"{count} faults")


def _reading(images: Sequence[Path]) -> Iterable[Path]:
    return track(images, "reading images", console=Console(stderr=True))
