# SPDX-License-Identifier: Apache-2.0
"""The simulated camera of a vehicle that an autopilot's own simulator flies: pose in, image out."""

import math
import time

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import Imu, NavSatFix

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.rotations import rotation_enu_from_optical
from geoloc_ros.core.recording.timeline import Timeline, blend_quaternions
from geoloc_ros.core.simulation.simulator import CameraSimulator
from geoloc_ros.messages.reading import Quaternion, gnss_from_fix, quaternion_from_imu
from geoloc_ros.messages.stamps import message_time_s
from geoloc_ros.nodes.diagnostics import Diagnostics
from geoloc_ros.nodes.frame_inputs import best_effort
from geoloc_ros.nodes.frame_topics import CameraTopics
from geoloc_ros.nodes.parameters import value

STALE_S = 2.0
"""Silence of the truth after which diagnostics report it, real time."""
MIN_HEIGHT_M = 1.0
"""A camera that stands on the ground sees nothing."""
ATTITUDE_MAX_AGE_S = 0.1
"""Largest time between a position and the attitudes that are blended for it."""


class VehicleCamera:
    """Renders the newest pose of truth and truth_attitude, at most so often; the camera looks down."""

    def __init__(self, node: Node, simulator: CameraSimulator, rate_hz: float) -> None:
        """Subscribe and advertise. The node has declared ground_altitude_m."""
        self._node = node
        self._simulator = simulator
        self._period_s = 1.0 / rate_hz
        self._ground_m: float = value(node, "ground_altitude_m")
        self._topics = CameraTopics(node)
        self._attitude: Timeline[Quaternion] = Timeline(blend_quaternions)
        self._waiting: NavSatFix | None = None
        self._due_s = -math.inf
        self._received_s = self._rendered_s = time.monotonic()
        self._reported = ""
        subscriptions = [
            node.create_subscription(NavSatFix, "truth", self._on_truth, best_effort(1)),
            node.create_subscription(Imu, "truth_attitude", self._on_attitude, best_effort(20)),
        ]
        self._truth_topic, self._attitude_topic = (s.topic_name for s in subscriptions)
        self._diagnostics = Diagnostics(node, "camera simulation", f"no truth on {self._truth_topic} yet")
        node.create_timer(1.0, self._every_second, clock=Clock(clock_type=ClockType.STEADY_TIME))
        middle, _ = simulator.free_area()
        self._middle = f"{middle.lat_deg:.6f}, {middle.lon_deg:.6f}"
        node.get_logger().info(f"following {self._truth_topic} over a map around {self._middle}")

    def _on_truth(self, message: NavSatFix) -> None:
        self._received_s = time.monotonic()
        self._waiting = message
        self._render_if_due()

    def _on_attitude(self, message: Imu) -> None:
        try:
            attitude = quaternion_from_imu(message)
        except GeolocError as error:
            self._report(DiagnosticStatus.WARN, f"{self._attitude_topic}: {error}")
            return
        self._attitude.add(message_time_s(message), attitude)
        self._render_if_due()

    def _render_if_due(self) -> None:
        """Render the waiting position once the attitude of its moment is there, unless it comes too soon."""
        if self._waiting is None:
            return
        stamp_s = message_time_s(self._waiting)
        lag_s = stamp_s - self._due_s
        # Further ahead than two periods the clock was set back, as by a new start of the autopilot.
        if -2 * self._period_s < lag_s < 0:
            return
        newest_s = self._attitude.newest_s()
        attitude = self._attitude.at(stamp_s, ATTITUDE_MAX_AGE_S)
        if newest_s is None or newest_s < stamp_s or attitude is None:
            return
        truth, self._waiting = self._waiting, None
        # Due is what keeps the mean rate, without catching up after a gap.
        self._due_s = (self._due_s if 0 <= lag_s < self._period_s else stamp_s) + self._period_s
        self._render(truth, attitude)

    def _render(self, truth: NavSatFix, attitude: Quaternion) -> None:
        place = gnss_from_fix(truth)
        if place is None or not math.isfinite(place.altitude_m):
            self._report(DiagnosticStatus.WARN, f"{self._truth_topic} holds no position with altitude")
            return
        if math.isnan(self._ground_m):
            self._ground_m = place.altitude_m
            self._node.get_logger().info(f"the ground is at {self._ground_m:.1f} m, as the vehicle is now")
        height_m = place.altitude_m - self._ground_m
        self._rendered_s = time.monotonic()
        if height_m < MIN_HEIGHT_M:
            self._report(DiagnosticStatus.OK, "the vehicle is on the ground: no images")
            return
        rotation = rotation_enu_from_optical(attitude)
        try:
            image = self._simulator.render(place.lat_deg, place.lon_deg, height_m, rotation)
        except GeolocError as error:
            self._report(DiagnosticStatus.WARN, str(error))
            return
        self._topics.publish(image, self._simulator.camera, truth.header.stamp)
        if self._simulator.covers(place.lat_deg, place.lon_deg):
            self._report(DiagnosticStatus.OK, "following the vehicle")
        else:
            text = f"the vehicle is outside the map: fly it, or start its autopilot, around {self._middle}"
            self._report(DiagnosticStatus.WARN, text)

    def _every_second(self) -> None:
        now_s = time.monotonic()
        if now_s - self._received_s > STALE_S:
            self._report(
                DiagnosticStatus.STALE,
                f"no truth on {self._truth_topic} for {STALE_S:g} s: is the bridge running, and the autopilot's "
                "simulator?",
            )
        elif now_s - self._rendered_s > STALE_S:
            text = f"no attitude of the truth's moment on {self._attitude_topic}: is one stamped otherwise?"
            self._report(DiagnosticStatus.WARN, text)
        self._diagnostics.publish()

    def _report(self, level: bytes, text: str) -> None:
        """Diagnostics, and the log where something has changed."""
        if text != self._reported:
            self._reported = text
            log = self._node.get_logger()
            if level == DiagnosticStatus.OK:
                log.info(text)
            else:
                log.warning(text)
        self._diagnostics.set(level, text)
