# SPDX-License-Identifier: Apache-2.0
"""Generate a small data set to try things out.

Generate a small data set in the exact UL14 layout: each place is a generated world, each view a turned and
colour-shifted piece of its map. A seed always gives the same data set.
"""

import argparse
from pathlib import Path

from rich.console import Console
from rich.progress import track

from geoloc_ros.cli.shared.arguments import seed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from geoloc_models.datasets.synthetic_ul14 import SyntheticSettings

    add = parser.add_argument
    defaults = SyntheticSettings()
    add("--out", metavar="DIR", type=Path, required=True, help="new or empty folder to write to")
    add("--train-places", metavar="N", type=int, default=defaults.train_places, help="places to train on")
    add("--test-places", metavar="N", type=int, default=defaults.test_places, help="places to test on")
    add("--views", metavar="N", type=int, default=defaults.views, help="camera views of each place")
    add("--seed", type=seed, default=defaults.seed, help="of everything")


def run(args: argparse.Namespace) -> int:
    """Write the data set."""
    from geoloc_models.datasets.synthetic_ul14 import SyntheticSettings, write_synthetic_ul14

    settings = SyntheticSettings(args.train_places, args.test_places, args.views, seed=args.seed)
    folders = write_synthetic_ul14(args.out, settings)
    for _ in track(folders, "generating", settings.sequences, console=Console(stderr=True)):
        pass
    print(
        f"{args.out}: {settings.train_places * settings.views} train items, "
        f"{settings.test_places * settings.views} test sequences; try geoloc dataset check {args.out}"
    )
    return 0
