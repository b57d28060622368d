# SPDX-License-Identifier: Apache-2.0
"""Stand-in for `launch_ros.actions`."""

import tempfile
from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import get_package_prefix
from launch import LaunchContext
from launch.actions import ExecuteProcess

from launch_ros.parameter_descriptions import ParameterValue


class Node(ExecuteProcess):
    """A node's process: name, namespace, parameters and remappings as arguments of ROS."""

    def __init__(
        self,
        *,
        package: str,
        executable: str,
        name: str,
        namespace: Any = "",
        output: str,
        parameters: list[Any],
        remappings: list[tuple[str, Any]] = [],  # noqa: B006
        arguments: list[Any] = [],  # noqa: B006
        condition: Any = None,
    ) -> None:
        super().__init__(cmd=[], name=name, output=output, condition=condition)
        self._package, self._executable, self._node, self._namespace = package, executable, name, namespace
        self._parameters, self._remappings, self._arguments = parameters, remappings, arguments

    def command(self, context: LaunchContext) -> list[str]:
        words = [str(Path(get_package_prefix(self._package)) / "lib" / self._package / self._executable)]
        words += [context.text(word) for word in self._arguments]
        words += ["--ros-args", "-r", f"__node:={self._node}"]
        namespace = context.text(self._namespace)
        if namespace:
            words += ["-r", f"__ns:={namespace if namespace.startswith('/') else '/' + namespace}"]
        for parameters in self._parameters:
            words += ["--params-file", self._file(parameters, context)]
        for old, new in self._remappings:
            words += ["-r", f"{old}:={context.text(new)}"]
        return words

    def _file(self, parameters: Any, context: LaunchContext) -> str:
        """The named file, or one that holds the values."""
        if not isinstance(parameters, dict):
            path = context.text(parameters)
            if not Path(path).is_file():
                raise RuntimeError(f"parameter file {path} does not exist")
            return path
        values = {
            name: value.evaluate(context) if isinstance(value, ParameterValue) else value
            for name, value in parameters.items()
        }
        assert all(isinstance(value, (bool, int, float, str)) for value in values.values()), values
        with tempfile.NamedTemporaryFile("w", prefix="launch_params_", suffix=".yaml", delete=False) as file:
            yaml.safe_dump({"/**": {"ros__parameters": values}}, file)
        return file.name


class LifecycleNode(Node):
    """A node whose state is managed; it is started like any other."""
