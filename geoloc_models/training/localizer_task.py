# SPDX-License-Identifier: Apache-2.0
"""Training of localizers on query/map samples, by the truth alone or also by the heatmaps of a teacher."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from geoloc_models.training.distillation import TAUGHT_SHARE, Teacher, distillation_loss
from geoloc_models.training.held_out import HeldOut, Samples, load, predict
from geoloc_models.training.processes import Processes
from geoloc_models.training.recipe import LocalizerRecipe, loss_function


class LocalizerTask:
    """A trainer.Task; teacher: its posterior is a part of the loss, TAUGHT_SHARE of it.

    The counts of positives and negatives in published losses are those of the whole batch of all processes.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        samples: Samples,
        held_out: HeldOut | None,
        recipe: LocalizerRecipe,
        processes: Processes,
        workers: int = 0,
        teacher: Teacher | None = None,
    ) -> None:
        self.name = name
        self.model: nn.Module = model.to(processes.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._samples, self._held_out, self._teacher = samples, held_out, teacher
        self.recipe, self._processes, self._workers = recipe, processes, workers
        self._loss_of = loss_function(recipe)
        self._share = processes.own_share(recipe.maps_per_batch)
        self.pairs_per_batch = recipe.maps_per_batch * samples.queries
        self.total = max(1, recipe.samples // self.pairs_per_batch)

    def parameter_groups(self) -> list[dict[str, Any]]:
        recipe = self.recipe
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        decayed = [p for p in parameters if recipe.decay_all or p.ndim > 1]
        plain = [p for p in parameters if not recipe.decay_all and p.ndim <= 1]
        return [
            {"params": decayed, "lr": recipe.learning_rate},
            {"params": plain, "lr": recipe.learning_rate, "weight_decay": 0.0},
        ]

    def batches(self, start: int) -> Iterator[dict[str, Tensor]]:
        maps = self.recipe.maps_per_batch
        firsts = range(start * maps, self.total * maps, maps)
        shares = [range(first + self._share.start, first + self._share.stop) for first in firsts]
        return load(self._samples, shares, self._workers)

    def loss(self, replica: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        whole_batch = self._processes.whole_batch
        device = self._processes.device
        logits = whole_batch(predict(replica, batch, device, self.recipe.half))
        target = batch["target"].to(device) / batch["map"].shape[-1]
        loss = self._loss_of(logits, whole_batch(target))
        if self._teacher is not None:
            taught = distillation_loss(logits, whole_batch(self._teacher(batch)))
            loss = (1 - TAUGHT_SHARE) * loss + TAUGHT_SHARE * taught
        return loss

    def check(self, model: nn.Module) -> dict[str, float] | None:
        return None if self._held_out is None else self._held_out(model)

    def settings(self) -> dict[str, Any]:
        teacher = None if self._teacher is None else self._teacher.weights_id
        return {"samples": asdict(self._samples.settings), "teacher": teacher}
