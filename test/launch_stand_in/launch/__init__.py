# SPDX-License-Identifier: Apache-2.0
"""Stands in for ROS 2's `launch` in tests, where that is not installed: no registry has it.

Only what the launch files of this repository use, with the meaning it has there; anything else fails, as a missing
name or an unexpected keyword. It really starts the processes. Where `launch` is installed the tests take that.
"""

from collections.abc import Iterable
from typing import Any


class Substitution:
    """Text that is known only while launching."""

    def perform(self, context: "LaunchContext") -> str:
        raise AssertionError("each substitution has its own")


class LaunchContext:
    """Launch configurations, environment and processes of one run."""

    def __init__(self, configurations: dict[str, str], environment: dict[str, str]) -> None:
        self.launch_configurations = configurations
        self.environment = environment
        self.processes: list[Any] = []
        self.ends_with: dict[Any, Any] = {}  # process: the Shutdown that its end brings
        self.quiet_kill_s: dict[Any, float] = {}  # process: how long it may take to end

    def text(self, parts: Any) -> str:
        """A string, a substitution, or a list of both, as text."""
        if isinstance(parts, str):
            return parts
        if isinstance(parts, Substitution):
            return parts.perform(self)
        assert isinstance(parts, (list, tuple)), f"{parts!r} is neither text nor substitution"
        return "".join(self.text(part) for part in parts)


class LaunchDescription:
    """Actions, in the order in which they run."""

    def __init__(self, initial_entities: Iterable[Any] = ()) -> None:
        self.entities = list(initial_entities)
