# SPDX-License-Identifier: Apache-2.0
"""The node mavlink_bridge: fixes to ArduPilot or PX4 over MAVLink; attitude, height and GNSS from it to the localizer.

docs/mavlink.md lists the parameters to set on the autopilot.
"""

import math
import sys
import time
import traceback
from collections import Counter, deque
from statistics import median
from typing import Any

import numpy as np
import rclpy
from nav_msgs.msg import Odometry
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import Imu, NavSatFix
from std_msgs.msg import Float64

from geoloc_models.errors import GeolocError
from geoloc_ros.core.autopilot import mavlink_messages
from geoloc_ros.core.autopilot.fix_gate import Decision, Fix, Hold
from geoloc_ros.core.autopilot.mavlink_connection import Connection, ConnectionSettings
from geoloc_ros.core.autopilot.mavlink_messages import Attitude, Heights, Velocity
from geoloc_ros.core.autopilot.parameter_check import NOAID_TOUT_US, SENSOR_SINCE
from geoloc_ros.core.autopilot.vehicle import Autopilot
from geoloc_ros.core.geometry.px4_frames import Origin
from geoloc_ros.messages.reading import velocity_from_odometry
from geoloc_ros.messages.sensors import (
    fix_from_position,
    fix_from_receiver,
    imu_from_quaternion,
    no_fix,
    time_from_seconds,
)
from geoloc_ros.messages.stamps import message_time_s
from geoloc_ros.nodes.autopilot_fixes import AutopilotFixes, declare_fix_parameters
from geoloc_ros.nodes.frame_inputs import best_effort
from geoloc_ros.nodes.parameters import choice, declare, value
from geoloc_ros.nodes.running import run_node

GPS_INPUT, GLOBAL_POSITION_SENSOR, ODOMETRY = "gps_input", "global_position_sensor", "odometry"
OUTPUTS = ("auto", GPS_INPUT, GLOBAL_POSITION_SENSOR, ODOMETRY)
TAKEN_BY = {GPS_INPUT: Autopilot.ARDUPILOT, GLOBAL_POSITION_SENSOR: Autopilot.PX4, ODOMETRY: Autopilot.PX4}
POSITION_HZ = 10.0
ATTITUDE_AGE_S = 1.0
"""ATTITUDE counts where no ATTITUDE_QUATERNION came for so long."""
DELAYS = 20
"""Fixes over which the delay is measured that PX4 has to be told."""
VELOCITY_AGE_S = 1.0
"""An older velocity of the localizer's track is none."""
ORIGIN_HZ = 1.0
_HEIGHTS = ("DISTANCE_SENSOR", "ALTITUDE", "GLOBAL_POSITION_INT", "LOCAL_POSITION_NED")
_TRUTH = ("HIL_STATE_QUATERNION", "SIM_STATE")
_VELOCITIES = 600
_RATED = ("imu", "altitude", "gnss", "truth")
_EXACT = np.zeros((2, 2))


class MavlinkBridgeNode(Node):
    """Between the localizer and an autopilot. What comes from the autopilot is published on the connection's thread,
    what goes there is handed to it: neither waits for the other.
    """

    def __init__(self, **options: Any) -> None:
        """`options` are those of rclpy's Node, such as parameter_overrides."""
        super().__init__("mavlink_bridge", **options)
        self._declare_parameters()
        self._output: str = choice(self, "output", OUTPUTS)
        self._base_frame, self._gps_id = value(self, "base_frame"), value(self, "gps_id")
        self._agp_id = value(self, "agp_id")
        self._attitude: Attitude | None = None
        self._quaternion_s = -math.inf  # steady clock, of the last ATTITUDE_QUATERNION
        self._reported_origin: tuple[int, Origin] | None = None  # at which meeting
        self._altitude_amsl_m = math.nan
        self._velocity: tuple[float, Velocity] | None = None  # of which stamp
        self._heights = Heights()
        # The autopilot's own, from the connection's thread to the executor's: stamp, east, north.
        self._velocities: deque[tuple[float, float, float]] = deque(maxlen=_VELOCITIES)
        # Each key from the start: the connection's thread counts while another reads.
        self._published: Counter[str] = Counter(dict.fromkeys(_RATED, 0))
        self._rates: dict[str, float] = {}
        self._delays_ms: deque[float] = deque(maxlen=DELAYS)  # of GLOBAL_POSITION_SENSOR
        self._delay_reported = False
        self._rated: tuple[float, Counter[str]] = (time.monotonic(), Counter())
        self._imu = self.create_publisher(Imu, "imu", best_effort(50))
        self._altitude = self.create_publisher(Float64, "altitude", best_effort(20))
        self._gnss = self.create_publisher(NavSatFix, "gnss", best_effort(5))
        self._truth = self.create_publisher(NavSatFix, "truth", best_effort(20))
        self._truth_attitude = self.create_publisher(Imu, "truth_attitude", best_effort(20))
        self._connection = Connection(
            self._connection_settings(), self._on_message, self._now_s, self.get_logger().info
        )
        self._fixes = AutopilotFixes(
            self,
            value(self, "max_age_s"),
            self._send,
            lambda: self._altitude_amsl_m,
            self._why_blocked,
            self._extra_values,
        )
        self.create_subscription(Odometry, "localizer/odometry", self._on_odometry, 1)
        self.create_timer(1.0, self._update_rates, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._connection.start()

    def _declare_parameters(self) -> None:
        text = "where the autopilot is: udpin:HOST:PORT, udpout:HOST:PORT, tcp:HOST:PORT or serial:DEVICE:BAUD"
        declare(self, "connection", "udpin:0.0.0.0:14540", text)
        text = (
            "message that carries a fix; auto: gps_input for ArduPilot, for PX4 global_position_sensor from 1.18 on "
            "and odometry before"
        )
        declare(self, "output", "auto", text, choices=OUTPUTS)
        declare(self, "system_id", 1, "MAVLink system of this computer, as a rule that of its vehicle", 1, 255)
        declare(self, "component_id", 191, "MAVLink component of this computer", 1, 255)
        text = "MAVLink system of the autopilot; 0: the first that sends"
        declare(self, "target_system", 0, text, 0, 255)
        text = "which of ArduPilot's GPS takes the fixes, counted from 0: 1 with GPS2_TYPE = 14, 0 with GPS1_TYPE = 14"
        declare(self, "gps_id", 1, text, 0, 3)
        declare(self, "agp_id", 1, "id of our positions, as EKF2_AGP0_ID; PX4 1.18 and later", 0, 255)
        text = (
            "a fix that is older is not sent, s; PX4 takes EKF2_DELAY_MAX + 0.1, less the way there; ArduPilot "
            "corrects at most 0.25 (GPS2_DELAY_MS)"
        )
        declare(self, "max_age_s", 0.28, text, 0.0, 5.0)
        declare_fix_parameters(self)
        declare(self, "timeout_s", 3.0, "silence after which the autopilot counts as gone, s", 1.5, 60.0)
        declare(self, "imu_rate_hz", 50.0, "attitudes asked of the autopilot", 1.0, 400.0)
        declare(self, "truth", False, "ask a simulator for the truth; it is published in any case if it comes")
        declare(self, "truth_rate_hz", 30.0, "truth asked of a simulator", 1.0, 400.0)
        declare(self, "base_frame", "base_link", "frame_id of imu, gnss and truth, the vehicle's body")

    def _connection_settings(self) -> ConnectionSettings:
        rates_hz = {"ATTITUDE_QUATERNION": value(self, "imu_rate_hz")}
        for name in (*_HEIGHTS, "GPS_RAW_INT"):
            rates_hz[name] = POSITION_HZ
        if self._gps_id == 0:
            rates_hz["GPS2_RAW"] = POSITION_HZ
        rates_hz["GPS_GLOBAL_ORIGIN"] = ORIGIN_HZ
        if value(self, "truth"):
            rates_hz |= dict.fromkeys(_TRUTH, value(self, "truth_rate_hz"))
        return ConnectionSettings(
            url=value(self, "connection"),
            rates_hz=rates_hz,
            instead={"ATTITUDE_QUATERNION": "ATTITUDE"},
            once=("GPS_GLOBAL_ORIGIN",),  # PX4 sends it when it changes
            system_id=value(self, "system_id"),
            component_id=value(self, "component_id"),
            target_system=value(self, "target_system"),
            timeout_s=value(self, "timeout_s"),
        )

    def _now_s(self) -> float:
        return float(self.get_clock().now().nanoseconds) * 1e-9

    # --- to the autopilot, on the executor's thread ---------------------------------------------------------

    def _chosen_output(self) -> str:
        """The message that carries a fix now; empty while that is not known."""
        vehicle = self._connection.vehicle
        if self._output != "auto" or vehicle is None:
            return self._output if self._output != "auto" else ""
        if vehicle.autopilot == Autopilot.ARDUPILOT:
            return GPS_INPUT
        if vehicle.autopilot != Autopilot.PX4 or (vehicle.version is None and self._connection.is_asking):
            return ""
        return GLOBAL_POSITION_SENSOR if (vehicle.version or (0,)) >= SENSOR_SINCE else ODOMETRY

    @property
    def _origin(self) -> Origin | None:
        """Of PX4's local frame; not that of before a restart."""
        reported = self._reported_origin
        return None if reported is None or reported[0] != self._connection.meetings else reported[1]

    def _why_blocked(self, now_s: float) -> str:
        """Why the autopilot can take no fix; empty if it can."""
        while self._velocities:
            self._fixes.gate.jumps.motion.add(*self._velocities.popleft())
        problem, vehicle = self._connection.problem(), self._connection.vehicle
        if problem or vehicle is None:
            return problem
        if vehicle.autopilot == Autopilot.OTHER:
            return f"system {vehicle.system_id} is {vehicle.autopilot.value}"
        output = self._chosen_output()
        if not output:
            return f"waiting for the version of {vehicle}"
        if TAKEN_BY[output] != vehicle.autopilot:
            return f"{vehicle.autopilot.value} does not take {output}; set output to auto"
        if output == GLOBAL_POSITION_SENSOR and vehicle.version is not None and vehicle.version < SENSOR_SINCE:
            return f"{vehicle} does not take {output}, 1.18 is the first that does; set output to auto"
        if output == ODOMETRY and self._origin is None:
            return "PX4 has no local origin yet (GPS_GLOBAL_ORIGIN); let it see GNSS once, or set the origin"
        if output == ODOMETRY and self._attitude is None:
            return "no attitude of PX4 yet"
        return ""

    def _send(self, fix: Fix, decision: Decision) -> None:
        output, vehicle = self._chosen_output(), self._connection.vehicle
        if output == GPS_INPUT:
            message = mavlink_messages.gps_input(fix, decision, self._gps_id, self._velocity_at(fix.stamp_s))
        elif output == GLOBAL_POSITION_SENSOR:
            assert vehicle is not None
            target = vehicle.system_id, vehicle.component_id
            message = mavlink_messages.global_position_sensor(fix, decision, target, self._agp_id)
            self._measure_delay(decision)
        else:
            origin = self._origin
            if origin is None or self._attitude is None:
                self._fixes.gate.withdraw(Hold.BLOCKED)  # it restarted since the gate let the fix pass
                return
            # A PX4 that fuses our yaw must not get its own back.
            withheld = self._fixes.sends_yaw and math.isnan(decision.heading_deg)
            attitude = None if withheld else self._attitude
            message = mavlink_messages.odometry(fix, decision, origin, attitude)
        self._connection.send(message, fix.stamp_s + self._fixes.gate.max_age_s)

    def _measure_delay(self, decision: Decision) -> None:
        """PX4 1.18 takes no time from GLOBAL_POSITION_SENSOR, so it must be set how old a fix is that arrives."""
        self._delays_ms.append(decision.latency_s * 1e3)
        if len(self._delays_ms) == DELAYS and not self._delay_reported:
            self._delay_reported = True
            self.get_logger().info(
                f"set PX4's EKF2_AGP0_DELAY to {median(self._delays_ms):.0f} (ms): GLOBAL_POSITION_SENSOR brings no "
                f"time into PX4. EKF2_NOAID_TOUT {NOAID_TOUT_US} lets it bear 10 s without fixes, its default 5 s; "
                "`geoloc sim check` reads both"
            )

    def _on_odometry(self, message: Odometry) -> None:
        try:
            velocity = Velocity(*velocity_from_odometry(message))
        except GeolocError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=10.0)
            return
        self._velocity = message_time_s(message), velocity

    def _velocity_at(self, stamp_s: float) -> Velocity | None:
        """Of the localizer's track; it is that of the frame before, as the fix of a frame is published first."""
        if self._velocity is None or not 0.0 <= stamp_s - self._velocity[0] <= VELOCITY_AGE_S:
            return None
        return self._velocity[1]

    def _extra_values(self) -> dict[str, object]:
        connection = self._connection
        return {
            "connection": connection.problem() or "up",
            "autopilot": str(connection.vehicle or "none yet"),
            "output": self._chosen_output() or "not known yet",
            "agp_delay_ms": f"{median(self._delays_ms):.0f}" if self._delays_ms else "none",
            "height_from": self._heights.source or "nothing yet",
            "clock_offset_s": f"{connection.clock.offset_s:.3f}",
            "round_trip_ms": f"{connection.clock.round_trip_s * 1e3:.1f}",
            "refused": ", ".join(sorted(connection.refused)) or "nothing",
            "other_autopilots": ", ".join(map(str, connection.other_autopilots)) or "none",
            "garbage": connection.counts["garbage"],
            "late_to_the_connection": connection.counts["late"],
            **{f"{topic}_hz": f"{self._rates.get(topic, 0.0):.1f}" for topic in _RATED},
        }

    def _update_rates(self) -> None:
        """Measure the messages a second of what is published."""
        now_s, published = time.monotonic(), Counter(self._published)
        before_s, before = self._rated
        self._rates = {topic: (n - before[topic]) / (now_s - before_s) for topic, n in published.items()}
        self._rated = now_s, published

    # --- from the autopilot, on the connection's thread -----------------------------------------------------

    def _on_message(self, message: Any, stamp_s: float) -> None:
        try:
            self._pass_on(message, stamp_s)
        except Exception:
            # Ctrl-C shuts ROS down under this thread. A fault of ours must not end the connection.
            if rclpy.ok(context=self.context):
                self.get_logger().error(traceback.format_exc(), throttle_duration_sec=10.0)

    def _pass_on(self, message: Any, stamp_s: float) -> None:
        kind = message.get_type()
        if kind in ("ATTITUDE_QUATERNION", "ATTITUDE"):
            self._on_attitude(message, stamp_s)
        elif kind in ("GPS_RAW_INT", "GPS2_RAW"):
            self._on_gnss(message, stamp_s)
        elif kind in _TRUTH:
            self._on_truth(message, stamp_s)
        elif kind == "GPS_GLOBAL_ORIGIN":
            origin = Origin(message.latitude * 1e-7, message.longitude * 1e-7, message.altitude * 1e-3)
            self._reported_origin = self._connection.meetings, origin
        if kind in _HEIGHTS:
            self._on_height(message)
        if kind == "GLOBAL_POSITION_INT":
            self._velocities.append((stamp_s, message.vy * 1e-2, message.vx * 1e-2))

    def _on_attitude(self, message: Any, stamp_s: float) -> None:
        # Autopilots stream both to every peer that asked for either of them earlier.
        if message.get_type() == "ATTITUDE_QUATERNION":
            self._quaternion_s = time.monotonic()
        elif time.monotonic() - self._quaternion_s < ATTITUDE_AGE_S:
            return
        attitude = mavlink_messages.attitude_from(message)
        if not attitude.is_finite:
            return
        self._attitude = attitude
        self._publish("imu", self._imu, self._imu_message(attitude, stamp_s))

    def _imu_message(self, attitude: Attitude, stamp_s: float) -> Imu:
        stamp = time_from_seconds(stamp_s)
        return imu_from_quaternion(attitude.quaternion, attitude.rates_rad_s, stamp, self._base_frame)

    def _on_height(self, message: Any) -> None:
        kind = message.get_type()
        if kind == "GLOBAL_POSITION_INT":
            self._altitude_amsl_m = message.alt * 1e-3
        elif kind == "ALTITUDE" and math.isfinite(message.altitude_amsl):
            self._altitude_amsl_m = message.altitude_amsl
        cos_tilt = 1.0 if self._attitude is None else self._attitude.cos_tilt
        height_m = self._heights.height_m(message, cos_tilt, time.monotonic())
        if height_m is not None:
            self._publish("altitude", self._altitude, Float64(data=float(height_m)))

    def _on_gnss(self, message: Any, stamp_s: float) -> None:
        # ArduPilot reports the GPS that we feed like any other: our own fixes must not come back as GNSS.
        vehicle = self._connection.vehicle
        fed_first = vehicle is not None and vehicle.autopilot == Autopilot.ARDUPILOT and self._gps_id == 0
        if message.get_type() != ("GPS2_RAW" if fed_first else "GPS_RAW_INT"):
            return
        stamp, place = time_from_seconds(stamp_s), mavlink_messages.gnss_from(message)
        if place is None:
            fix = no_fix(stamp, self._base_frame)
        else:
            fix = fix_from_receiver(
                (place.lat_deg, place.lon_deg, place.altitude_m),
                (place.sigma_m, place.altitude_sigma_m),
                stamp,
                self._base_frame,
            )
        self._publish("gnss", self._gnss, fix)

    def _on_truth(self, message: Any, stamp_s: float) -> None:
        attitude = mavlink_messages.attitude_from(message)
        place = mavlink_messages.truth_from(message)
        if not (attitude.is_finite and math.isfinite(place.altitude_m)):
            return
        self._truth_attitude.publish(self._imu_message(attitude, stamp_s))
        fix = fix_from_position(
            place.lat_deg, place.lon_deg, place.altitude_m, _EXACT, 0.0,
            time_from_seconds(stamp_s), self._base_frame,
        )  # fmt: skip
        self._publish("truth", self._truth, fix)

    def _publish(self, topic: str, publisher: Any, message: Any) -> None:
        self._published[topic] += 1
        publisher.publish(message)

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def main() -> int:
    """Run the node until it is interrupted; 2 if its parameters do not fit."""
    return run_node("mavlink_bridge", MavlinkBridgeNode)


if __name__ == "__main__":
    sys.exit(main())
