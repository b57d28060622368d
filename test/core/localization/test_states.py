# SPDX-License-Identifier: Apache-2.0
"""What states make of the pose that their track has learned."""

import math
from typing import Any

import numpy as np
import pytest

from geoloc_models.drl.alignment import Alignment
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.localization.attempt import Attempt
from geoloc_ros.core.localization.states import Confirming, Equipment, Tracking
from geoloc_ros.core.localization.track_loss import TrackLoss
from geoloc_ros.core.matching.gates import Refused
from geoloc_ros.core.matching.match_frame import Match
from geoloc_ros.core.matching.pose_bias import PoseBiasFilter
from geoloc_ros.core.matching.settings import LocalizerSettings
from geoloc_ros.core.matching.tracker import Tracker
from geoloc_ros.core.recording.frame import Frame

SETTINGS = LocalizerSettings()
CAMERA = CameraModel(640, 480, np.array([[500.0, 0.0, 320.0], [0.0, 500.0, 240.0], [0.0, 0.0, 1.0]]))
FRAME = Frame(np.zeros((480, 640, 3), np.uint8), 1.0, nadir_rotation(0.0), 100.0, CAMERA)
UNUSED: Any = None
"""Engine, map and images: the states under test are handed matches."""


def learned(heading_deg: float) -> PoseBiasFilter:
    """A filter that one clear alignment has shown this heading."""
    bias = PoseBiasFilter(SETTINGS.pose)
    covariance = np.diag([1.0, 1.0, *np.array([1e-3, 1e-3, 1e-2, 1e-2]) ** 2])
    bias.update(FRAME, Alignment((0, 0), math.radians(heading_deg), 0.0, (0.0, 0.0), covariance, 0.9, 80.0), 0.5)
    return bias


def test_the_heading_that_a_search_found_is_a_part_of_what_is_known() -> None:
    """Else ~/pose and autopilots would get the vehicle's own, wrong one."""
    tracker = Tracker(58.0, 26.0, 5.0, 1.0, 0.0)
    tracking = Tracking(UNUSED, tracker, TrackLoss(SETTINGS.track), 160.0, learned(3.0))
    assert math.degrees(tracking.known_bias.heading_rad) == pytest.approx(163.0, abs=0.1)
    np.testing.assert_array_equal(tracking.known_bias.covariance, tracking.bias.bias.covariance)


def test_a_first_fix_that_is_undone_takes_its_bias_along() -> None:
    state = Confirming.at(Equipment(UNUSED, UNUSED, SETTINGS, None), 58.0, 26.0, 40.0, 0.0)
    attempt = Attempt(FRAME)
    estimate, _ = state.fuse(attempt, Match(58.0, 26.0, np.eye(2), UNUSED, 0.9, UNUSED, bias=learned(9.0)))
    assert estimate.bias is not None
    assert math.degrees(estimate.bias.heading_rad) == pytest.approx(9.0, abs=0.1)
    undone, _ = state.miss(Attempt(FRAME), Refused("elsewhere", contradicts=True))
    assert undone.bias is not None
    assert undone.bias.heading_rad == 0.0
    assert state.bias.bias.covariance[0, 0] == pytest.approx(math.radians(SETTINGS.pose.bias_heading_deg) ** 2)
