# SPDX-License-Identifier: Apache-2.0
"""LocalizerStatus has exactly the latencies that the localizer measures."""

import math

import pytest

pytest.importorskip("rclpy", reason="no ROS 2 in this environment")

from geoloc_ros.msg import LocalizerStatus

from geoloc_ros.messages.status import LATENCIES, latencies_ms


def test_every_stage_has_its_field() -> None:
    fields = [name for name in LocalizerStatus.get_fields_and_field_types() if name.startswith("latency_")]
    assert fields == [f"latency_{name}_ms" for name in LATENCIES]


def test_latencies_that_do_not_apply_are_left_out() -> None:
    message = LocalizerStatus(latency_retrieve_ms=math.nan, latency_crop_ms=2.0)
    assert "retrieve" not in latencies_ms(message)
    assert latencies_ms(message)["crop"] == 2.0
