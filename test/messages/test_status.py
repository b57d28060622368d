# SPDX-License-Identifier: Apache-2.0
"""LocalizerStatus has exactly the latencies that the localizer measures."""

import math

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2 in this environment")

from builtin_interfaces.msg import Time
from geoloc_ros.msg import LocalizerStatus

from geoloc_models.drl.alignment import Alignment
from geoloc_ros.core.localization.estimate import Estimate
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.matching.pose_bias import PoseBias
from geoloc_ros.messages.status import LATENCIES, gate_status_from_status, latencies_ms, status_from_estimate


def test_every_stage_has_its_field() -> None:
    fields = [name for name in LocalizerStatus.get_fields_and_field_types() if name.startswith("latency_")]
    assert fields == [f"latency_{name}_ms" for name in LATENCIES]


def test_latencies_that_do_not_apply_are_left_out() -> None:
    message = LocalizerStatus(latency_retrieve_ms=math.nan, latency_crop_ms=2.0)
    assert "retrieve" not in latencies_ms(message)
    assert latencies_ms(message)["crop"] == 2.0


def status(bias: PoseBias | None, alignment: Alignment | None, heading_deg: float) -> LocalizerStatus:
    estimate = Estimate(12.0, State.TRACKING, True, "", bias=bias, alignment=alignment)
    return status_from_estimate(estimate, heading_deg, Time(sec=12), "base_link", {}, (5, 0), ("weights", "cpu"))


def test_what_the_track_has_learned_is_published_with_its_deviations() -> None:
    covariance = np.diag([math.radians(2.0), 0.05, math.radians(0.5), math.radians(0.7)]) ** 2
    bias = PoseBias(math.radians(-9.0), math.log(1.2), (math.radians(1.5), math.radians(-2.5)), covariance)
    alignment = Alignment((200.0, 200.0), math.radians(0.5), 0.0, (0.0, 0.0), np.eye(6), 0.75, 30.0)
    message = status(bias, alignment, 271.0)
    assert (message.heading_deg, message.alignment_support) == (271.0, 0.75)
    assert message.heading_offset_deg == pytest.approx(-9.0)
    assert message.sigma_heading_offset_deg == pytest.approx(2.0)
    assert (message.height_scale, message.sigma_height_scale) == pytest.approx((1.2, 0.06))
    assert list(message.boresight_deg) == pytest.approx([1.5, -2.5])
    assert list(message.sigma_boresight_deg) == pytest.approx([0.5, 0.7])
    gated = gate_status_from_status(message)
    assert (gated.frames, gated.heading_deg, gated.sigma_heading_deg) == (5, 271.0, pytest.approx(2.0))
    assert gated.heading_residual_deg == pytest.approx(0.5)


def test_what_is_not_learned_is_not_a_number() -> None:
    message = status(None, None, math.nan)
    names = ("heading_offset_deg", "height_scale")
    values = [getattr(message, prefix + name) for prefix in ("", "sigma_") for name in names]
    values += [*message.boresight_deg, *message.sigma_boresight_deg, message.heading_deg]
    values += [message.alignment_heading_deg, message.alignment_support]
    assert len(values) == 11
    assert all(map(math.isnan, values))
