# SPDX-License-Identifier: Apache-2.0
"""Stand-in for `launch_ros.parameter_descriptions`."""

from typing import Any

import yaml
from launch import LaunchContext


class ParameterValue:
    """A parameter's value of a stated type."""

    def __init__(self, value: Any, *, value_type: type) -> None:
        self._value, self._type = value, value_type

    def evaluate(self, context: LaunchContext) -> Any:
        text = context.text(self._value)
        value = text if self._type is str else yaml.safe_load(text)
        if self._type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, self._type):
            raise RuntimeError(f"'{text}' is no {self._type.__name__}")
        return value
