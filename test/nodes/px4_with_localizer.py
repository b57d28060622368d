# SPDX-License-Identifier: Apache-2.0
"""A case of test_px4_bridge.py: images in, PX4's auxiliary global position out, through all nodes."""

import math
import time
from pathlib import Path

import pytest
from harness import Rig, Scene, Spinner, parameters, until

from geoloc_ros.cli.bench.px4_peer import REF_ALTITUDE_M, Px4Peer
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.nodes.px4_bridge_node import Px4BridgeNode
from geoloc_ros.nodes.px4_topics import px4_topics


def test_fixes_of_a_confirmed_track_reach_px4(spinner: Spinner, scene: Scene, map_path: Path) -> None:
    rig = Rig(spinner, scene, map_path)
    px4 = spinner.add(Px4Peer(px4_topics("auto", "/flown/fmu")))
    values = {"fmu_namespace": "/flown/fmu", "ekf2_delay_max_ms": 5000.0}
    # The scene's own attitude and height are those of the images.
    remaps = [arg for topic in ("imu", "altitude", "gnss") for arg in ("-r", f"{topic}:=px4/{topic}")]
    bridge = spinner.add(
        Px4BridgeNode(
            namespace=rig.namespace, parameter_overrides=parameters(**values), cli_args=["--ros-args", *remaps]
        )
    )
    until(lambda: not bridge._why_blocked(px4.now_s()), what="a bridge that can send")
    assert rig.drone.set_prior(*scene.place).success
    truths, valid_us = {}, []
    for _ in range(6):
        scene.stamp_s = time.time() - 0.01
        frame = scene.next(step_s=0.01)
        _, status = rig.drone.fly(frame)
        stamp_us = status.header.stamp.sec * 1_000_000 + round(status.header.stamp.nanosec * 1e-3)
        truths[stamp_us] = frame.truth
        valid_us += [stamp_us] if status.valid else []
    assert len(valid_us) == 6  # on a map of the same day one frame is decisive
    until(lambda: len(px4.received) == len(valid_us), what="as many samples as fixes")
    for sample, stamp_us in zip(px4.received, valid_us, strict=True):
        message, truth = sample.message, truths[stamp_us]
        assert abs(message.timestamp_sample - stamp_us) <= 1
        error_m = math.hypot(*LocalEnu(truth.lat_deg, truth.lon_deg).to_enu(message.lat, message.lon))
        assert error_m < 3.0
        assert 0.1 < message.eph < 10.0
        assert message.lat_lon_reset_counter == 0
        # No ground altitude is known here, so it is PX4's own.
        assert message.alt == pytest.approx(REF_ALTITUDE_M + 50.0)
