# SPDX-License-Identifier: Apache-2.0
"""When a track is lost: how fast the loss score rises, what lowers it, and that no single frame decides."""

import numpy as np
import pytest

from geoloc_models.drl.heatmap import Heatmap, heatmap_from_logits
from geoloc_ros.core.localization.track_loss import TrackLoss
from geoloc_ros.core.matching.settings import TrackSettings

SETTINGS = TrackSettings(
    loss_rate_contradicted=3.0, loss_rate_diffuse=1.5, loss_relief=4.0, max_entropy=0.75, lost_after_misses=3
)


def heatmap(spread: float) -> Heatmap:
    """A mode of so many nodes on 41 x 41."""
    rows, cols = np.mgrid[:41, :41]
    return heatmap_from_logits(-((rows - 20.0) ** 2 + (cols - 20.0) ** 2) / (2 * spread**2), 4.0)


@pytest.mark.parametrize(
    ("shown", "contradicts", "rate"),
    [(None, False, 1.0), (heatmap(1.0), False, 1.0), (heatmap(30.0), False, 1.5), (heatmap(1.0), True, 3.0)],
)
def test_what_a_frame_shows_sets_the_rate_of_the_loss_score(
    shown: Heatmap | None, contradicts: bool, rate: float
) -> None:
    loss = TrackLoss(SETTINGS)
    for frame in range(11):
        loss.miss(frame * 0.4, shown, contradicts)
    assert loss.score_s == pytest.approx(4.0 * rate)
    assert loss.exceeds(4.0 * rate - 0.01)
    assert not loss.exceeds(4.0 * rate + 0.01)


def test_a_lucky_fix_among_misses_does_not_clear_a_doubtful_track() -> None:
    loss = TrackLoss(SETTINGS)
    for frame in range(1, 60):
        if frame % 10 == 0:
            loss.fix(0.1 * frame)
        else:
            loss.miss(0.1 * frame, None, True)
    # Nine misses add 2.7 s, the fix between them takes 0.4 s away.
    assert loss.score_s > 10.0
    steady = TrackLoss(SETTINGS)
    for frame in range(60):
        if frame % 10 == 0:
            steady.miss(0.1 * frame, None, True)
        else:
            steady.fix(0.1 * frame)
    assert steady.score_s == 0.0


def test_one_frame_after_a_long_silence_loses_nothing() -> None:
    loss = TrackLoss(SETTINGS)
    loss.fix(0.0)
    loss.miss(60.0, None, False)
    loss.miss(60.1, None, False)
    assert not loss.exceeds(20.0)
    loss.miss(60.2, None, False)
    assert loss.exceeds(20.0)
