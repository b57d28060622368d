# SPDX-License-Identifier: Apache-2.0
"""The localizer's fixes on their way to an autopilot: paired with their status, gated, reported; for every bridge."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from sensor_msgs.msg import NavSatFix
from std_msgs.msg import Float64

from geoloc_ros.core.autopilot.fix_gate import Decision, Fix, FixGate, Hold
from geoloc_ros.core.geometry.geoid import undulation_m
from geoloc_ros.messages.status import gate_input_from_fix, gate_status_from_status
from geoloc_ros.msg import LocalizerStatus
from geoloc_ros.nodes.diagnostics import Diagnostics
from geoloc_ros.nodes.parameters import declare, value

SILENCE_S = 2.0
"""Without a fix for so long the localizer counts as silent; it publishes one for every image, lost or not."""
_WAITING = 16

Left = TypeVar("Left")
Right = TypeVar("Right")


class StampPairs(Generic[Left, Right]):
    """Two topics whose messages belong together where their stamps are equal; the last few wait for their half.

    Of several messages of one stamp that wait the first counts.
    """

    def __init__(self, on_pair: Callable[[Left, Right], None]) -> None:
        self._on_pair = on_pair
        self._halves: dict[tuple[int, int], tuple[Any, Any]] = {}

    def add_left(self, message: Left) -> None:
        """A message of the first topic."""
        self._add(message, 0)

    def add_right(self, message: Right) -> None:
        """A message of the second topic."""
        self._add(message, 1)

    def _add(self, message: Any, side: int) -> None:
        stamp = message.header.stamp
        key = (stamp.sec, stamp.nanosec)
        halves = list(self._halves.pop(key, (None, None)))
        halves[side] = halves[side] or message
        if None not in halves:
            self._on_pair(halves[0], halves[1])
            return
        self._halves[key] = (halves[0], halves[1])
        while len(self._halves) > _WAITING:
            del self._halves[next(iter(self._halves))]


def declare_fix_parameters(node: Node) -> None:
    """When a fix is held as a jump, and whether a heading goes with it. AutopilotFixes reads them."""
    text = (
        "a fix that jumps from where the vehicle's own velocity leads is not sent until fixes of new ground have "
        "agreed with it for so long, s; 0: it is sent at once"
    )
    declare(node, "jump_hold_s", 12.0, text, 0.0, 60.0)
    text = "send the vehicle's heading, as the localizer has found it on the map, with each fix"
    declare(node, "send_yaw", False, text)
    text = (
        "a heading is not sent if its standard deviation, or its difference from the frame's own alignment, is larger, "
        "degrees"
    )
    declare(node, "max_yaw_sigma_deg", 3.0, text, 0.1, 45.0)


def altitude_amsl_m(fix: Fix, otherwise_m: float) -> float:
    """Altitude above mean sea level of a fix with an ellipsoidal one; `otherwise_m` where the fix has none."""
    if not all(map(math.isfinite, (fix.lat_deg, fix.lon_deg, fix.altitude_m))):
        return otherwise_m
    return fix.altitude_m - undulation_m(fix.lat_deg, fix.lon_deg)


class AutopilotFixes:
    """Takes localizer/fix and localizer/status, sends what the gate lets pass, publishes ~/latency and diagnostics.

    All runs on the executor's thread.
    """

    def __init__(
        self,
        node: Node,
        max_age_s: float,
        send: Callable[[Fix, Decision], None],
        own_altitude_m: Callable[[], float],
        blocked: Callable[[float], str],
        extra_values: Callable[[], Mapping[str, object]],
    ) -> None:
        """Subscribe and advertise.

        send: gets what passes, with its altitude above mean sea level. own_altitude_m: the autopilot's idea of that,
        for fixes without; NaN if it has none. blocked(now_s): why the autopilot can take none, else empty.
        extra_values: for the diagnostics. GeolocError without a geoid.
        """
        undulation_m(0.0, 0.0)  # reads the grid now and not in flight
        self._node = node
        self._send, self._own_altitude_m, self._blocked, self._extra_values = (
            send,
            own_altitude_m,
            blocked,
            extra_values,
        )
        self.sends_yaw: bool = value(node, "send_yaw")
        max_sigma_deg = value(node, "max_yaw_sigma_deg") if self.sends_yaw else 0.0
        self.gate = FixGate(max_age_s, max_sigma_deg, value(node, "jump_hold_s"))
        self._latency_s = math.nan
        self._decided: Decision | None = None
        # Steady time: a simulation that stands still must not silence the diagnostics.
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        self._received_s = self._steady_s()
        self._latency = node.create_publisher(Float64, "~/latency", 10)
        self._diagnostics = Diagnostics(node, "fixes for the autopilot", "no fix yet")
        pairs: StampPairs[NavSatFix, LocalizerStatus] = StampPairs(self._on_pair)

        def on_status(message: LocalizerStatus) -> None:
            self.gate.observe(gate_status_from_status(message))
            pairs.add_right(message)

        self._fix = node.create_subscription(NavSatFix, "localizer/fix", pairs.add_left, 10)
        self._status = node.create_subscription(LocalizerStatus, "localizer/status", on_status, 10)
        node.create_timer(1.0, self._every_second, clock=self._steady)

    def _steady_s(self) -> float:
        return float(self._steady.now().nanoseconds) * 1e-9

    def _now_s(self) -> float:
        return float(self._node.get_clock().now().nanoseconds) * 1e-9

    def hold_if_late(self, fix: Fix) -> bool:
        """For `send`, with the message ready: whether the fix has become too old meanwhile; it counts as held then."""
        return self.gate.hold_if_late(fix, self._now_s())

    def _on_pair(self, fix_message: NavSatFix, status_message: LocalizerStatus) -> None:
        self._received_s = self._steady_s()
        fix = gate_input_from_fix(fix_message)
        fix = replace(fix, altitude_m=altitude_amsl_m(fix, self._own_altitude_m()))
        status = gate_status_from_status(status_message)
        blocked = self._blocked(self._now_s())
        now_s = self._now_s()
        decision = self.gate.decide(fix, status, now_s, blocked)
        if decision.send:
            self._send(fix, decision)
        if decision.send or decision.hold == Hold.TOO_OLD:
            self._latency_s = decision.latency_s
            self._latency.publish(Float64(data=decision.latency_s))
        if decision.hold == Hold.TOO_OLD:
            self._node.get_logger().warning(
                f"a fix came too late for the autopilot: {decision.reason}; make the localizer faster "
                "(docs/performance.md) or allow more",
                throttle_duration_sec=5.0,
            )
        self._decided = decision
        self._diagnose(now_s)

    def _every_second(self) -> None:
        self._diagnose(self._now_s())
        self._diagnostics.publish()

    def _diagnose(self, now_s: float) -> None:
        blocked = self._blocked(now_s)
        decided = self._decided
        level, text = DiagnosticStatus.OK, "sending fixes"
        if blocked:
            level, text = DiagnosticStatus.ERROR, f"nothing is sent: {blocked}"
            self._node.get_logger().error(text, throttle_duration_sec=10.0)
        elif decided is None or self._steady_s() - self._received_s > SILENCE_S:
            level = DiagnosticStatus.STALE
            text = f"no fix with its status on {self._fix.topic_name}; is the localizer running?"
        elif decided.hold is not None:
            level, text = DiagnosticStatus.WARN, f"nothing is sent: {decided.hold.value}"
        totals = self.gate.totals
        self._diagnostics.set(
            level,
            text,
            {
                "sent": totals.sent,
                **{f"held: {hold.value}": totals.held[hold] for hold in Hold},
                "latency_s": f"{self._latency_s:.3f}",
                "latency_limit_s": f"{self.gate.max_age_s:g}",
                "oldest_sent_s": f"{totals.oldest_s:.3f}",
                "resets": totals.resets,
                "yaw_sent_deg": "none" if decided is None else f"{decided.heading_deg:.1f}",
                **self._extra_values(),
            },
        )
