# SPDX-License-Identifier: Apache-2.0
"""Parameters that carry their description and range, so that `ros2 param describe` explains each."""

from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import ParameterException
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

    `either_type` lets it change its type, as between one file and a list of files. GeolocError where the value
    that the node was started with does not fit.
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
    try:
        node.declare_parameter(name, default, descriptor)
    except ParameterException as error:
        # rclpy's text names the parameter, the value and the limit, but not the remedy.
        raise GeolocError(f"{error.args[0]}; {_remedy(default)}") from error


def _remedy(default: Any) -> str:
    """What a value of the parameter's type looks like."""
    if isinstance(default, bool):
        return "give true or false"
    if isinstance(default, float):
        return "give a number within the limits and with a decimal point, such as 1.0"
    if isinstance(default, int):
        return "give a whole number within the limits"
    return "give text" if isinstance(default, str) else f"give {len(default)} numbers with decimal points"


def value(node: Node, name: str) -> Any:
    """The parameter's value as a Python type; arrays as lists."""
    found = node.get_parameter(name).value
    return list(found) if hasattr(found, "tolist") else found


def choice(node: Node, name: str, choices: tuple[str, ...]) -> str:
    """A string parameter that must be one of `choices`, else GeolocError."""
    found = str(value(node, name))
    if found not in choices:
        raise GeolocError(f"parameter {name} is '{found}'; it must be one of {', '.join(choices)}")
    return found
