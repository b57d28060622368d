# SPDX-License-Identifier: Apache-2.0
"""Hearing a running localizer and the bridge behind it, for commands that fly beside them."""

import math
import threading
from types import TracebackType

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import Float64

from geoloc_ros.msg import LocalizerStatus

BRIDGES = ("mavlink_bridge", "px4_bridge")


class FixListener:
    """Counts the fixes that go to the autopilot in the graph of this shell, while the block lasts."""

    def __init__(self, namespace: str) -> None:
        """namespace: of localizer and bridge."""
        self._count, self._limit_s = 0, math.inf
        self._localizer, self._bridge = "is not heard", "is not heard"
        self._namespace = namespace.strip("/")
        self._context = rclpy.Context()
        # Ctrl-C stays Python's own: it has to bring the vehicle down.
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node("mission", namespace=namespace, context=self._context)
        self._node.create_subscription(LocalizerStatus, "localizer/status", self._on_status, 50)
        for bridge in BRIDGES:
            self._node.create_subscription(Float64, f"{bridge}/latency", self._on_latency, 50)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def __enter__(self) -> "FixListener":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def count(self) -> int:
        """Fixes sent to the autopilot so far."""
        return self._count

    def diagnostics(self) -> str:
        """The last diagnostics of localizer and bridge."""
        return f"localizer: {self._localizer}; bridge: {self._bridge}"

    def _on_status(self, message: LocalizerStatus) -> None:
        self._localizer = message.reason or "tracking"

    def _on_latency(self, message: Float64) -> None:
        # A bridge tells that of what came too late, too.
        self._count += message.data <= self._limit_s

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            name = status.name.removeprefix(f"{self._namespace}/")
            if name.split(":")[0] in BRIDGES:
                self._take_bridge(status)

    def _take_bridge(self, status: DiagnosticStatus) -> None:
        self._bridge = status.message
        values = {value.key: value.value for value in status.values}
        if "latency_limit_s" in values:
            self._limit_s = float(values["latency_limit_s"])
