# SPDX-License-Identifier: Apache-2.0
"""The `geoloc` command: one file a subcommand, each with `add_parser(subparsers)` and `run(args) -> int`."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from geoloc_models.errors import GeolocError

# In the order of the help page. The module is the name with "-" turned into "_".
COMMANDS = (
    "demo",
    "evaluate",
    "report",
    "evaluate-pairs",
    "bag",
    "simulate",
    "world",
    "dataset",
    "train",
    "calibrate",
    "export",
    "ast",
    "gallery",
    "gazebo",
    "sim",
    "bench",
    "bench-gallery",
    "bench-graph",
    "bench-bridge",
    "models",
)

DESCRIPTION = "Find where a drone is by matching its camera against a map."


def build_parser(commands: Sequence[str] = COMMANDS) -> argparse.ArgumentParser:
    """Parser with the given subcommands; only their modules are imported."""
    parser = argparse.ArgumentParser(prog="geoloc", description=DESCRIPTION)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in commands:
        importlib.import_module(f"geoloc_ros.cli.{command.replace('-', '_')}").add_parser(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; a mistake of the user's ends as one line on stderr and exit status 2."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    # The command's own module is enough, unless the help page or a mistyped name needs them all.
    wanted = arguments[:1] if arguments and arguments[0] in COMMANDS else COMMANDS
    try:
        args = build_parser(wanted).parse_args(arguments)
        return int(args.run(args))
    except GeolocError as error:
        print(f"geoloc: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # What cannot be read is told by who reads it; this is what cannot be written.
        place = f"{error.filename}: " if error.filename else ""
        print(f"geoloc: {place}{error.strerror or error}; give a path that can be written", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("geoloc: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
