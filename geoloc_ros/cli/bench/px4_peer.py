# SPDX-License-Identifier: Apache-2.0
"""The two ends of px4_bridge played by nodes: PX4 with its own QoS, and a localizer that follows a script."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import NavSatFix, NavSatStatus

from geoloc_ros.core.localization.state import State
from geoloc_ros.messages.sensors import fix_from_position, no_fix, time_from_seconds
from geoloc_ros.msg import LocalizerStatus
from geoloc_ros.nodes.px4_topics import Px4Topics

RATE_HZ = 50.0
REF_ALTITUDE_M = 400.0
"""Of the local frame's origin, above mean sea level."""

PX4_WRITES = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PX4_READS = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)


@dataclass(frozen=True)
class Received:
    """A message that reached PX4, and when DDS sent it, s, by the computer's clock."""

    message: Any
    sent_s: float


class Px4Peer(Node):
    """PX4's DDS client, as its agent presents it: publishes on /fmu/out, subscribes to /fmu/in."""

    def __init__(self, topics: Px4Topics, booted_s: float = 0.0, **options: Any) -> None:
        """booted_s: origin of PX4's clock, s; 0: it agrees with ours. `options` are those of Node."""
        super().__init__("px4", **options)
        self.booted_s = booted_s
        self.attitude_wxyz = (1.0, 0.0, 0.0, 0.0)
        self.local_position: dict[str, Any] = {"z": -50.0, "z_valid": True, "z_global": True, "ref_alt": REF_ALTITUDE_M}
        self.gps: dict[str, Any] = {"fix_type": 1}
        self.received: list[Received] = []
        self.odometry: list[Any] = []
        self._topics = topics
        self._writers = {
            topic: self.create_publisher(topic.kind, topic.name, PX4_WRITES)
            for topic in (topics.attitude, topics.local_position, topics.gps)
        }
        # Humble's rclpy does not report when a message was sent; there the time of arrival stands in.
        on_position = self._on_position if hasattr(Subscription, "CallbackType") else self._on_arrival
        self.create_subscription(topics.aux.kind, topics.aux.name, on_position, PX4_READS)
        self.create_subscription(topics.odometry.kind, topics.odometry.name, self.odometry.append, PX4_READS)
        # Steady time: PX4 keeps publishing while a simulated clock stands still or steps back.
        self.create_timer(1 / RATE_HZ, self._publish, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _on_position(self, message: Any, info: dict[str, Any]) -> None:
        self.received.append(Received(message, info["source_timestamp"] * 1e-9))

    def _on_arrival(self, message: Any) -> None:
        self.received.append(Received(message, self.now_s()))

    def _publish(self) -> None:
        now_us = round((self.now_s() - self.booted_s) * 1e6)
        stamps = {"timestamp": now_us, "timestamp_sample": now_us}
        for topic, fields in (
            (self._topics.attitude, {"q": np.array(self.attitude_wxyz, np.float32)}),
            (self._topics.local_position, self.local_position),
            (self._topics.gps, self.gps),
        ):
            self._writers[topic].publish(topic.kind(**stamps, **fields))

    def now_s(self) -> float:
        """The clock of the graph, s."""
        return float(self.get_clock().now().nanoseconds) * 1e-9


class ScriptedLocalizer(Node):
    """Publishes ~/fix and ~/status of the frames that it is given."""

    def __init__(self, **options: Any) -> None:
        """`options` are those of Node."""
        super().__init__("localizer", **options)
        self._fix = self.create_publisher(NavSatFix, "~/fix", 10)
        self._status = self.create_publisher(LocalizerStatus, "~/status", 10)
        self.frames = 0

    @property
    def heard(self) -> bool:
        """Whether both have a subscriber."""
        return min(p.get_subscription_count() for p in (self._fix, self._status)) > 0

    def frame(
        self,
        state: State = State.TRACKING,
        valid: bool = True,
        age_s: float = 0.05,
        stamp_s: float | None = None,
        place: tuple[float, float, float] = (47.4, 8.5, 500.0),
        sigma_m: float = 2.0,
        heading: tuple[float, float] = (math.nan, math.nan),
        heading_residual_deg: float = 0.0,
    ) -> float:
        """One frame's answer, of `age_s` ago or of `stamp_s`, which it returns, s; `place`: lat, lon, altitude;
        `heading` and its standard deviation, degrees; `heading_residual_deg`: of the frame's alignment.
        """
        self.frames += 1
        if stamp_s is None:
            stamp_s = float(self.get_clock().now().nanoseconds) * 1e-9 - age_s
        stamp = time_from_seconds(stamp_s)
        fix = no_fix(stamp, "base_link")
        if valid:
            spread = np.eye(2) * sigma_m**2
            fix = fix_from_position(*place, spread, 9.0, stamp, "base_link")
            fix.status.status = NavSatStatus.STATUS_FIX
        status = LocalizerStatus(state=int(state), valid=valid, frames=self.frames, sigma_m=math.nan)
        status.heading_deg, status.sigma_heading_offset_deg = heading
        status.alignment_heading_deg = heading_residual_deg
        status.header.stamp = stamp
        self._fix.publish(fix)
        self._status.publish(status)
        return stamp_s
