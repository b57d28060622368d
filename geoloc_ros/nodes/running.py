# SPDX-License-Identifier: Apache-2.0
"""Running a node to its end."""

from __future__ import annotations

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node


def spin_until_interrupted(node: Node) -> None:
    """Spin until Ctrl-C or shutdown."""
    while _spin_until_refusal(node):
        pass


def _spin_until_refusal(node: Node) -> bool:
    """Spin; True if it can go on.

    rclpy lets a lifecycle request that the state does not allow escape from its callback, and a node that dies
    of a mistyped command would be of little use.
    """
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        return False
    except RuntimeError as error:
        node.get_logger().error(f"refused: {error}")
    return bool(rclpy.ok())
