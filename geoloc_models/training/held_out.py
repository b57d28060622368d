# SPDX-License-Identifier: Apache-2.0
"""How a network in training does on samples it never sees, and the temperature of its posterior."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from geoloc_models.datasets.pair_samples import PairSamples, collate
from geoloc_models.datasets.ul14_samples import Ul14Samples
from geoloc_models.drl.heatmap import published_heatmap
from geoloc_models.drl.losses import spatial_cross_entropy
from geoloc_models.errors import GeolocError
from geoloc_models.metrics import relative_distance_scores
from geoloc_models.training.recipe import LocalizerRecipe, loss_function

Samples = PairSamples | Ul14Samples

MAPS_PER_BATCH = 8


def predict(model: nn.Module, batch: dict[str, Tensor], device: torch.device, half: bool) -> Tensor:
    """Logits (B, 1, H, W), float32, of a collated batch; half: run the network in bfloat16 where that is safe."""
    search_map = batch["map"].to(device, memory_format=torch.channels_last)
    query = batch["query"].to(device, memory_format=torch.channels_last)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
        logits: Tensor = model(query, search_map)
    return logits.float()


def load(
    samples: Dataset[dict[str, Tensor]], batches: Sequence[range], workers: int = 0
) -> Iterator[dict[str, Tensor]]:
    """Collated batches of the samples with the given indices; GeolocError as the samples raise it."""
    try:
        yield from DataLoader(samples, batch_sampler=map(list, batches), num_workers=workers, collate_fn=collate)
    except GeolocError as error:
        # A worker's error comes with a traceback as its text; the last line is what was meant.
        raise GeolocError(str(error).strip().splitlines()[-1].split("GeolocError: ")[-1]) from error


class HeldOut:
    """Scores a network on the first `maps` held-out samples, always the same ones."""

    def __init__(
        self, samples: Samples, maps: int, recipe: LocalizerRecipe, device: torch.device, workers: int = 0
    ) -> None:
        """recipe: of the training; its loss tells how heatmaps are read (see `find`)."""
        self.samples = samples
        self.maps = maps
        self.recipe = recipe
        self.device = device
        self.workers = workers

    @torch.inference_mode()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """MA@5, MA@20 and the median error in m (left out where metres are unknown), RDS of exact labels, and the
        loss.
        """
        loss_of = loss_function(self.recipe)
        was_training = model.training
        model.eval()
        errors_m, scores, losses = [], [], []
        for batch in load(self.samples, _portions(self.maps), self.workers):
            logits = predict(model, batch, self.device, self.recipe.half)
            side_px = batch["map"].shape[-1]
            losses += [loss_of(logits, batch["target"].to(self.device) / side_px).item()] * len(logits)
            found = self.find(logits.cpu(), side_px)
            target = batch["target"].numpy()
            scores.append(relative_distance_scores(found, target, (side_px, side_px), truncate_label=False))
            errors_m.append(np.linalg.norm(found - target, axis=1) * batch["gsd_m"].numpy())
        model.train(was_training)
        figures = {
            "held_out_loss": round(float(np.mean(losses)), 4),
            "rds": round(float(np.concatenate(scores).mean()), 4),
        }
        error_m = np.concatenate(errors_m)
        if np.isfinite(error_m).all():
            figures |= {f"ma{k}": round(float((error_m <= k).mean()), 4) for k in (5, 20)}
            figures["median_m"] = round(float(np.median(error_m)), 2)
        return figures

    def find(self, logits: Tensor, side_px: int) -> np.ndarray:
        """(B, 2) found places (row, col), pixel edges of the map, of logits (B, 1, H, W): of the highest node for the
        spatial loss, as published for losses over single cells.
        """
        if self.recipe.loss == "spatial":
            best = logits.flatten(1).argmax(1)
            cols = logits.shape[-1]
            nodes = torch.stack([best // cols, best % cols], 1)
            return np.asarray((nodes * (side_px / (cols - 1))).numpy(), np.float64)
        places = [published_heatmap(one[0].numpy(), self.recipe.positive_cells, side_px)[1] for one in logits]
        return np.array(places, np.float64)


@torch.inference_mode()
def calibrate(model: nn.Module, samples: Samples, maps: int, device: torch.device, half: bool = True) -> float:
    """Temperature that makes the posterior fit: the one with the least negative log-likelihood of the true places of
    the first `maps` samples.

    The likelihood is that of the node nearest to the truth under the posterior blurred by the truth's own noise. It
    asks for no metres, which UL14's images may lack; `geoloc calibrate` refines it where there are metres, by how
    often the peak is right (`calibration.fit_temperature`).
    """
    temperatures = np.geomspace(0.4, 4.0, 47)
    totals = np.zeros(len(temperatures))
    for batch in load(samples, _portions(maps)):
        logits = predict(model, batch, device, half)
        stride = batch["map"].shape[-1] / (logits.shape[-1] - 1)
        target = batch["target"].to(device) / stride
        totals += [len(target) * spatial_cross_entropy(logits / float(t), target, 0.7).item() for t in temperatures]
    return float(temperatures[int(totals.argmin())])


def _portions(maps: int) -> list[range]:
    return [range(i, min(i + MAPS_PER_BATCH, maps)) for i in range(0, maps, MAPS_PER_BATCH)]
