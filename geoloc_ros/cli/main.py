# SPDX-License-Identifier: Apache-2.0
"""The `geoloc` command: a module for each command, a package with VERBS for each group of them.

A command's module has a docstring, whose first line is its summary in the list and whose other lines are its
description, `add_arguments(parser)`, and `run(args) -> int`, the exit status. Modules import what is slow to import
within `run`, so that every help page comes at once.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from geoloc_models.errors import GeolocError

# In the order of the help page. The module is the name with "-" turned into "_".
COMMANDS = (
    "demo",
    "locate",
    "evaluate",
    "evaluate-pairs",
    "report",
    "bag",
    "dataset",
    "sim",
    "gallery",
    "models",
    "train",
    "calibrate",
    "calibrate-mount",
    "export",
    "ast",
    "bench",
)

ALIASES = {
    "simulate": "sim flight",
    "world": "sim world",
    "gazebo world": "sim gazebo",
    "bench-gallery": "bench gallery",
    "bench-graph": "bench graph",
    "bench-bridge": "bench bridge",
}
"""Spellings of earlier versions -> what they run. `geoloc bench` without a verb names its verbs, as any group does."""

DESCRIPTION = "Find where a drone is by matching its camera against a map."


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the default to the help of an option that has one and does not state it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = 19  # the longest command, which argparse measures without its indent

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, "", []) or "default" in (action.help or ""):
            return action.help
        return super()._get_help_string(action)

    def _format_action(self, action: argparse.Action) -> str:
        """Commands without a line that repeats their heading."""
        text = super()._format_action(action)
        return text.partition("\n")[2] if action.nargs == argparse.PARSER else text


def build_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Parser for these words of a command line: complete for the command that they name, a list of the others."""
    parser = argparse.ArgumentParser(prog="geoloc", description=DESCRIPTION, formatter_class=HelpFormatter)
    _add_commands(parser, "geoloc_ros.cli", COMMANDS, words, "COMMAND")
    return parser


def _add_commands(
    parser: argparse.ArgumentParser, package: str, names: Sequence[str], words: Sequence[str], metavar: str
) -> None:
    subparsers = parser.add_subparsers(title=f"{metavar.lower()}s", metavar=metavar, required=True)
    chosen = [name for name in names if name in words[:1]]
    for name in chosen or names:
        module = importlib.import_module(f"{package}.{name.replace('-', '_')}")
        summary, _, description = (module.__doc__ or "").partition("\n")
        own = subparsers.add_parser(
            name,
            help=summary.rstrip(".").replace("%", "%%"),
            description=description or summary,
            formatter_class=HelpFormatter,
        )
        if not chosen:
            continue
        if hasattr(module, "VERBS"):
            if not words[1:] or (words[1] not in module.VERBS and words[1] not in ("-h", "--help")):
                raise GeolocError(f"`geoloc {name}` needs a verb: geoloc {name} {'|'.join(module.VERBS)}")
            _add_commands(own, module.__name__, module.VERBS, words[1:], "VERB")
        else:
            module.add_arguments(own)
            own.set_defaults(run=module.run)


def _in_new_words(words: list[str]) -> list[str]:
    """The same command line with an earlier version's spelling replaced."""
    for old, new in ALIASES.items():
        count = len(old.split())
        if words[:count] == old.split():
            return [*new.split(), *words[count:]]
    return words


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a mistake of the user's ends as one line on stderr and exit status 2."""
    words = _in_new_words(sys.argv[1:] if argv is None else list(argv))
    try:
        args = build_parser(words).parse_args(words)
        return int(args.run(args))
    except GeolocError as error:
        print(f"geoloc: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # Whoever reads a file reports why it cannot be read; what arrives here could not be written.
        place = f"{error.filename}: " if error.filename else ""
        print(f"geoloc: {place}{error.strerror or error}; give a path that can be written", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("geoloc: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
