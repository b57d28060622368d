# SPDX-License-Identifier: Apache-2.0
"""Stand-in for `launch.launch_description_sources`."""

import runpy
from typing import Any

from launch import LaunchContext, LaunchDescription


class PythonLaunchDescriptionSource:
    """A launch file in Python."""

    def __init__(self, launch_file_path: Any) -> None:
        self._path = launch_file_path

    def get_launch_description(self, context: LaunchContext) -> LaunchDescription:
        """Load the file and call its function, anew for each launch."""
        description = runpy.run_path(context.text(self._path))["generate_launch_description"]()
        assert isinstance(description, LaunchDescription)
        return description
