# SPDX-License-Identifier: Apache-2.0
"""Stand-in for `launch.substitutions`."""

import os
import shutil
from typing import Any

from launch import LaunchContext, Substitution


class LaunchConfiguration(Substitution):
    """The value of a launch argument."""

    def __init__(self, variable_name: str) -> None:
        self._name = variable_name

    def perform(self, context: LaunchContext) -> str:
        if self._name not in context.launch_configurations:
            raise RuntimeError(f"launch configuration '{self._name}' does not exist")
        return context.launch_configurations[self._name]


class EnvironmentVariable(Substitution):
    """The value of a variable, or the default."""

    def __init__(self, name: str, *, default_value: Any = None) -> None:
        self._name, self._default = name, default_value

    def perform(self, context: LaunchContext) -> str:
        if self._name in context.environment:
            return context.environment[self._name]
        if self._default is None:
            raise RuntimeError(f"environment variable '{self._name}' does not exist")
        return context.text(self._default)


class PathJoinSubstitution(Substitution):
    """Parts of a path, joined."""

    def __init__(self, substitutions: list[Any]) -> None:
        self._parts = substitutions

    def perform(self, context: LaunchContext) -> str:
        return os.path.join(*(context.text(part) for part in self._parts))


class FindExecutable(Substitution):
    """A program on the PATH."""

    def __init__(self, *, name: str) -> None:
        self._name = name

    def perform(self, context: LaunchContext) -> str:
        found = shutil.which(self._name, path=context.environment["PATH"])
        if found is None:
            raise RuntimeError(f"executable '{self._name}' not found on the PATH")
        return found
