# SPDX-License-Identifier: Apache-2.0
"""Training of the alignment head: where the blocks of a view lie on the map, and that they lie nowhere on others."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoloc_models.drl.alignment_head import (
    BLOCK_NODES,
    DISPLACEMENTS,
    REACH_NODES,
    STEP_NODES,
    STRIDE_PX,
    AlignmentHead,
    log_posterior,
)
from geoloc_models.errors import GeolocError
from geoloc_models.training.alignment_data import VIEW_NODES, VIEWS_PER_MAP, AlignmentViews
from geoloc_models.training.processes import Processes
from geoloc_models.training.recipe import AlignmentRecipe

_APART_NODES = 20
"""Windows of one map that are farther apart are negatives of each other's views."""
_RIGHT_NODES = 1.5
_CHECKED_TOGETHER = 40


def block_displacements(window_from_view: NDArray[np.floating[Any]]) -> Tensor:
    """True displacements (B, rows, columns, 2), (x, y) in nodes, of the blocks' middles; (B, 3, 3) homographies."""
    blocks = (VIEW_NODES - BLOCK_NODES) // STEP_NODES + 1
    middle = (np.arange(blocks) * STEP_NODES + BLOCK_NODES / 2) * STRIDE_PX
    x, y = np.meshgrid(middle, middle)
    on_view = np.stack([x, y, np.ones_like(x)], -1)
    on_window = np.einsum("bij,rcj->brci", np.asarray(window_from_view, np.float64), on_view)
    shift_px = on_window[..., :2] / on_window[..., 2:] - on_view[..., :2]
    return torch.from_numpy(shift_px / STRIDE_PX - REACH_NODES).float()


def block_losses(log_posterior: Tensor, displacement: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each block (B, rows, columns), and which of them lie within reach (bool).

    log_posterior: (B, D * D + 1, rows, columns); displacement: (B, rows, columns, 2). The target is shared bilinearly
    by the nodes around the truth. Scored is the mixture in which `nowhere` means that the block may be anywhere, so
    that a block of a place that has changed need not be guessed. Out of reach, `nowhere` is the target.
    """
    axis = torch.arange(-REACH_NODES, REACH_NODES + 1, device=displacement.device)
    x, y = ((1 - (axis - displacement[..., [i]]).abs()).clamp(min=0) for i in (0, 1))
    target = (y[..., :, None] * x[..., None, :]).flatten(-2).permute(0, 3, 1, 2)
    inside = (displacement.abs() <= REACH_NODES).all(-1)
    somewhere, nowhere = log_posterior[:, :-1], log_posterior[:, -1]
    mixture = torch.logaddexp(somewhere, nowhere[:, None] - math.log(DISPLACEMENTS**2))
    return torch.where(inside, -(target * mixture).sum(1), -nowhere), inside


@dataclass(frozen=True)
class _Batch:
    """view, window: features; displacement: of their blocks. The views numbered `elsewhere_view` lie nowhere in the
    windows numbered `elsewhere_window`, which count on after `window` into `far`, other windows of the same maps."""

    view: Tensor
    window: Tensor
    displacement: Tensor
    far: Tensor
    elsewhere_view: list[int]
    elsewhere_window: list[int]


class AlignmentTask:
    """A trainer.Task: the head alone, by one process, on features that the frozen network computed once."""

    def __init__(
        self,
        name: str,
        head: AlignmentHead,
        views: AlignmentViews,
        held_out: AlignmentViews,
        recipe: AlignmentRecipe,
        processes: Processes,
    ) -> None:
        if processes.count > 1:
            raise GeolocError("the alignment head is trained by one process: leave torchrun out")
        if len(views) < recipe.views_per_batch:
            raise GeolocError(f"{len(views)} views do not fill a batch of {recipe.views_per_batch}: give more")
        self.name, self._views, self._held_out, self.recipe = name, views, held_out, recipe
        self._device = processes.device
        self.model: AlignmentHead = head.to(processes.device)
        self.pairs_per_batch = recipe.views_per_batch
        self._per_epoch = len(views) // recipe.views_per_batch
        self.total = recipe.epochs * self._per_epoch

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": list(self.model.parameters()), "lr": self.recipe.learning_rate}]

    def batches(self, start: int) -> Iterator[_Batch]:
        for number in range(start, self.total):
            epoch, position = divmod(number, self._per_epoch)
            order = np.random.default_rng((self.recipe.seed, 0, epoch)).permutation(len(self._views))
            rows = order[position * self.pairs_per_batch :][: self.pairs_per_batch]
            yield self._batch(rows, np.random.default_rng((self.recipe.seed, 1, number)))

    def _batch(self, rows: NDArray[np.int64], rng: np.random.Generator) -> _Batch:
        chosen = rng.permutation(len(rows))[: self.recipe.other_maps]
        pairs = [(int(i), int(i + len(rows) // 2) % len(rows)) for i in chosen]
        pairs = [(i, j) for i, j in pairs if rows[i] // VIEWS_PER_MAP != rows[j] // VIEWS_PER_MAP]
        far: list[int] = []
        for i, row in enumerate(rows.tolist()):
            others = self._views.apart(row, _APART_NODES)
            if len(far) < self.recipe.same_map and others:
                pairs.append((i, len(rows) + len(far)))
                far.append(int(rng.choice(others)))
        view, window, far_window = (
            torch.from_numpy(np.asarray(features[chosen_rows], np.float32)).to(self._device)
            for features, chosen_rows in (
                (self._views.view, rows),
                (self._views.window, rows),
                (self._views.window, np.array(far, np.int64)),
            )
        )
        displacement = block_displacements(self._views.window_from_view[rows]).to(self._device)
        return _Batch(view, window, displacement, far_window, [i for i, _ in pairs], [j for _, j in pairs])

    def loss(self, replica: nn.Module, batch: _Batch) -> Tensor:
        head = self.model
        view, window = head(batch.view), head(torch.cat([batch.window, batch.far]))
        losses, _ = block_losses(log_posterior(head, view, window[: len(view)]), batch.displacement)
        loss = losses.mean()
        if batch.elsewhere_view:
            elsewhere = log_posterior(head, view[batch.elsewhere_view], window[batch.elsewhere_window])
            loss = loss - self.recipe.negative_share * elsewhere[:, -1].mean()
        return loss

    @torch.inference_mode()
    def check(self, model: nn.Module) -> dict[str, float]:
        """Over the held-out blocks within reach: the loss, and the share whose likeliest displacement is at most 1.5
        nodes off."""
        assert isinstance(model, AlignmentHead)
        losses, errors = [], []
        for first in range(0, len(self._held_out), _CHECKED_TOGETHER):
            rows = slice(first, first + _CHECKED_TOGETHER)
            view, window = (
                model(torch.from_numpy(np.asarray(features[rows], np.float32)).to(self._device))
                for features in (self._held_out.view, self._held_out.window)
            )
            displacement = block_displacements(self._held_out.window_from_view[rows]).to(self._device)
            posterior = log_posterior(model, view, window)
            loss, inside = block_losses(posterior, displacement)
            best = posterior[:, :-1].argmax(1)
            found = torch.stack([best % DISPLACEMENTS, best // DISPLACEMENTS], -1) - REACH_NODES
            losses.append(loss[inside])
            errors.append((found - displacement).norm(dim=-1)[inside])
        right = torch.cat(errors) < _RIGHT_NODES
        return {
            "held_out_loss": round(torch.cat(losses).mean().item(), 4),
            "right": round(right.float().mean().item(), 4),
        }

    def settings(self) -> dict[str, Any]:
        return {"views": len(self._views), "held_out_views": len(self._held_out)}
