# SPDX-License-Identifier: Apache-2.0
"""Which motion moves the track on: the vehicle's odometry, the images' own, or neither."""

import math
from dataclasses import replace

import numpy as np
import pytest
from textured_plane import HEIGHT_M, seen

from geoloc_ros.core.localization.own_motion import MotionUse, OwnMotion
from geoloc_ros.core.matching.pose_bias import PoseBias
from geoloc_ros.core.matching.settings import PoseSettings
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.recording.motion import Displacement


def odometry(east_m: float, sigma_m: float = 0.1) -> tuple[Displacement, ...]:
    """Over the second before the second frame."""
    return (Displacement(0.0, 1.0, np.array([east_m, 0.0]), np.eye(2) * sigma_m**2),)


def second(frame: Frame, bias: PoseBias | None = None) -> tuple[Frame, MotionUse]:
    own = OwnMotion(PoseSettings())
    _, first = own.add_to(seen(0.0, 0.0, 0.0), bias)
    assert (first.source, first.refused) == ("none", "visual: the first image")
    return own.add_to(frame, bias)


def learned(log_height_scale: float) -> PoseBias:
    return PoseBias(0.0, log_height_scale, (0.0, 0.0), np.diag([1e-4, 1e-4, 1e-6, 1e-6]))


def test_images_alone_move_the_track() -> None:
    frame, use = second(seen(10.0, 0.0, 1.0))
    (step,) = frame.motion
    assert (use.source, use.refused, step.source) == ("visual", "", "visual")
    assert use.ms > 0
    assert (step.start_s, step.stop_s) == (0.0, 1.0)
    np.testing.assert_allclose(step.enu_m, [10.0, 0.0], atol=0.1)
    assert np.linalg.eigvalsh(step.covariance_enu_m2)[0] > 0 and step.drift_m2 > 0


def test_a_learned_height_scales_the_motion() -> None:
    frame = replace(seen(10.0, 0.0, 1.0), height_m=HEIGHT_M / 1.2)
    own, bias = OwnMotion(PoseSettings()), learned(math.log(1.2))
    own.add_to(replace(seen(0.0, 0.0, 0.0), height_m=HEIGHT_M / 1.2), bias)
    moved, _ = own.add_to(frame, bias)
    np.testing.assert_allclose(moved.motion[0].enu_m, [10.0, 0.0], atol=0.15)


@pytest.mark.parametrize(("east_m", "source"), [(10.3, "odom"), (0.0, "visual"), (300.0, "visual")])
def test_odometry_is_preferred_unless_the_images_contradict_it(east_m: float, source: str) -> None:
    frame, use = second(replace(seen(10.0, 0.0, 1.0), motion=odometry(east_m)), learned(0.0))
    assert use.source == source == frame.motion[0].source
    assert use.refused.startswith("odom:") == (source == "visual")
    assert frame.motion[0].enu_m[0] == pytest.approx(east_m if source == "odom" else 10.0, abs=0.1)


def test_odometry_goes_on_where_the_images_show_nothing() -> None:
    blank = replace(seen(10.0, 0.0, 1.0), image=np.zeros((240, 320, 3), np.uint8))
    frame, use = second(replace(blank, motion=odometry(10.0)))
    assert use.source == "odom" and frame.motion[0].source == "odom"
    assert use.refused.startswith("visual: too little texture")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"image": None, "problem": "frame 7 cannot be read"}, "visual: frame 7 cannot be read"),
        ({"rotation_enu_from_optical": np.full((3, 3), np.nan)}, "visual: attitude is not finite"),
        ({"height_m": math.nan}, "visual: height above ground is nan"),
    ],
)
def test_an_unusable_frame_leaves_constant_velocity(fault: dict[str, object], reason: str) -> None:
    frame, use = second(replace(seen(10.0, 0.0, 1.0), **fault))  # type: ignore[arg-type]
    assert (use.source, frame.motion) == ("none", ())
    assert use.refused.startswith(reason)
