# SPDX-License-Identifier: Apache-2.0
"""Hearing a running localizer, for commands that fly beside it."""

from __future__ import annotations

import threading
from types import TracebackType

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import NavSatFix, NavSatStatus

from geoloc_ros.msg import LocalizerStatus


class FixListener:
    """Counts the valid fixes of a localizer in the graph of this shell, while the block lasts."""

    def __init__(self, namespace: str) -> None:
        """namespace: the localizer's."""
        self._count, self._words = 0, ""
        self._context = rclpy.Context()
        # Ctrl-C stays Python's own: it has to bring the vehicle down.
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node("mission", namespace=namespace, context=self._context)
        self._node.create_subscription(NavSatFix, "localizer/fix", self._on_fix, 50)
        self._node.create_subscription(LocalizerStatus, "localizer/status", self._on_status, 50)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def __enter__(self) -> FixListener:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()
        self._thread.join(5.0)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def count(self) -> int:
        """Valid fixes so far."""
        return self._count

    def words(self) -> str:
        """The localizer's last status in words, empty while none is heard."""
        return self._words

    def _on_fix(self, message: NavSatFix) -> None:
        self._count += message.status.status >= NavSatStatus.STATUS_FIX

    def _on_status(self, message: LocalizerStatus) -> None:
        self._words = message.reason or "tracking"
