# SPDX-License-Identifier: Apache-2.0
"""Training of the localizer on image pairs: resumable, with a held-out check as it goes."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import Tensor, nn
from torch.utils.data import DataLoader

from geoloc_models.data.pairs import ImagePair
from geoloc_models.data.samples import PairSamples, SampleSettings, collate
from geoloc_models.drl.losses import spatial_cross_entropy, weighted_balance_loss
from geoloc_models.errors import GeolocError


@dataclass(frozen=True)
class TrainingSettings:
    """One run. Learning rate: linear warm-up, then a cosine to a hundredth (spec 3.4)."""

    samples: int = 120_000
    """Query/map pairs in all; the schedule ends here. It may be changed on resuming."""
    maps_per_batch: int = 8
    learning_rate: float = 1.2e-3
    weight_decay: float = 0.02
    warmup_batches: int = 200
    target_sigma_nodes: float = 0.7
    """Spread of the soft target; about 1 m of the pairs' truth is noise."""
    loss: Literal["spatial", "wbl"] = "spatial"
    """spatial: cross-entropy of the softmax over the map; wbl: the paper's weighted balance loss."""
    positive_cells: int = 7
    """WBL's R, nodes; about 32 / stride - 1."""
    negative_weight: float = 130.0
    """WBL's w_neg."""
    average_decay: float = 0.998
    """Exponential moving average of the weights, which is what is checked and shipped."""
    checkpoint_batches: int = 50
    check_batches: int = 150
    check_maps: int = 48
    """Held-out search maps of a check; six views each."""
    seed: int = 666


def train(
    model: nn.Module,
    pairs: list[ImagePair],
    held_out: list[ImagePair],
    out: Path,
    samples: SampleSettings,
    settings: TrainingSettings,
    device: str = "cpu",
    workers: int = 1,
) -> nn.Module:
    """Train `model` and return the averaged network; continues from `out/checkpoint.pt` if it is there."""
    cv2.setNumThreads(1)
    torch.manual_seed(settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    model = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(settings.average_decay)
    )
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=settings.learning_rate,
    )
    batch_samples = settings.maps_per_batch * samples.queries
    total = max(1, settings.samples // batch_samples)
    checkpoint = out / "checkpoint.pt"
    start = _resume(checkpoint, model, average, optimiser, device)
    (out / "settings.json").write_text(
        json.dumps({"training": asdict(settings), "samples": asdict(samples)}, indent=2)
    )
    stream = PairSamples(pairs, samples, settings.seed, start)
    loader = DataLoader(stream, settings.maps_per_batch, num_workers=workers, collate_fn=collate)
    check = _held_out_check(held_out, samples, settings, device)
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress, (out / "log.jsonl").open("a") as log:
        task = progress.add_task("training", total=total, completed=start)
        began, mean_loss = time.monotonic(), math.nan
        for step, batch in zip(range(start, total), loader, strict=False):
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * _rate(step, total, settings.warmup_batches)
            loss = _loss(model, batch, settings, device)
            if not math.isfinite(loss.item()):
                raise GeolocError(
                    f"the loss became {loss.item()} at batch {step}: lower --learning-rate, or resume from {checkpoint}"
                )
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 2.0)
            optimiser.step()
            average.update_parameters(model)
            mean_loss = loss.item() if math.isnan(mean_loss) else 0.98 * mean_loss + 0.02 * loss.item()
            rate = (step + 1 - start) * batch_samples / (time.monotonic() - began)
            progress.update(task, completed=step + 1, description=f"loss {mean_loss:.3f}, {rate:.1f} pairs/s")
            last = step + 1 == total
            if (step + 1) % settings.checkpoint_batches == 0 or last:
                _save(checkpoint, step + 1, model, average, optimiser)
            if (step + 1) % settings.check_batches == 0 or last:
                figures = {
                    "batch": step + 1,
                    "loss": round(mean_loss, 4),
                    "pairs_per_s": round(rate, 1),
                    **check(average.module),
                }
                console.print(figures)
                log.write(json.dumps(figures) + "\n")
                log.flush()
    trained: nn.Module = average.module
    return trained.eval()


@torch.inference_mode()
def calibrate(
    model: nn.Module, pairs: list[ImagePair], samples: SampleSettings, device: str, maps: int = 48
) -> float:
    """Temperature that makes the posterior fit: the one with the least negative log-likelihood of the true places.

    The likelihood is that of the node nearest to the truth under the posterior blurred by the truth's own noise.
    """
    stream = iter(PairSamples(pairs, samples, seed=2))
    temperatures = np.geomspace(0.4, 4.0, 47)
    totals = np.zeros(len(temperatures))
    for _ in range(maps // 8):
        batch = collate([next(stream) for _ in range(8)])
        with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
            logits = model(batch["query"].to(device), batch["map"].to(device)).float()
        stride = batch["map"].shape[-1] / (logits.shape[-1] - 1)
        target = batch["target"].to(device) / stride
        totals += [spatial_cross_entropy(logits / t, target, 0.7).item() for t in temperatures]
    return float(temperatures[int(totals.argmin())])


def _rate(step: int, total: int, warmup: int) -> float:
    if step < warmup:
        return 0.01 + 0.99 * step / warmup
    done = (step - warmup) / max(1, total - warmup)
    return max(0.01, 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def _loss(model: nn.Module, batch: dict[str, Tensor], settings: TrainingSettings, device: str) -> Tensor:
    """The loss of one batch, network in bfloat16."""
    search_map = batch["map"].to(device, memory_format=torch.channels_last)
    query = batch["query"].to(device, memory_format=torch.channels_last)
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        logits = model(query, search_map).float()
    target = batch["target"].to(device) / search_map.shape[-1]
    if settings.loss == "wbl":
        return weighted_balance_loss(logits, target, settings.positive_cells, settings.negative_weight)
    return spatial_cross_entropy(logits, target * (logits.shape[-1] - 1), settings.target_sigma_nodes)


def _held_out_check(
    pairs: list[ImagePair], samples: SampleSettings, settings: TrainingSettings, device: str
) -> Callable[[nn.Module], dict[str, float]]:
    """A fixed set of held-out samples, drawn once; the returned function scores a model on it."""
    batches: list[dict[str, Tensor]] = []
    if pairs:
        stream = iter(PairSamples(pairs, samples, seed=1))
        batches = [collate([next(stream) for _ in range(8)]) for _ in range(settings.check_maps // 8)]

    @torch.inference_mode()
    def check(model: nn.Module) -> dict[str, float]:
        model.eval()
        errors, losses = [], []
        for batch in batches:
            losses.append(_loss(model, batch, settings, device))
            with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
                logits = model(batch["query"].to(device), batch["map"].to(device)).float().cpu()
            best = logits.flatten(1).argmax(1)
            cols = logits.shape[-1]
            peak = torch.stack([best // cols, best % cols], 1) * (batch["map"].shape[-1] / (cols - 1))
            errors.append((peak - batch["target"]).norm(dim=1) * batch["gsd_m"])
        model.train()
        if not errors:
            return {}
        error = torch.cat(errors)
        shares = {f"ma{k}": round((error <= k).float().mean().item(), 3) for k in (5, 20)}
        return {
            **shares,
            "median_m": round(error.median().item(), 2),
            "held_out_loss": round(torch.stack(losses).mean().item(), 3),
        }

    return check


def _save(
    path: Path, step: int, model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> None:
    """Write beside and rename, so that a kill never leaves half a checkpoint."""
    state = {
        "step": step,
        "model": model.state_dict(),
        "average": average.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    torch.save(state, path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def _resume(
    path: Path, model: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer, device: str
) -> int:
    if not path.is_file():
        return 0
    state = torch.load(path, map_location=device, weights_only=True)
    try:
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
    except (RuntimeError, KeyError) as error:
        raise GeolocError(
            f"{path} is of another model: name another --out, or delete it ({str(error).splitlines()[0]})"
        ) from error
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
