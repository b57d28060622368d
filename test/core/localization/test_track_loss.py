# SPDX-License-Identifier: Apache-2.0
"""When a track is lost: how fast doubt grows, what takes it away, and that no single frame decides."""

import numpy as np
import pytest

from geoloc_models.drl.heatmap import Heatmap, heatmap_from_logits
from geoloc_ros.core.localization.track_loss import Doubt
from geoloc_ros.core.matching.settings import LocalizerSettings

SETTINGS = LocalizerSettings(
    doubt_contradicted=3.0, doubt_diffuse=1.5, doubt_relief=4.0, max_entropy=0.75, lost_after_misses=3
)


def heatmap(spread: float) -> Heatmap:
    """A mode of so many nodes on 41 x 41."""
    rows, cols = np.mgrid[:41, :41]
    return heatmap_from_logits(-((rows - 20.0) ** 2 + (cols - 20.0) ** 2) / (2 * spread**2), 4.0)


@pytest.mark.parametrize(
    ("shown", "contradicts", "rate"),
    [
        (None, False, 1.0),
        (heatmap(1.0), False, 1.0),
        (heatmap(30.0), False, 1.5),
        (heatmap(1.0), True, 3.0),
    ],
)
def test_what_a_frame_shows_sets_how_fast_doubt_grows(
    shown: Heatmap | None, contradicts: bool, rate: float
) -> None:
    doubt = Doubt(SETTINGS)
    for frame in range(11):
        doubt.miss(frame * 0.4, shown, contradicts)
    assert doubt.seconds == pytest.approx(4.0 * rate)
    assert doubt.is_lost(4.0 * rate - 0.01)
    assert not doubt.is_lost(4.0 * rate + 0.01)


def test_a_lucky_fix_among_misses_does_not_clear_a_doubtful_track() -> None:
    doubt = Doubt(SETTINGS)
    for frame in range(1, 60):
        if frame % 10 == 0:
            doubt.fix(0.1 * frame)
        else:
            doubt.miss(0.1 * frame, None, True)
    # Nine misses add 2.7 s of doubt, the fix between takes 0.4 s away.
    assert doubt.seconds > 10.0
    steady = Doubt(SETTINGS)
    for frame in range(60):
        if frame % 10 == 0:
            steady.miss(0.1 * frame, None, True)
        else:
            steady.fix(0.1 * frame)
    assert steady.seconds == 0.0


def test_one_frame_after_a_long_silence_loses_nothing() -> None:
    doubt = Doubt(SETTINGS)
    doubt.fix(0.0)
    doubt.miss(60.0, None, False)
    doubt.miss(60.1, None, False)
    assert not doubt.is_lost(20.0)
    doubt.miss(60.2, None, False)
    assert doubt.is_lost(20.0)
