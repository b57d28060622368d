# SPDX-License-Identifier: Apache-2.0
"""What several subcommands check of their arguments."""

import argparse
from pathlib import Path

LARGEST_SEED = 2**31 - 1


def seed(text: str) -> int:
    """A seed that every generator takes, for argparse's `type`."""
    number = int(text)
    if not 0 <= number <= LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{number} is no seed; give 0 to {LARGEST_SEED}")
    return number


def make_writable(folder: Path | None = None, file: Path | None = None) -> None:
    """Make the folder and try the file before hours of work; OSError now rather than at the end."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        is_new = not file.exists()
        file.open("a").close()
        if is_new:
            file.unlink()
