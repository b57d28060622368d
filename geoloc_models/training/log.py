# SPDX-License-Identifier: Apache-2.0
"""What a training tells while it runs: progress on the terminal, OUT/log.jsonl, scalars in OUT/tensorboard."""

import json
import math
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SCALAR_BATCHES = 10
"""Batches between two points of the curves of loss, rate and learning rate."""


class TrainingLog:
    """The log of one run, of which `start` batches are done; `quiet` ones (all processes but one) tell nothing.

    Lines of an interrupted run about batches after its last checkpoint are dropped: these batches are repeated.
    """

    def __init__(
        self, out: Path, total: int, start: int, batch_pairs: int, mean_loss: float = math.nan, quiet: bool = False
    ) -> None:
        """total: batches of the run. batch_pairs: query/map pairs of one batch, in all processes together.
        mean_loss: the running mean after `start` batches.
        """
        self.start = start
        self.batch_pairs = batch_pairs
        self.quiet = quiet
        self.mean_loss = mean_loss
        self._console = Console(quiet=quiet)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet,
        )
        self._task = self._progress.add_task("training", total=total, completed=start)
        self._path = out / "log.jsonl"
        self._curves: Any = None
        if not quiet:
            _forget_after(self._path, start)
            self._curves = _open_curves(out / "tensorboard", start, self._console)

    def __enter__(self) -> "TrainingLog":
        self._progress.__enter__()
        self._began = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.__exit__(kind, value, trace)
        if self._curves is not None:
            self._curves.close()

    def batch(self, done: int, loss: float, learning_rate: float) -> float:
        """Tell of a batch; `done` of them are finished now. Returns the running mean of the loss."""
        self.mean_loss = loss if math.isnan(self.mean_loss) else 0.98 * self.mean_loss + 0.02 * loss
        self._pairs_per_s = (done - self.start) * self.batch_pairs / (time.monotonic() - self._began)
        words = f"loss {self.mean_loss:.3f}, {self._pairs_per_s:.1f} pairs/s"
        self._progress.update(self._task, completed=done, description=words)
        if done % SCALAR_BATCHES == 0:
            self._draw(
                done, {"train/loss": loss, "train/learning_rate": learning_rate, "train/pairs_per_s": self._pairs_per_s}
            )
        return self.mean_loss

    def held_out(self, done: int, figures: dict[str, float]) -> None:
        """Tell how the network does on held-out samples after `done` batches."""
        line = {"batch": done, "loss": round(self.mean_loss, 4), "pairs_per_s": round(self._pairs_per_s, 1), **figures}
        self._console.print(", ".join(f"{name} {value}" for name, value in line.items()))
        with self._path.open("a") as log:
            log.write(json.dumps(line) + "\n")
        self._draw(done, {f"held_out/{name.removeprefix('held_out_')}": value for name, value in figures.items()})

    def _draw(self, done: int, scalars: dict[str, float]) -> None:
        if self._curves is not None:
            for name, value in scalars.items():
                self._curves.add_scalar(name, value, done)
            self._curves.flush()


def _forget_after(path: Path, start: int) -> None:
    """Keep the lines of the first `start` batches."""
    if path.is_file():
        lines = path.read_text().splitlines()
        path.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["batch"] <= start))


def _open_curves(folder: Path, start: int, console: Console) -> Any:
    """TensorBoard's writer, or None and one line that says how to get it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        console.print("no curves for TensorBoard: it is not installed (pip install tensorboard)")
        return None
    return SummaryWriter(folder, purge_step=start + 1)
