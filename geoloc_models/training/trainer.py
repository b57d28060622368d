# SPDX-License-Identifier: Apache-2.0
"""The trainer: by one process or several, resumable to the same bits. What is trained is a task."""

import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from geoloc_models.errors import GeolocError
from geoloc_models.training.checkpoints import read_state, write_state
from geoloc_models.training.log import TrainingLog
from geoloc_models.training.processes import Processes
from geoloc_models.training.recipe import SCHEDULES, Recipe


class Task(Protocol):
    """What is trained: a network, its batches and their loss. All processes hold the same one."""

    name: str
    """Of the network; a checkpoint of another one is refused."""
    total: int
    """Batches of the run."""
    pairs_per_batch: int
    """In all processes together."""

    @property
    def recipe(self) -> Recipe: ...

    @property
    def model(self) -> nn.Module: ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """For the optimiser, each with its peak learning rate `lr`."""

    def batches(self, start: int) -> Iterator[Any]:
        """This process's share of the batches from number `start` on; each depends on its number alone."""

    def loss(self, replica: nn.Module, batch: Any) -> Tensor:
        """Of the whole batch of all processes; replica: the model, in as many copies as there are processes."""

    def check(self, model: nn.Module) -> dict[str, float] | None:
        """Figures on held-out data; None: there is none."""

    def settings(self) -> dict[str, Any]:
        """What settings.json says of the task."""


@dataclass(frozen=True)
class Trained:
    """model: the network to export, in evaluation mode. last: the one after the last batch, if a better one was chosen
    on held-out data; else None. batch: how many batches had trained `model`.

    Only the first of several processes checks on held-out data; the others get the last network.
    """

    model: nn.Module
    last: nn.Module | None
    batch: int


def train(task: Task, out: Path, processes: Processes) -> Trained:
    """Train the task's model; continues from OUT/checkpoint.pt if it is there.

    All processes call it alike. Each draws its share of every batch, and the loss is that of the whole batch, so that
    the number of processes changes nothing but speed.
    """
    cv2.setNumThreads(1)
    recipe, state, checkpoint = task.recipe, _State(task), out / "checkpoint.pt"
    state.resume(checkpoint, processes.device)
    if processes.is_first:
        out.mkdir(parents=True, exist_ok=True)
        record = {"network": task.name, "training": asdict(recipe), **task.settings()}
        (out / "settings.json").write_text(json.dumps(record, indent=2))
    replica = processes.replicate(task.model)
    quiet = not processes.is_first
    with TrainingLog(out, task.total, state.done, task.pairs_per_batch, state.mean_loss, quiet) as log:
        for batch in task.batches(state.done):
            _seed(recipe.seed, state.done, processes.rank)
            loss = task.loss(replica, batch)
            if not math.isfinite(loss.item()):
                raise GeolocError(
                    f"the loss became {loss.item()} at batch {state.done}: lower --learning-rate, or go on from "
                    f"{checkpoint}"
                )
            # Processes know the gradient of their own samples only and take the mean of all; the sum is needed.
            rate = state.step(loss * processes.count, loss.item())
            state.mean_loss = log.batch(state.done, loss.item(), rate)
            ends_epoch = state.done == task.total or state.done % recipe.check_batches == 0
            if ends_epoch:
                state.end_epoch(log if processes.is_first else None)
            if processes.is_first and (ends_epoch or state.done % recipe.checkpoint_batches == 0):
                state.save(checkpoint)
    return state.trained()


def _seed(seed: int, step: int, rank: int) -> None:
    """Let dropout of a batch depend on its number alone, so that nothing of it is lost by an interruption."""
    torch.manual_seed(int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0]))


_Tensors = tuple[Tensor, ...] | list[Tensor]


def _moving_average(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """Exponential average whose memory is at first no longer than the run, so that short runs forget their start."""

    @torch.no_grad()
    def update(averaged: _Tensors, current: _Tensors, count: Tensor | int) -> None:
        kept = min(decay, (1 + int(count)) / (10 + int(count)))
        for mean, new in zip(averaged, current, strict=True):
            mean.lerp_(new, 1 - kept) if mean.is_floating_point() else mean.copy_(new)

    return update


class _State:
    """All that a run is made of after `done` batches, on disk and in memory."""

    def __init__(self, task: Task) -> None:
        self.task, recipe = task, task.recipe
        self.model, self.network = task.model.train(), task.name
        self.average = AveragedModel(self.model, multi_avg_fn=_moving_average(recipe.average_decay))
        groups = task.parameter_groups()
        self.rates = [group["lr"] for group in groups]
        if recipe.optimiser == "sgd":
            self.optimiser: torch.optim.Optimizer = torch.optim.SGD(
                groups, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
            )
        else:
            self.optimiser = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
        self.schedule = SCHEDULES[recipe.schedule](recipe, task.total)
        self.done = 0
        self.mean_loss = math.nan
        self.losses: list[float] = []
        self.best: dict[str, Tensor] | None = None
        self.best_rds = -1.0
        self.best_batch = 0

    def step(self, loss: Tensor, value: float) -> float:
        """One batch; returns the learning rate of the last group."""
        factor = self.schedule.factor(self.done)
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.task.recipe.gradient_norm)
        self.optimiser.step()
        self.average.update_parameters(self.model)
        self.done += 1
        self.losses.append(value)
        return float(self.optimiser.param_groups[-1]["lr"])

    def end_epoch(self, log: TrainingLog | None) -> None:
        """The batches since the last check are an epoch; log: where its figures go, None in all processes but one."""
        losses, self.losses = self.losses, []
        self.schedule.end_epoch(losses)
        figures = None if log is None else self.task.check(self.average.module)
        if log is None or figures is None:
            return
        log.held_out(self.done, {"epoch_loss": round(float(np.mean(losses)), 4), **figures})
        if self.task.recipe.best_from is not None and self.done >= self.task.recipe.best_from * self.task.total:
            self._keep_if_best(figures["rds"])

    def _keep_if_best(self, rds: float) -> None:
        if rds > self.best_rds:
            self.best_rds, self.best_batch = rds, self.done
            self.best = {key: value.detach().cpu().clone() for key, value in self.average.module.state_dict().items()}

    def trained(self) -> Trained:
        last = self.average.module.eval()
        if self.best is None or self.best_batch == self.done:
            return Trained(last, None, self.done)
        best = copy.deepcopy(last)
        best.load_state_dict(self.best)
        return Trained(best, last, self.best_batch)

    def save(self, path: Path) -> None:
        """Write a checkpoint, whole or not at all."""
        values = {
            **{name: getattr(self, name) for name in _PLAIN},
            **{name: getattr(self, name).state_dict() for name in _WITH_STATE},
        }
        write_state(path, values)

    def resume(self, path: Path, device: torch.device) -> None:
        """Go on from a checkpoint, if there is one; GeolocError if it is damaged or of another network."""
        if not path.is_file():
            return
        values = read_state(path, device)
        network = values.get("network", "an unknown network")
        if network != self.network:
            raise GeolocError(f"{path} is of {network}, not of {self.network}: name another --out, or delete it")
        try:
            for name in _WITH_STATE:
                getattr(self, name).load_state_dict(values[name])
            for name in _PLAIN:
                setattr(self, name, values[name])
        except (RuntimeError, KeyError, ValueError) as error:
            raise GeolocError(
                f"{path} is of another version of {network}: name another --out, or delete it "
                f"({str(error).splitlines()[0]})"
            ) from error


_PLAIN = ("network", "done", "mean_loss", "losses", "best", "best_rds", "best_batch")
_WITH_STATE = ("model", "average", "optimiser", "schedule")
