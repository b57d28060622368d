# SPDX-License-Identifier: Apache-2.0
"""Each structure and each loss, in a reduced size, learns a few samples of a generated UL14 tree by heart.

Nothing is replaced: the parts are those of the presets with fewer channels and blocks, and training, samples and
losses are the ones of `geoloc train`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geoloc_models.backbones.cvt import CvtMix, CvtStream, Stage
from geoloc_models.backbones.vit import VitMix, VitShape
from geoloc_models.datasets.pair_samples import collate
from geoloc_models.datasets.ul14 import load_train
from geoloc_models.datasets.ul14_samples import Ul14Samples, Ul14Settings
from geoloc_models.drl.heads import (
    AttentionFusion,
    AveragePool,
    Enlarge,
    GeneralizedMean,
    GroupCorrelation,
    LinearChain,
    SoftmaxPool,
)
from geoloc_models.drl.heatmap import published_heatmap
from geoloc_models.drl.losses import positive_cells
from geoloc_models.drl.mix_fusion import MixFusion
from geoloc_models.drl.necks import ChannelConvert, FeaturePyramid
from geoloc_models.drl.post_fusion import PostFusion
from geoloc_models.training.held_out import predict
from geoloc_models.training.localizer_task import LocalizerTask
from geoloc_models.training.processes import Processes
from geoloc_models.training.recipe import DRL_PAPER
from geoloc_models.training.trainer import train

STAGES = (Stage(16, 1, 1, 7, 4, 2), Stage(32, 2, 1, 3, 2, 1), Stage(48, 3, 1, 3, 2, 1))
WITH_CLASS_TOKEN = (*STAGES[:2], replace(STAGES[2], class_token=True))
WIDTH = 32
SAMPLES = 4
ALONE = Processes(0, 1, torch.device("cpu"))


class Memory:
    """The first samples of a stream, drawn once and repeated for ever."""

    def __init__(self, stream: Ul14Samples) -> None:
        self.queries = stream.queries
        self.settings = stream.settings
        self.drawn = [stream[index] for index in range(SAMPLES)]

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.drawn[index % SAMPLES]


@pytest.fixture(scope="module")
def memory(ul14_tree: Path) -> Memory:
    """Samples by the whole recipe, views of 32 px on maps of 64 px."""
    items = load_train(ul14_tree)
    return Memory(Ul14Samples(items, Ul14Settings(query_px=32, map_px=64), batch=len(items)))


def mix(head: nn.Module, correlates: bool = False) -> MixFusion:
    neck = ChannelConvert(48, WIDTH)
    return MixFusion(CvtMix(STAGES), neck, head, ChannelConvert(48, WIDTH) if correlates else None)


def pyramid() -> MixFusion:
    neck = FeaturePyramid([stage.channels for stage in STAGES], WIDTH)
    return MixFusion(CvtMix(STAGES), neck, LinearChain((WIDTH, 16, 1)), enlarge=Enlarge(1))


def post(head: nn.Module, shared: bool = False) -> PostFusion:
    second = None if shared else CvtStream(WITH_CLASS_TOKEN)
    return PostFusion(CvtStream(WITH_CLASS_TOKEN), second, ChannelConvert(48, WIDTH), ChannelConvert(48, WIDTH), head)


def fusion(joint: bool) -> AttentionFusion:
    return AttentionFusion(WIDTH, joint, layers=1, heads=4, hidden=64, dropout=0.0)


def vit() -> MixFusion:
    shape = VitShape(channels=48, blocks=2, heads=2, patch_px=8, position_grid=8)
    return MixFusion(VitMix(shape), ChannelConvert(48, WIDTH), LinearChain((WIDTH, 16, 1)))


# Name: network, batches, learning rate, loss, R.
STRUCTURES: dict[str, tuple[Callable[[], nn.Module], int, float, str, int]] = {
    "mix avg": (lambda: mix(AveragePool()), 80, 5e-3, "balance", 1),
    "mix linear": (lambda: mix(LinearChain((WIDTH, 16, 1))), 80, 5e-3, "balance", 1),
    "mix gem": (lambda: mix(SoftmaxPool(WIDTH)), 80, 5e-3, "balance", 1),
    # Its logits cannot be negative, so only a loss that compares cells with each other teaches it.
    "mix true gem": (lambda: mix(GeneralizedMean()), 80, 3e-3, "spatial", 1),
    "mix gc": (lambda: mix(GroupCorrelation(WIDTH), correlates=True), 150, 3e-3, "balance", 1),
    "mix fpn": (pyramid, 100, 3e-3, "balance", 5),
    "mix vit": (vit, 80, 5e-3, "balance", 1),
    "post gc": (lambda: post(GroupCorrelation(WIDTH, scale=1e-4)), 110, 4e-3, "balance", 1),
    "post gc shared": (lambda: post(GroupCorrelation(WIDTH, scale=1e-4), shared=True), 100, 5e-3, "balance", 1),
    "post caf": (lambda: post(fusion(joint=False)), 110, 4e-3, "balance", 1),
    "post saf": (lambda: post(fusion(joint=True)), 120, 4e-3, "balance", 1),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_structure_learns_its_samples(name: str, memory: Memory, tmp_path: Path) -> None:
    make, batches, rate, loss, side_cells = STRUCTURES[name]
    torch.manual_seed(0)
    network = make()
    learn(network, memory, tmp_path, batches, rate, loss, side_cells)
    assert hits(network, memory, side_cells).all()


@pytest.mark.parametrize("loss", ["wbl", "hann", "balance", "cross_entropy", "focal", "spatial"])
def test_every_loss_teaches(loss: str, memory: Memory, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = vit()
    assert not hits(network, memory, side_cells=3).all()
    learn(network, memory, tmp_path, batches=80, rate=3e-3, loss=loss, side_cells=3)
    assert hits(network, memory, side_cells=3).all()


def learn(network: nn.Module, memory: Memory, out: Path, batches: int, rate: float, loss: str, side_cells: int) -> None:
    """Train in place by the paper's recipe, but for the length of the run."""
    settings = replace(
        DRL_PAPER,
        samples=batches * SAMPLES,
        maps_per_batch=SAMPLES,
        learning_rate=rate,
        warmup_batches=batches // 10,
        loss=loss,
        negative_weight=15.0,
        positive_cells=side_cells,
        checkpoint_batches=batches,
    )
    task = LocalizerTask("reduced", network, memory, None, settings, ALONE)
    assert train(task, out, ALONE).batch == batches


def hits(network: nn.Module, memory: Memory, side_cells: int) -> np.ndarray:
    """Whether the place read from each heatmap as published lies in the square of positive cells, (SAMPLES,)."""
    batch = collate(memory.drawn)
    with torch.inference_mode():
        logits = predict(network.eval(), batch, ALONE.device, half=False)
    height, width = logits.shape[-2:]
    wanted = positive_cells(batch["target"] / memory.settings.map_px, height, width, side_cells)
    found = [published_heatmap(one[0].numpy(), side_cells, width)[1] for one in logits]
    return np.array([bool(cells[0][place]) for cells, place in zip(wanted, found, strict=True)])
