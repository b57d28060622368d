# SPDX-License-Identifier: Apache-2.0
"""A small network learns from a large one: besides where the view is, how sure one can be of it and what else fits.

Knowledge distillation (Hinton et al., 2015) on heatmaps: the teacher's calibrated posterior over the places of the very
same map is a soft target beside the true one.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from geoloc_models.drl.presets import PRESETS
from geoloc_models.errors import GeolocError
from geoloc_models.training.held_out import predict
from geoloc_models.weights import load_weights

TAUGHT_SHARE = 0.5
"""Of the loss that the teacher's posterior has; the true place has the rest."""


class Teacher:
    """A trained network whose posterior is looked up for each batch; it does not learn."""

    def __init__(self, weights: str | Path, device: torch.device, half: bool) -> None:
        """weights: by name or file; half: its forward pass in bfloat16. GeolocError for weights whose logits are no
        posterior over places.
        """
        loaded = load_weights(weights)
        if PRESETS[loaded.info.network].loss != "spatial":
            raise GeolocError(
                f"weights {weights} are of {loaded.info.network}, whose heatmaps are no probabilities of places: "
                "give a teacher that was trained with the loss spatial, such as default"
            )
        self.weights_id = loaded.id
        self._model = loaded.model.to(device).eval()
        self._temperature = loaded.info.temperature
        self._device = device
        self._half = half

    @torch.no_grad()
    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        """Calibrated logits (B, 1, H, W) of a collated batch."""
        return predict(self._model, batch, self._device, self._half) / self._temperature


def distillation_loss(logits: Tensor, taught: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the teacher's posterior from the student's; mean over the batch.

    logits: (B, 1, H, W) of the student; taught: calibrated ones of the teacher, on any grid whose nodes span the same
    map from edge to edge.
    """
    if taught.shape[-2:] != logits.shape[-2:]:
        taught = F.interpolate(taught, size=logits.shape[-2:], mode="bilinear", align_corners=True)
    student, teacher = (torch.log_softmax(each.flatten(1), dim=1) for each in (logits, taught))
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)
