# SPDX-License-Identifier: Apache-2.0
"""Training of retrieval networks: all of the trunk, its last blocks, or the heads alone on features computed once."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import track
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from geoloc_models.ast.losses import ast_loss
from geoloc_models.ast.retriever import SegmentTransformer, View, fast_type
from geoloc_models.datasets.retrieval_sets import Drawn, TrainingSet
from geoloc_models.devices import choose_device
from geoloc_models.errors import GeolocError
from geoloc_models.training.checkpoints import read_state, write_state
from geoloc_models.training.epochs import batches, epoch_order
from geoloc_models.training.log import TrainingLog

CHECKPOINT_BATCHES = 50

Check = Callable[[SegmentTransformer], dict[str, float]]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the paper's (spec 6.4)."""

    epochs: int = 20
    per_place: int = 8
    """N_sample: draws of each place an epoch."""
    pairs_per_batch: int = 8
    optimiser: Literal["sgd", "adamw"] = "sgd"
    head_rate: float = 0.01
    trunk_rate: float = 0.004
    weight_decay: float = 5e-4
    schedule: Literal["plateau", "cosine"] = "plateau"
    """plateau: halved after an epoch whose loss does not improve by 1e-4 of itself, down to a thousandth of the start;
    cosine: down to zero, after 2 % of warm-up."""
    plateau_on: Literal["epoch", "last_batch"] = "epoch"
    """Which loss that is: the epoch's mean, or its last batch's as published."""
    trainable_blocks: int | None = None
    """Of the trunk, counted from its end; None: all of it, embeddings included."""
    seed: int = 42


PAPER = Recipe()
CPU = Recipe(
    epochs=6,
    per_place=1,
    pairs_per_batch=32,
    optimiser="adamw",
    head_rate=1e-3,
    trunk_rate=1e-4,
    weight_decay=0.02,
    schedule="cosine",
    trainable_blocks=3,
)
"""Ours, for picture pairs without a GPU: all but the trunk's last blocks stay as DINOv2 made them."""
RECIPES = {"paper": PAPER, "cpu": CPU}


def train(
    network: SegmentTransformer,
    places: TrainingSet,
    out: Path,
    recipe: Recipe,
    device: str = "auto",
    check: Check | None = None,
    workers: int = 0,
) -> SegmentTransformer:
    """Train `network` and return it in evaluation mode; continues from OUT/checkpoint.pt if it is there.

    `check` is called after each epoch and its figures go to OUT/log.jsonl. With `trainable_blocks=0` the pictures are
    drawn once, and what the frozen trunk makes of them is kept in OUT/parts.pt: every epoch then takes seconds.
    """
    cv2.setNumThreads(1)
    out.mkdir(parents=True, exist_ok=True)
    run = _Run(network, places, out, recipe, choose_device(device), workers)
    run.resume()
    (out / "settings.json").write_text(
        json.dumps({"recipe": asdict(recipe), "network": asdict(network.shape)})
    )
    with TrainingLog(out, run.total, run.step, recipe.pairs_per_batch) as log:
        for epoch in range(run.step // run.per_epoch, recipe.epochs):
            for batch in run.batches(epoch):
                loss = run.train_on(batch)
                log.batch(run.step, loss, run.optimiser.param_groups[-1]["lr"])
                if run.step % CHECKPOINT_BATCHES == 0 and run.step < (epoch + 1) * run.per_epoch:
                    run.save()
            epoch_loss = run.end_epoch()
            run.save()
            figures = {} if check is None else check(network)
            log.held_out(run.step, {"epoch": epoch + 1, "epoch_loss": round(epoch_loss, 4), **figures})
    return network.eval()


@dataclass(frozen=True)
class _Batch:
    """What the network takes: pictures (B, 3, H, W) uint8, or parts (B, P, C) float32 of the frozen trunk."""

    drone: Tensor
    satellite: Tensor
    labels: Tensor


class _Run:
    """The state of one training run."""

    def __init__(
        self,
        network: SegmentTransformer,
        places: TrainingSet,
        out: Path,
        recipe: Recipe,
        device: torch.device,
        workers: int,
    ) -> None:
        self.network, self.places, self.recipe, self.device = network.to(device), places, recipe, device
        self.out, self.workers = out, workers
        self.items_per_batch = max(1, recipe.pairs_per_batch // places.pairs_per_item)
        self.per_epoch = len(places) * recipe.per_place // self.items_per_batch
        if self.per_epoch < 1:
            raise GeolocError(
                f"{len(places)} places, {recipe.per_place} draws each, do not fill a batch of "
                f"{recipe.pairs_per_batch} pairs: give smaller batches or more draws"
            )
        self.total = self.per_epoch * recipe.epochs
        self.step = 0
        blocks = network.trunk.blocks
        trained = blocks if recipe.trainable_blocks is None else recipe.trainable_blocks
        if not 0 <= trained <= blocks:
            raise GeolocError(f"{trained} trainable blocks of a trunk of {blocks}: give 0 to {blocks}")
        self.frozen = blocks - trained if recipe.trainable_blocks is not None else None
        self.heads_only = trained == 0
        self.reference = self._freeze()
        if device.type == "cpu":
            # On CPUs the backward pass of the fused product takes longer than that of the plain one.
            for trunk in network.trunks():
                for block in trunk.vit.blocks:
                    block.attn.fused_attn = False
        self.cached = self._cache() if self.heads_only else None
        self.optimiser = self._make_optimiser()
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        self.best, self.bad_epochs, self.factor = math.inf, 0, 1.0
        self.losses: list[float] = []

    def _freeze(self) -> SegmentTransformer | None:
        """A fast copy that computes what is not trained; None if all is."""
        if self.frozen is None:
            return None
        for trunk in self.network.trunks():
            trunk.requires_grad_(False)
            if not self.heads_only:
                trunk.vit.blocks[self.frozen :].requires_grad_(True)
                trunk.vit.norm.requires_grad_(True)
        reference = copy.deepcopy(self.network).eval().requires_grad_(False)
        for trunk in reference.trunks():
            trunk.vit.to(fast_type(self.device))
        return reference

    def _make_optimiser(self) -> torch.optim.Optimizer:
        r = self.recipe
        groups = [
            {
                "params": [p for t in self.network.trunks() for p in t.parameters() if p.requires_grad],
                "lr": r.trunk_rate,
            },
            {"params": list(self.network.heads.parameters()), "lr": r.head_rate},
        ]
        groups = [group for group in groups if group["params"]]
        if r.optimiser == "sgd":
            return torch.optim.SGD(groups, momentum=0.9, nesterov=True, weight_decay=r.weight_decay)
        return torch.optim.AdamW(groups, weight_decay=r.weight_decay)

    def batches(self, epoch: int) -> Any:
        """The epoch's batches from where the run stands."""
        r, done = self.recipe, self.step - epoch * self.per_epoch
        if self.cached is not None:
            order = epoch_order(len(self.places) * r.per_place, 1, r.seed, epoch)
            return (self._from_cache(order[chosen]) for chosen in batches(order, self.items_per_batch)[done:])
        order = epoch_order(len(self.places), r.per_place, r.seed, epoch)
        positions = batches(order, self.items_per_batch)[done:]
        items = _Items(self.places, order, epoch, r.seed)
        return (
            self._to_device(drawn)
            for drawn in DataLoader(
                items, batch_sampler=positions.tolist(), collate_fn=_join, num_workers=self.workers
            )
        )

    def train_on(self, batch: _Batch) -> float:
        """One step; GeolocError when the loss is not a number."""
        self.network.train()
        if self.recipe.schedule == "cosine":
            self.factor = _cosine(self.step, self.total)
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.factor
        drone, satellite = (self._forward(pictures, view) for view, pictures in _views(batch))
        loss = ast_loss(drone, satellite, batch.labels, self.network.shape.metric)
        if not math.isfinite(loss.item()):
            raise GeolocError(f"the loss became {loss.item()} at batch {self.step}: lower the learning rates")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
        self.optimiser.step()
        self.step += 1
        self.losses.append(loss.item())
        return loss.item()

    def _forward(self, pictures: Tensor, view: View) -> tuple[Tensor, Tensor | None]:
        if self.heads_only:
            return self.network.describe(pictures)
        half = fast_type(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half == torch.bfloat16):
            trunk = self.network.trunk_of(view)
            if self.reference is None or not self.frozen:
                out = trunk(pictures)
            else:
                with torch.no_grad():
                    tokens = self.reference.trunk_of(view).enter(pictures, self.frozen)
                out = trunk.leave(tokens.float(), self.frozen)
        return self.network.describe(self.network.parts(out))

    def end_epoch(self) -> float:
        """The epoch's mean loss; plateau: rates halve after the second epoch in a row without progress (patience 1)."""
        mean = float(np.mean(self.losses))
        loss = self.losses[-1] if self.recipe.plateau_on == "last_batch" else mean
        self.losses = []
        if self.recipe.schedule == "plateau":
            self.bad_epochs = 0 if loss < self.best * (1 - 1e-4) else self.bad_epochs + 1
            self.best = min(self.best, loss)
            if self.bad_epochs > 1:
                self.factor, self.bad_epochs = max(self.factor / 2, 1e-3), 0
        return mean

    @torch.inference_mode()
    def _cache(self) -> _Batch:
        """Parts of `per_place` draws of every place, computed once."""
        path = self.out / "parts.pt"
        if path.is_file():
            return _Batch(**read_state(path, self.device))
        assert self.reference is not None
        order = np.repeat(np.arange(len(self.places)), self.recipe.per_place)
        loader = DataLoader(
            _Items(self.places, order, 0, self.recipe.seed),
            self.items_per_batch,
            collate_fn=_join,
            num_workers=self.workers,
        )
        made: list[_Batch] = []
        for drawn in track(loader, "trunk, once"):
            batch = self._to_device(drawn)
            drone, satellite = (
                self.reference.parts(self.reference.trunk_of(view)(pictures))
                for view, pictures in _views(batch)
            )
            made.append(_Batch(drone, satellite, batch.labels))
        parts = {name: torch.cat([getattr(batch, name) for batch in made]) for name in _FIELDS}
        write_state(path, parts)
        return _Batch(**parts)

    def _from_cache(self, items: NDArray[np.int64]) -> _Batch:
        """The cached pairs of some items."""
        assert self.cached is not None
        count = self.places.pairs_per_item
        rows = torch.from_numpy((items[:, None] * count + np.arange(count)).ravel()).to(self.device)
        return _Batch(*(getattr(self.cached, name)[rows] for name in _FIELDS))

    def _to_device(self, drawn: Drawn) -> _Batch:
        drone, satellite = (
            torch.from_numpy(pictures).to(self.device).permute(0, 3, 1, 2)
            for pictures in (drawn.drone, drawn.satellite)
        )
        return _Batch(drone, satellite, torch.from_numpy(drawn.labels).to(self.device))

    def save(self) -> None:
        """Write OUT/checkpoint.pt."""
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "plateau": [self.best, self.bad_epochs, self.factor],
            "losses": self.losses,
            "random": torch.get_rng_state(),
        }
        write_state(self.out / "checkpoint.pt", state)

    def resume(self) -> None:
        """Take up OUT/checkpoint.pt if it is there; GeolocError if it is damaged or of another network."""
        path = self.out / "checkpoint.pt"
        if not path.is_file():
            return
        state = read_state(path, self.device)
        try:
            self.network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.best, self.bad_epochs, self.factor = state["plateau"]
            self.losses = state["losses"]
            torch.set_rng_state(state["random"].cpu())
            self.step = int(state["step"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise GeolocError(
                f"{path} is of another run ({str(error).splitlines()[0]}): name another --out, or delete it"
            ) from error


_FIELDS = ("drone", "satellite", "labels")


def _views(batch: _Batch) -> tuple[tuple[View, Tensor], ...]:
    return (("drone", batch.drone), ("satellite", batch.satellite))


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


def _cosine(step: int, total: int) -> float:
    warmup = max(1, total // 50)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
