# SPDX-License-Identifier: Apache-2.0
"""What an epoch is made of (AST paper, sections 3.4 and 4.4, ablation 5)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def epoch_order(places: int, per_place: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Indices of places, each `per_place` (N_sample) times, fully shuffled: (places * per_place,)."""
    rng = np.random.default_rng((seed, epoch))
    return rng.permutation(np.repeat(np.arange(places), per_place))


def batches(order: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Positions in the epoch by batch, (batches, size); the incomplete last batch is dropped."""
    whole = len(order) // size
    return np.arange(whole * size).reshape(whole, size)
