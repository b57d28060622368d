# SPDX-License-Identifier: Apache-2.0
"""Training of a network on query/map samples: by one process or several, resumable to the same loss."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from geoloc_models.errors import GeolocError
from geoloc_models.training.checkpoints import read_state, write_state
from geoloc_models.training.distillation import TAUGHT_SHARE, Teacher, distillation_loss
from geoloc_models.training.held_out import HeldOut, Samples, load, predict
from geoloc_models.training.log import TrainingLog
from geoloc_models.training.processes import Processes
from geoloc_models.training.recipe import TrainingSettings, loss_function, schedule


@dataclass(frozen=True)
class Trained:
    """model: the network to ship, in evaluation mode. last: the one after the last batch, where a better one was
    chosen on held-out samples; else None. batch: how many batches had trained `model`.

    Only the first of several processes checks on held-out samples; the others get the last network.
    """

    model: nn.Module
    last: nn.Module | None
    batch: int


def train(
    network: str,
    model: nn.Module,
    samples: Samples,
    held_out: HeldOut | None,
    out: Path,
    settings: TrainingSettings,
    processes: Processes,
    workers: int = 0,
    teacher: Teacher | None = None,
) -> Trained:
    """Train `model`, which is of the preset `network`; continues from OUT/checkpoint.pt if it is there.

    teacher: its posterior is a part of the loss, TAUGHT_SHARE of it.

    All processes call it alike. Each draws its own share of every batch, and the loss is that of the whole batch
    (its counts of positives and negatives included), so that the number of processes changes nothing but speed.
    """
    share = processes.own_share(settings.maps_per_batch)
    cv2.setNumThreads(1)
    model = model.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = _State(network, model.train(), settings)
    checkpoint = out / "checkpoint.pt"
    state.resume(checkpoint, processes.device)
    if processes.is_first:
        out.mkdir(parents=True, exist_ok=True)
        record = {
            "network": network,
            "training": asdict(settings),
            "samples": asdict(samples.settings),
            "teacher": teacher and teacher.weights_id,
        }
        (out / "settings.json").write_text(json.dumps(record, indent=2))
    replica = processes.replicate(model)
    loss_of = loss_function(settings)
    batch_pairs = settings.maps_per_batch * samples.queries
    total = max(1, settings.samples // batch_pairs)
    firsts = range(
        state.done * settings.maps_per_batch, total * settings.maps_per_batch, settings.maps_per_batch
    )
    batches = load(samples, [range(i + share.start, i + share.stop) for i in firsts], workers)
    with TrainingLog(out, total, state.done, batch_pairs, state.mean_loss, not processes.is_first) as log:
        for batch in batches:
            _seed(settings.seed, state.done, processes.rank)
            rate = settings.learning_rate * schedule(state.done, total, settings.warmup_batches)
            logits = predict(replica, batch, processes.device, settings.half)
            target = batch["target"].to(processes.device) / batch["map"].shape[-1]
            whole = processes.whole_batch(logits)
            loss = loss_of(whole, processes.whole_batch(target))
            if teacher is not None:
                taught = distillation_loss(whole, processes.whole_batch(teacher(batch)))
                loss = (1 - TAUGHT_SHARE) * loss + TAUGHT_SHARE * taught
            if not math.isfinite(loss.item()):
                raise GeolocError(
                    f"the loss became {loss.item()} at batch {state.done}: lower --learning-rate, or go on from "
                    f"{checkpoint}"
                )
            # Processes know the gradient of their own samples only and take the mean of all; wanted is the sum.
            state.step(loss * processes.count, rate, settings.gradient_norm)
            state.mean_loss = log.batch(state.done, loss.item(), rate)
            if not processes.is_first:
                continue
            last = state.done == total
            if held_out is not None and (last or state.done % settings.check_batches == 0):
                figures = held_out(state.average.module)
                log.held_out(state.done, figures)
                if settings.best_from is not None and state.done >= settings.best_from * total:
                    state.keep_if_best(figures["rds"])
            if last or state.done % settings.checkpoint_batches == 0:
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

    def __init__(self, network: str, model: nn.Module, settings: TrainingSettings) -> None:
        self.network = network
        self.model = model
        self.average = AveragedModel(model, multi_avg_fn=_moving_average(settings.average_decay))
        parameters = [p for p in model.parameters() if p.requires_grad]
        decayed = [p for p in parameters if settings.decay_all or p.ndim > 1]
        plain = [p for p in parameters if not settings.decay_all and p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
        )
        self.done = 0
        self.mean_loss = math.nan
        self.best: dict[str, Tensor] | None = None
        self.best_rds = -1.0
        self.best_batch = 0

    def step(self, loss: Tensor, learning_rate: float, gradient_norm: float) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), gradient_norm)
        self.optimiser.step()
        self.average.update_parameters(self.model)
        self.done += 1

    def keep_if_best(self, rds: float) -> None:
        if rds > self.best_rds:
            self.best_rds, self.best_batch = rds, self.done
            self.best = {
                key: value.detach().cpu().clone() for key, value in self.average.module.state_dict().items()
            }

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
        """Go on from a checkpoint, if there is one; GeolocError if it is damaged or of another preset."""
        if not path.is_file():
            return
        values = read_state(path, device)
        network = values.get("network", "an unknown network")
        if network != self.network:
            raise GeolocError(
                f"{path} is of {network}, not of {self.network}: name another --out, or delete it"
            )
        try:
            for name in _WITH_STATE:
                getattr(self, name).load_state_dict(values[name])
        except (RuntimeError, KeyError, ValueError) as error:
            raise GeolocError(
                f"{path} is of another version of {network}: name another --out, or delete it "
                f"({str(error).splitlines()[0]})"
            ) from error
        for name in _PLAIN:
            setattr(self, name, values[name])


_PLAIN = ("network", "done", "mean_loss", "best", "best_rds", "best_batch")
_WITH_STATE = ("model", "average", "optimiser")
