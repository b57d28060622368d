# SPDX-License-Identifier: Apache-2.0
"""Stand-in for `launch.actions`: each action has `run(context)`, which returns further actions."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any

from launch import LaunchContext

_NUMBERS = itertools.count(1)


class Action:
    """Something to do, under a condition."""

    def __init__(self, condition: Any = None) -> None:
        self._condition = condition

    def visit(self, context: LaunchContext) -> None:
        """Run the action and all that it leads to."""
        if self._condition is None or self._condition.evaluate(context):
            for action in self.run(context) or ():
                assert isinstance(action, Action), f"{action!r} is no action"
                action.visit(context)

    def run(self, context: LaunchContext) -> "Iterable[Action] | None":
        raise AssertionError("each action has its own")


class DeclareLaunchArgument(Action):
    """An argument with its default, choices and description."""

    def __init__(
        self, name: str, *, default_value: Any = None, description: str, choices: list[str] | None = None
    ) -> None:
        super().__init__()
        self.name, self.default_value, self.description, self.choices = (name, default_value, description, choices)

    def run(self, context: LaunchContext) -> None:
        given = context.launch_configurations
        if self.name not in given:
            if self.default_value is None:
                raise RuntimeError(f"required launch argument '{self.name}' was not provided")
            given[self.name] = context.text(self.default_value)
        if self.choices is not None and given[self.name] not in self.choices:
            raise RuntimeError(f"argument '{self.name}' has the value '{given[self.name]}', not one of {self.choices}")


class SetEnvironmentVariable(Action):
    """A variable for all processes that start later."""

    def __init__(self, name: str, value: Any) -> None:
        super().__init__()
        self._name, self._value = name, value

    def run(self, context: LaunchContext) -> None:
        context.environment[self._name] = context.text(self._value)


class LogInfo(Action):
    """A line for the user."""

    def __init__(self, *, msg: Any) -> None:
        super().__init__()
        self._msg = msg

    def run(self, context: LaunchContext) -> None:
        print(f"[INFO] [launch.user]: {context.text(self._msg)}", flush=True)


class OpaqueFunction(Action):
    """A function of the context that returns actions."""

    def __init__(self, *, function: Callable[[LaunchContext], list[Action]]) -> None:
        super().__init__()
        self._function = function

    def run(self, context: LaunchContext) -> list[Action]:
        return self._function(context)


class IncludeLaunchDescription(Action):
    """Another launch file with values for its arguments, which hold from then on for all, as in `launch`."""

    def __init__(self, launch_description_source: Any, *, launch_arguments: Iterable[tuple[str, Any]] = ()) -> None:
        super().__init__()
        self._source, self._arguments = launch_description_source, list(launch_arguments)

    def run(self, context: LaunchContext) -> list[Action]:
        for name, value in self._arguments:
            context.launch_configurations[name] = context.text(value)
        return self._source.get_launch_description(context).entities


class Shutdown(Action):
    """The end of the launch."""

    def __init__(self, *, reason: str) -> None:
        super().__init__()
        self.reason = reason

    def run(self, context: LaunchContext) -> None:
        raise KeyboardInterrupt(self.reason)


class ExecuteProcess(Action):
    """A program, started at once; its output goes to the screen."""

    def __init__(
        self,
        *,
        cmd: list[Any],
        name: Any = None,
        cwd: Any = None,
        additional_env: dict[str, Any] | None = None,
        output: str,
        on_exit: Shutdown | None = None,
        sigterm_timeout: str = "5",
        sigkill_timeout: str = "5",
        condition: Any = None,
    ) -> None:
        super().__init__(condition)
        assert output == "screen"
        self._cmd, self._name, self._cwd = cmd, name, cwd
        self._environment, self._on_exit = additional_env or {}, on_exit
        self._patience_s = float(sigterm_timeout) + float(sigkill_timeout)

    def command(self, context: LaunchContext) -> list[str]:
        """All words of the command line."""
        return [context.text(word) for word in self._cmd]

    def run(self, context: LaunchContext) -> None:
        command = self.command(context)
        added = {name: context.text(value) for name, value in self._environment.items()}
        name = f"{self._name or os.path.basename(command[0])}-{next(_NUMBERS)}"
        process = subprocess.Popen(
            command,
            cwd=None if self._cwd is None else context.text(self._cwd),
            env={**context.environment, **added},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        process.name = name  # type: ignore[attr-defined]
        context.processes.append(process)
        context.ends_with[process] = self._on_exit
        context.quiet_kill_s[process] = self._patience_s
        print(f"[INFO] [{name}]: process started with pid [{process.pid}]: {command}", file=sys.stderr, flush=True)
