# SPDX-License-Identifier: Apache-2.0
"""A student comes to give its teacher's heatmaps; what cannot teach is refused."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geoloc_models.datasets.image_pairs import ImagePair
from geoloc_models.datasets.pair_samples import PairSamples, SampleSettings
from geoloc_models.engines.plain_engine import random_weights
from geoloc_models.errors import GeolocError
from geoloc_models.training.distillation import Teacher, distillation_loss
from geoloc_models.training.held_out import load
from geoloc_models.training.localizer_task import LocalizerTask
from geoloc_models.training.processes import Processes
from geoloc_models.training.recipe import LocalizerRecipe
from geoloc_models.training.trainer import train

ALONE = Processes(0, 1, torch.device("cpu"))


def test_loss_is_the_divergence_of_two_posteriors() -> None:
    rng = np.random.default_rng(0)
    student, taught = rng.normal(size=(2, 3, 1, 5, 7))
    p, q = (np.exp(x.reshape(3, -1)) / np.exp(x.reshape(3, -1)).sum(1, keepdims=True) for x in (taught, student))
    expected = (p * (np.log(p) - np.log(q))).sum(1).mean()
    found = distillation_loss(torch.from_numpy(student), torch.from_numpy(taught))
    assert float(found) == pytest.approx(expected, rel=1e-9)
    assert float(distillation_loss(torch.from_numpy(taught), torch.from_numpy(taught))) == pytest.approx(0)


def test_a_teacher_on_a_coarser_grid_means_the_same_places() -> None:
    """Nodes span the map from edge to edge, so that every second node of the finer grid is one of the coarser."""
    coarse = torch.zeros(1, 1, 5, 5)
    coarse[0, 0, 1, 3] = 30.0
    logits = torch.zeros(1, 1, 9, 9, requires_grad=True)
    distillation_loss(logits, coarse).backward()
    assert logits.grad is not None
    assert divmod(int(logits.grad.argmin()), 9) == (2, 6)


class Student(nn.Module):
    """Logits of the same places whatever the images."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(1, 1, nodes, nodes))

    def forward(self, query: Tensor, search_map: Tensor) -> Tensor:
        return self.logits.expand(len(query), -1, -1, -1)


def test_training_moves_the_student_towards_the_teacher(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    coarse = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    cv2.imwrite(str(image), cv2.resize(coarse, (240, 240), interpolation=cv2.INTER_CUBIC))
    pair = ImagePair("a", "test", image, image, 0.5, np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    samples = PairSamples([pair], SampleSettings(map_px=96, query_px=32, queries=2))
    teacher = Teacher("mix_compact", torch.device("cpu"), half=False)
    batches = list(load(samples, [range(i, i + 2) for i in range(0, 12, 2)]))
    nodes = 96 // 4 + 1

    def apart(student: Student) -> float:
        with torch.no_grad():
            losses = [distillation_loss(student(b["query"], b["map"]), teacher(b)) for b in batches]
        return float(torch.stack(losses).mean())

    settings = LocalizerRecipe(
        samples=24, maps_per_batch=2, learning_rate=0.3, warmup_batches=1, average_decay=0.0, half=False
    )
    students = {}
    for name, taught_by in (("taught", teacher), ("alone", None)):
        student = Student(nodes)
        task = LocalizerTask("mix_compact", student, samples, None, settings, ALONE, teacher=taught_by)
        trained = train(task, tmp_path / name, ALONE)
        students[name] = apart(trained.model)  # type: ignore[arg-type]
    assert students["taught"] < min(apart(Student(nodes)), students["alone"])
    assert json.loads((tmp_path / "taught" / "settings.json").read_text())["teacher"] == teacher.weights_id


def test_networks_without_a_posterior_cannot_teach(tmp_path: Path) -> None:
    with pytest.raises(GeolocError, match="whose heatmaps are no probabilities of places"):
        Teacher(random_weights("mix_cvt13_ccn_avg", tmp_path), torch.device("cpu"), half=False)
