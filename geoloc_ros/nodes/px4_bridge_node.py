# SPDX-License-Identifier: Apache-2.0
"""The node px4_bridge: fixes to PX4 as auxiliary global position, and by choice headings as visual odometry; attitude,
height and GNSS from PX4 to the localizer.

All goes through PX4's own DDS client and the agent; no firmware is changed. docs/px4.md lists the parameters to set.
"""

import math
import sys
from dataclasses import replace
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.publisher import Publisher
from sensor_msgs.msg import Imu, NavSatFix
from std_msgs.msg import Float64

from geoloc_models.errors import GeolocError
from geoloc_ros.core.autopilot.fix_gate import Decision, Fix
from geoloc_ros.core.autopilot.px4_clock import ClockWatch, px4_time_s
from geoloc_ros.core.geometry.px4_frames import Origin
from geoloc_ros.messages.px4 import (
    aux_position_from_fix,
    gnss_from_px4,
    imu_from_px4,
    odometry_from_fix,
    origin_from_px4,
)
from geoloc_ros.messages.reading import Quaternion, altitude_amsl_from_px4, height_from_px4, quaternion_from_imu
from geoloc_ros.nodes.autopilot_fixes import AutopilotFixes, declare_fix_parameters
from geoloc_ros.nodes.frame_inputs import best_effort
from geoloc_ros.nodes.parameters import choice, declare, value
from geoloc_ros.nodes.px4_topics import VERSIONS, from_px4, other_version, px4_topics, to_px4
from geoloc_ros.nodes.running import run_node

FUSION_SLACK_S = 0.1
"""EKF2 takes a sample that is older than EKF2_DELAY_MAX by less than this."""
WAY_S = 0.01
"""Of it for the way from here through the agent into PX4."""


def declare_px4_parameters(node: Node) -> None:
    """Release, namespace and limits of PX4."""
    text = "release of the firmware, 1.18 for all later ones; auto: that of the px4_msgs at hand"
    # On the command line 1.17 is a number.
    declare(node, "px4_version", "auto", text, choices=VERSIONS, either_type=True)
    text = "namespace of PX4's topics; with several vehicles such as /px4_1/fmu"
    declare(node, "fmu_namespace", "/fmu", text)
    declare(node, "agp_id", 1, "id of our positions, as EKF2_AGP0_ID; PX4 1.18 and later", 0, 255)
    text = "PX4's parameter EKF2_DELAY_MAX, ms; a fix that is older than it by 90 ms is not sent"
    declare(node, "ekf2_delay_max_ms", 200.0, text, 0.0, 5000.0)
    declare_fix_parameters(node)
    declare(node, "base_frame", "base_link", "frame_id of imu and gnss, the vehicle's body")


class Px4BridgeNode(Node):
    """Between the localizer and PX4; all callbacks are short and run on the executor's thread."""

    def __init__(self, **options: Any) -> None:
        """`options` are those of rclpy's Node, such as parameter_overrides."""
        super().__init__("px4_bridge", **options)
        declare_px4_parameters(self)
        self._topics = px4_topics(choice(self, "px4_version", VERSIONS), value(self, "fmu_namespace"))
        self._base_frame, self._source_id = value(self, "base_frame"), value(self, "agp_id")
        self._clock_watch = ClockWatch()
        self._altitude_amsl_m = math.nan
        self._attitude: Quaternion | None = None
        self._origin: Origin | None = None
        self._other_version = ""
        max_age_s = value(self, "ekf2_delay_max_ms") * 1e-3 + FUSION_SLACK_S - WAY_S
        self._aux = self.create_publisher(self._topics.aux.kind, self._topics.aux.name, to_px4(max_age_s))
        self._odometry: Publisher | None = None
        if value(self, "send_yaw"):
            odometry = self._topics.odometry
            self._odometry = self.create_publisher(odometry.kind, odometry.name, to_px4(max_age_s))
        self._imu = self.create_publisher(Imu, "imu", best_effort(20))
        self._altitude = self.create_publisher(Float64, "altitude", best_effort(20))
        self._gnss = self.create_publisher(NavSatFix, "gnss", best_effort(20))
        for topic, on_message in (
            (self._topics.attitude, self._on_attitude),
            (self._topics.local_position, self._on_local_position),
            (self._topics.gps, self._on_gps),
        ):
            self.create_subscription(topic.kind, topic.name, on_message, from_px4())
        self._fixes = AutopilotFixes(
            self, max_age_s, self._send, lambda: self._altitude_amsl_m, self._why_blocked, self._extra_values
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._look_for_other_version, clock=steady)
        self.get_logger().info(f"sending {self._topics.aux.kind.__name__} on {self._topics.aux.name}")

    # --- to PX4 ---------------------------------------------------------------------------------------------

    def _send(self, fix: Fix, decision: Decision) -> None:
        kind = self._topics.aux.kind
        message = aux_position_from_fix(kind, self._on_px4s_clock(fix), decision, self._source_id)
        if not self._fixes.hold_if_late(fix):
            self._aux.publish(message)
            self._send_yaw(fix, decision)

    def _send_yaw(self, fix: Fix, decision: Decision) -> None:
        """Only if the decision has a heading, and PX4 a local frame and an attitude to turn to it."""
        if self._odometry is None or self._origin is None or self._attitude is None:
            return
        if math.isfinite(decision.heading_deg):
            kind = self._topics.odometry.kind
            fix = self._on_px4s_clock(fix)
            self._odometry.publish(odometry_from_fix(kind, fix, decision, self._origin, self._attitude))

    def _on_px4s_clock(self, fix: Fix) -> Fix:
        return replace(fix, stamp_s=fix.stamp_s - self._behind_s)

    def _why_blocked(self, now_s: float) -> str:
        """Why PX4 can take no fix; empty if it can."""
        if self._other_version:
            return self._other_version
        if self._aux.get_subscription_count() == 0:
            return (
                f"PX4 does not listen on {self._topics.aux.name}: start MicroXRCEAgent, and use a firmware whose "
                "dds_topics.yaml has the topic, as a stock one of 1.15 or later does"
            )
        return self._clock_watch.problem(now_s)

    def _look_for_other_version(self) -> None:
        self._other_version = other_version(self, self._topics)

    def _extra_values(self) -> dict[str, object]:
        return {"topic": self._topics.aux.name, "clock_offset_s": f"{self._clock_watch.offset_s:.3f}"}

    # --- from PX4 -------------------------------------------------------------------------------------------

    def _note_stamp(self, message: Any) -> bool:
        """Compare a message's stamp with our clock; whether both are one clock, so that the stamp is valid here."""
        now_s = self.get_clock().now().nanoseconds * 1e-9
        self._clock_watch.note(message.timestamp, now_s)
        return not self._clock_watch.problem(now_s)

    @property
    def _behind_s(self) -> float:
        """By how much PX4's stamps are behind ours; on one simulated clock only the messages of that are."""
        return 0.0 if value(self, "use_sim_time") else self._clock_watch.behind_s

    def _on_attitude(self, message: Any) -> None:
        if not self._note_stamp(message):
            return
        try:
            self._imu.publish(imu_from_px4(message, self._base_frame, self._behind_s))
            self._attitude = quaternion_from_imu(message)
        except GeolocError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=10.0)

    def _on_local_position(self, message: Any) -> None:
        self._note_stamp(message)
        self._altitude_amsl_m = altitude_amsl_from_px4(message)
        self._origin = origin_from_px4(message)
        velocity = (message.vy, message.vx) if message.v_xy_valid else (math.nan, math.nan)
        moment_s = px4_time_s(message.timestamp_sample or message.timestamp) + self._behind_s
        self._fixes.gate.jumps.motion.add(moment_s, *velocity)
        height_m = height_from_px4(message)
        if math.isfinite(height_m):
            self._altitude.publish(Float64(data=height_m))

    def _on_gps(self, message: Any) -> None:
        if self._note_stamp(message):
            self._gnss.publish(gnss_from_px4(message, self._base_frame, self._behind_s))

    def close(self) -> None:
        """Nothing but what the node itself destroys."""


def main() -> int:
    """Run the node until it is interrupted; 2 if its parameters or px4_msgs do not fit."""
    return run_node("px4_bridge", Px4BridgeNode)


if __name__ == "__main__":
    sys.exit(main())
