# SPDX-License-Identifier: Apache-2.0
"""Training of retrievers: all of the trunk, its last blocks, or the heads alone on features computed once.

AST paper, sections 3.4 and 4.2; an epoch is ablation 5.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from geoloc_models.ast.losses import ast_loss
from geoloc_models.ast.retriever import SegmentTransformer, View, fast_type
from geoloc_models.datasets.retrieval_sets import Drawn, TrainingSet
from geoloc_models.errors import GeolocError
from geoloc_models.training.checkpoints import read_state, write_state
from geoloc_models.training.processes import Processes
from geoloc_models.training.recipe import RetrieverRecipe

Check = Callable[[SegmentTransformer], dict[str, float]]


@dataclass(frozen=True)
class _Batch:
    """Input of the network: images (B, 3, H, W) uint8, or parts (B, P, C) float32 of the frozen trunk."""

    drone: Tensor
    satellite: Tensor
    labels: Tensor


_FIELDS = ("drone", "satellite", "labels")
_VIEWS: tuple[View, View] = ("drone", "satellite")


class Pair(nn.Module):
    """What is trained of a network: features and class logits of a drone's batch and of a satellite's.

    frozen: blocks of the trunk that are computed already; None: none. heads_only: all of the trunk is.
    """

    def __init__(self, network: SegmentTransformer, frozen: int | None, heads_only: bool) -> None:
        super().__init__()
        self.network, self.frozen, self.heads_only = network, frozen, heads_only

    def forward(self, drone: Tensor, satellite: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        return [self._one(given, view) for given, view in zip((drone, satellite), _VIEWS, strict=True)]

    def _one(self, given: Tensor, view: View) -> tuple[Tensor, Tensor | None]:
        if self.heads_only:
            return self.network.describe(given)
        half = fast_type(given.device)
        with torch.autocast(given.device.type, dtype=torch.bfloat16, enabled=half == torch.bfloat16):
            trunk = self.network.trunk_of(view)
            out = trunk.leave(given, self.frozen) if self.frozen else trunk(given)
        return self.network.describe(self.network.parts(out))


class RetrieverTask:
    """A trainer.Task. With `trainable_blocks=0` the images are drawn once and the trunk's features of them are kept in
    OUT/parts.pt: every epoch then takes seconds.
    """

    def __init__(
        self,
        name: str,
        network: SegmentTransformer,
        places: TrainingSet,
        out: Path,
        recipe: RetrieverRecipe,
        processes: Processes,
        check: Check | None = None,
        workers: int = 0,
    ) -> None:
        """check: figures of the network on held-out data, after each epoch."""
        self.name, self.places, self._out = name, places, out
        self._processes, self._check, self._workers = processes, check, workers
        self._items = max(1, recipe.pairs_per_batch // places.pairs_per_item)
        self._share = processes.own_share(self._items)
        self._per_epoch = len(places) * recipe.per_place // self._items
        if self._per_epoch < 1:
            raise GeolocError(
                f"{len(places)} places, {recipe.per_place} draws each, do not fill a batch of "
                f"{recipe.pairs_per_batch} pairs: give smaller batches or more draws"
            )
        self.recipe = replace(recipe, check_batches=self._per_epoch)
        self.pairs_per_batch = recipe.pairs_per_batch
        self.total = self._per_epoch * recipe.epochs
        network = network.to(processes.device)
        blocks = network.trunk.blocks
        trained = blocks if recipe.trainable_blocks is None else recipe.trainable_blocks
        if not 0 <= trained <= blocks:
            raise GeolocError(f"{trained} trainable blocks of a trunk of {blocks}: give 0 to {blocks}")
        frozen = blocks - trained if recipe.trainable_blocks is not None else None
        self.model = Pair(network, frozen, trained == 0)
        self._reference = None if frozen is None else self._freeze(network, frozen)
        self._cached = self._cache() if self.model.heads_only else None

    def _freeze(self, network: SegmentTransformer, frozen: int) -> SegmentTransformer:
        """A fast copy that computes what is not trained."""
        for trunk in network.trunks():
            trunk.requires_grad_(False)
            if frozen < trunk.blocks:
                trunk.vit.blocks[frozen:].requires_grad_(True)
                trunk.vit.norm.requires_grad_(True)
        reference = copy.deepcopy(network).eval().requires_grad_(False)
        for trunk in reference.trunks():
            trunk.vit.to(fast_type(self._processes.device))
        return reference

    def parameter_groups(self) -> list[dict[str, Any]]:
        network = self.model.network
        trunk = [p for t in network.trunks() for p in t.parameters() if p.requires_grad]
        groups = [
            {"params": trunk, "lr": self.recipe.trunk_rate},
            {"params": list(network.heads.parameters()), "lr": self.recipe.head_rate},
        ]
        return [group for group in groups if group["params"]]

    def batches(self, start: int) -> Iterator[_Batch]:
        for epoch in range(start // self._per_epoch, self.recipe.epochs):
            yield from self._epoch(epoch, max(0, start - epoch * self._per_epoch))

    def _epoch(self, epoch: int, done: int) -> Iterator[_Batch]:
        """The epoch's batches but the first `done`; an incomplete last one is dropped."""
        firsts = np.arange(done, self._per_epoch)[:, None] * self._items
        positions = firsts + np.arange(self._share.start, self._share.stop)
        if self._cached is not None:
            order = epoch_order(len(self.places) * self.recipe.per_place, 1, self.recipe.seed, epoch)
            yield from (self._from_cache(order[chosen]) for chosen in positions)
            return
        order = epoch_order(len(self.places), self.recipe.per_place, self.recipe.seed, epoch)
        items = _Items(self.places, order, epoch, self.recipe.seed)
        for drawn in DataLoader(items, batch_sampler=positions.tolist(), collate_fn=_join, num_workers=self._workers):
            yield self._to_device(drawn)

    def loss(self, replica: nn.Module, batch: _Batch) -> Tensor:
        given = [
            self._entered(images, view) for images, view in zip((batch.drone, batch.satellite), _VIEWS, strict=True)
        ]
        whole_batch = self._processes.whole_batch
        drone, satellite = (
            (whole_batch(features), None if logits is None else whole_batch(logits))
            for features, logits in replica(*given)
        )
        return ast_loss(drone, satellite, whole_batch(batch.labels), self.model.network.shape.metric)

    def _entered(self, images: Tensor, view: View) -> Tensor:
        """What the frozen blocks make of the images."""
        frozen = self.model.frozen
        if self._reference is None or not frozen or self.model.heads_only:
            return images
        half = fast_type(self._processes.device)
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=half == torch.bfloat16):
            return self._reference.trunk_of(view).enter(images, frozen).float()

    def check(self, model: nn.Module) -> dict[str, float] | None:
        assert isinstance(model, Pair)
        return {} if self._check is None else self._check(model.network)

    def settings(self) -> dict[str, Any]:
        return {"shape": asdict(self.model.network.shape)}

    @torch.inference_mode()
    def _cache(self) -> _Batch:
        """Parts of `per_place` draws of every place, computed once."""
        path = self._out / "parts.pt"
        if path.is_file():
            return _Batch(**read_state(path, self._processes.device))
        assert self._reference is not None
        self._out.mkdir(parents=True, exist_ok=True)
        order = np.repeat(np.arange(len(self.places)), self.recipe.per_place)
        items = _Items(self.places, order, 0, self.recipe.seed)
        loader = DataLoader(items, self._items, collate_fn=_join, num_workers=self._workers)
        made: list[_Batch] = []
        for drawn in track(loader, "trunk, once"):
            batch = self._to_device(drawn)
            drone, satellite = (
                self._reference.parts(self._reference.trunk_of(view)(images))
                for images, view in zip((batch.drone, batch.satellite), _VIEWS, strict=True)
            )
            made.append(_Batch(drone, satellite, batch.labels))
        parts = {name: torch.cat([getattr(batch, name) for batch in made]) for name in _FIELDS}
        if self._processes.is_first:
            write_state(path, parts)
        return _Batch(**parts)

    def _from_cache(self, items: NDArray[np.int64]) -> _Batch:
        """The cached pairs of some items."""
        assert self._cached is not None
        count = self.places.pairs_per_item
        rows = torch.from_numpy((items[:, None] * count + np.arange(count)).ravel())
        rows = rows.to(self._processes.device)
        return _Batch(*(getattr(self._cached, name)[rows] for name in _FIELDS))

    def _to_device(self, drawn: Drawn) -> _Batch:
        drone, satellite = (
            torch.from_numpy(images).to(self._processes.device).permute(0, 3, 1, 2)
            for images in (drawn.drone, drawn.satellite)
        )
        return _Batch(drone, satellite, torch.from_numpy(drawn.labels).to(self._processes.device))


def epoch_order(places: int, per_place: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Indices of places, each `per_place` (N_sample) times, fully shuffled: (places * per_place,)."""
    rng = np.random.default_rng((seed, epoch))
    return rng.permutation(np.repeat(np.arange(places), per_place))


class _Items(Dataset[Drawn]):
    """The draws of one epoch: each has a generator of its own, so that a run resumes to the same draws."""

    def __init__(self, places: TrainingSet, order: NDArray[np.int64], epoch: int, seed: int) -> None:
        self.places, self.order, self.epoch, self.seed = places, order, epoch, seed

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, position: int) -> Drawn:
        rng = np.random.default_rng((self.seed, self.epoch, position))
        return self.places.draw(int(self.order[position]), position, rng)


def _join(items: list[Drawn]) -> Drawn:
    return Drawn(*(np.concatenate([getattr(item, name) for item in items]) for name in _FIELDS))
