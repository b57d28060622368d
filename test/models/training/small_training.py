# SPDX-License-Identifier: Apache-2.0
"""A small training as a process of its own, for test_trainer.py to kill and to run twice at once.

    python small_training.py PICTURE OUT {plain,random} BATCHES

"random" has dropout and batch norms, whose state an interruption must not change. Writes OUT/rank<N>.pt, the weights.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from geoloc_models.backbones.cvt import CvtMix, CvtStream, Stage
from geoloc_models.datasets.image_pairs import ImagePair
from geoloc_models.datasets.pair_samples import PairSamples, SampleSettings
from geoloc_models.drl.heads import AttentionFusion, LinearChain
from geoloc_models.drl.mix_fusion import MixFusion
from geoloc_models.drl.necks import ChannelConvert
from geoloc_models.drl.post_fusion import PostFusion
from geoloc_models.training.held_out import HeldOut
from geoloc_models.training.localizer_task import LocalizerTask
from geoloc_models.training.processes import join_processes
from geoloc_models.training.recipe import DRL_PAPER
from geoloc_models.training.trainer import train

STAGES = (Stage(8, 1, 1, 7, 4, 2), Stage(16, 2, 1, 3, 2, 1, drop_path=0.1))


def network(kind: str) -> MixFusion | PostFusion:
    if kind == "plain":
        stages = tuple(replace(stage, drop_path=0.0) for stage in STAGES)
        return MixFusion(CvtMix(stages), ChannelConvert(16, 16), LinearChain((16, 1)))
    head = AttentionFusion(16, joint=True, layers=1, heads=2, hidden=32)
    return PostFusion(CvtStream(STAGES), CvtStream(STAGES), ChannelConvert(16, 16), ChannelConvert(16, 16), head)


def main(image: Path, out: Path, kind: str, batches: int) -> None:
    torch.set_num_threads(1)
    same_place = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    pair = ImagePair("a", "test", image, image, 0.5, same_place)
    samples = PairSamples([pair], SampleSettings(map_px=64, query_px=32, queries=2), seed=5)
    settings = replace(
        DRL_PAPER,
        samples=8 * batches,
        maps_per_batch=4,
        learning_rate=2e-3,
        warmup_batches=5,
        # Squares reach over the border here and there: every share of a batch has other counts of positives.
        positive_cells=3,
        average_decay=0.9,
        best_from=None,
        checkpoint_batches=3,
        check_batches=5,
        seed=5,
    )
    with join_processes("cpu") as processes:
        torch.manual_seed(5)
        held_out = HeldOut(samples, 4, settings, processes.device)
        task = LocalizerTask("small", network(kind), samples, held_out, settings, processes)
        trained = train(task, out, processes)
        torch.save(trained.model.state_dict(), out / f"rank{processes.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
