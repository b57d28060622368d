# SPDX-License-Identifier: Apache-2.0
"""`geoloc dataset`: build, check and synthesize data sets in the UL14 layout."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from geoloc_models.data.dataset_checks import Report, check_dataset
from geoloc_models.data.synthetic_ul14 import SyntheticSettings, write_synthetic_ul14
from geoloc_ros.cli.arguments import seed


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand with its verbs."""
    parser = subparsers.add_parser(
        "dataset",
        help="build, check or synthesize a data set in the layout of the paper",
        description="Data sets in the UL14 layout: made of your own map and photos, checked, or generated.",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_check(verbs)
    _add_synthesize(verbs)


def _add_check(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "check",
        help="say what is wrong with a UL14 or DenseUAV folder",
        description="Read every file of a data set in the UL14 or DenseUAV layout and say, one sentence each, what"
        " is wrong: missing or damaged files, labels that disagree with coordinates, places that train and test"
        " share. Exit status 1 when there is a fault.",
    )
    parser.add_argument(
        "root", metavar="PATH", type=Path, help="root of the data set, the folder above train"
    )
    parser.set_defaults(run=run_check)


def _add_synthesize(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "synthesize",
        help="generate a small data set to try things out",
        description="Generate a small data set in the exact UL14 layout: each place is a generated world, each"
        " view a turned and colour-shifted piece of its map. A seed always gives the same data set.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    defaults = SyntheticSettings()
    add("--out", metavar="DIR", type=Path, required=True, help="new or empty folder to write to")
    add("--train-places", metavar="N", type=int, default=defaults.train_places, help="places to train on")
    add("--test-places", metavar="N", type=int, default=defaults.test_places, help="places to test on")
    add("--views", metavar="N", type=int, default=defaults.views, help="camera views of each place")
    add("--seed", type=seed, default=defaults.seed, help="of everything")
    parser.set_defaults(run=run_synthesize)


def run_check(args: argparse.Namespace) -> int:
    """Print the report; 1 if there is a fault."""
    report = check_dataset(args.root, _reading)
    print_report(args.root, report)
    return 1 if report.faults else 0


def run_synthesize(args: argparse.Namespace) -> int:
    """Write the data set."""
    settings = SyntheticSettings(args.train_places, args.test_places, args.views, seed=args.seed)
    folders = write_synthetic_ul14(args.out, settings)
    for _ in track(folders, "generating", settings.sequences, console=Console(stderr=True)):
        pass
    print(
        f"{args.out}: {settings.train_places * settings.views} train items, "
        f"{settings.test_places * settings.views} test sequences; try geoloc dataset check {args.out}"
    )
    return 0


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
    print(f"{len(report.faults)} faults" if report.faults else "no faults")


def _reading(pictures: Sequence[Path]) -> Iterable[Path]:
    return track(pictures, "reading pictures", console=Console(stderr=True))
