# SPDX-License-Identifier: Apache-2.0
"""A node's state on /diagnostics."""

import threading
from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

from geoloc_ros.messages.status import diagnostic_array


class Diagnostics:
    """The node's one entry on /diagnostics: as often as `publish` is called, and at once on change."""

    def __init__(self, node: Node, subject: str, text: str = "not configured") -> None:
        """`subject`: what the node looks after, for the entry's name; `text`: the first message."""
        self._node = node
        self._subject = subject
        self._lock = threading.Lock()
        self._level, self._text = DiagnosticStatus.WARN, text
        self._hardware_id = ""
        self._values: Mapping[str, object] = {}
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def set(
        self, level: bytes, text: str, values: Mapping[str, object] | None = None, hardware_id: str | None = None
    ) -> None:
        """Set the state and publish it if it changed; `values` and `hardware_id` stay as they were when left out."""
        with self._lock:
            changed = (level, text) != (self._level, self._text)
            self._level, self._text = level, text
            self._values = self._values if values is None else dict(values)
            self._hardware_id = self._hardware_id if hardware_id is None else hardware_id
        if changed:
            self.publish()

    def publish(self) -> None:
        """Publish the state as it is."""
        with self._lock:
            message = diagnostic_array(
                self._node.get_clock().now().to_msg(),
                f"{self._node.get_fully_qualified_name().lstrip('/')}: {self._subject}",
                self._hardware_id,
                self._level,
                self._text,
                self._values,
            )
        self._publisher.publish(message)
