# SPDX-License-Identifier: Apache-2.0
"""What commands print and write: bars, tables, lines, JSON."""

import json
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


class _RateColumn(ProgressColumn):
    """Steps a second, once enough of them are done to estimate it."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="progress.data.speed")


def rated_progress() -> Progress:
    """A bar on stderr with rate and time left that goes when the work is done; nothing where stderr is a file."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_interactive,
    )


def plain_table(left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    """An empty table without frames; columns aligned to the left, then to the right."""
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), pad_edge=False)
    for column in (*left, *right):
        table.add_column(column, no_wrap=True, justify="left" if column in left else "right")
    return table


def print_line(console: Console, text: str, style: str | None = None) -> None:
    """The text as it is: neither coloured, nor cut at the width of the terminal, nor read as markup."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


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


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    """Write the content, unless there is no path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
