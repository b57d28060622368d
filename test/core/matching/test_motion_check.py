# SPDX-License-Identifier: Apache-2.0
"""Odometry that contradicts the fixes is left out until it agrees with them again."""

import numpy as np

from geoloc_models.drl.heatmap import heatmap_from_logits
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.maps.crop import CropStatus, MapCrop
from geoloc_ros.core.matching.match_frame import Match
from geoloc_ros.core.matching.motion_check import MotionCheck
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.matching.tracker import Tracker
from geoloc_ros.core.recording.motion import Displacement

HOME = LocalEnu(47.0, 8.0)
IMAGE = np.zeros((80, 80, 3), np.uint8)


def match(east_m: float) -> Match:
    place = HOME.to_geodetic(east_m, 0.0)
    heatmap = heatmap_from_logits(np.eye(20, dtype=np.float32), 4.0)
    return Match(*place, np.eye(2), heatmap, 1.0, MapCrop(IMAGE, *place, 80.0, 10.0, 1.0, CropStatus.OK, ""))


def step(stop_s: float, east_m_s: float, north_m_s: float, time_s: float = 0.5) -> tuple[Displacement, ...]:
    moved = np.array([east_m_s, north_m_s]) * time_s
    return (Displacement(stop_s - time_s, stop_s, moved, np.eye(2) * (0.5 * time_s) ** 2),)


def test_a_liar_is_left_out_until_it_agrees_with_the_fixes_again() -> None:
    check = MotionCheck(LocalizerSettings(), Tracker(47.0, 8.0, 1.0, 10.0, 0.0))
    stamp_s = 0.0

    def flown(north_m_s: float, frames: int) -> list[int]:
        nonlocal stamp_s
        used = []
        for _ in range(frames):
            stamp_s += 0.5
            used.append(len(check.usable(step(stamp_s, 10.0, north_m_s), stamp_s)))
            check.update(match(10.0 * stamp_s))
        return used

    assert flown(0.0, 20) == [1] * 20
    assert flown(25.0, 4) == [0] * 4
    assert (check.trusted, check.refused) == (False, 4)
    assert flown(0.0, 2) == [1] * 2
    assert check.trusted


def test_a_fix_that_fixes_alone_expect_is_no_contradiction() -> None:
    check = MotionCheck(LocalizerSettings(), Tracker(47.0, 8.0, 1.0, 2.0, 0.0))
    check.usable(step(4.0, 12.0, 0.0, 4.0), 4.0)
    assert check.explains(match(5.0))
    assert not check.trusted
    assert not check.explains(match(500.0))
