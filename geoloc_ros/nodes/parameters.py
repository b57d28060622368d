# SPDX-License-Identifier: Apache-2.0
"""Parameters that carry their description and range, so that `ros2 param describe` explains each."""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from geoloc_models.errors import GeolocError


def declare(
    node: Node,
    name: str,
    default: Any,
    description: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    either_type: bool = False,
) -> None:
    """Declare one parameter. `low` and `high` (both or neither) bound a number, `choices` a string.

    `either_type` lets it change its type, as between one file and a list of files.
    """
    descriptor = ParameterDescriptor(description=description, dynamic_typing=either_type)
    if choices:
        descriptor.additional_constraints = f"one of {', '.join(choices)}"
    if low is not None and high is not None:
        if isinstance(default, int):
            descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=0)]
        else:
            bounds = FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
            descriptor.floating_point_range = [bounds]
    node.declare_parameter(name, default, descriptor)


def value(node: Node, name: str) -> Any:
    """The parameter's value as a Python type; arrays as lists."""
    found = node.get_parameter(name).value
    return list(found) if hasattr(found, "tolist") else found


def choice(node: Node, name: str, choices: tuple[str, ...]) -> str:
    """A string parameter that must be one of `choices`, else GeolocError."""
    found = value(node, name)
    if found not in choices:
        raise GeolocError(f"parameter {name} is '{found}'; it must be one of {', '.join(choices)}")
    return str(found)
