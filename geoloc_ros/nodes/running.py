# SPDX-License-Identifier: Apache-2.0
"""Running a node to its end."""

import sys
from collections.abc import Callable
from typing import TypeVar

import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node

from geoloc_models.errors import GeolocError

AnyNode = TypeVar("AnyNode", bound=Node)


def create_or_report(name: str, make: Callable[[], AnyNode]) -> AnyNode | None:
    """A new node; None, with one line on stderr and ROS shut down, where its parameters do not allow it."""
    try:
        return make()
    except GeolocError as error:
        print(f"{name}: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return None


def run_node(name: str, make: Callable[[], AnyNode]) -> int:
    """Make a node that has `close()`, spin it until it is interrupted, close it; 2 if its parameters do not fit."""
    rclpy.init()
    try:
        node = create_or_report(name, make)
    except KeyboardInterrupt:
        # There is nothing to close yet.
        rclpy.try_shutdown()
        return 0
    if node is None:
        return 2
    try:
        spin_until_interrupted(node)
    finally:
        node.close()
        node.destroy_node()
        rclpy.try_shutdown()
    return 0


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
        # After Ctrl-C it only means that ROS has shut down.
        if rclpy.ok():
            node.get_logger().error(f"refused: {error}")
    return bool(rclpy.ok())
