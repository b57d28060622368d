# SPDX-License-Identifier: Apache-2.0
"""Whether ROS 2 is available to the commands that need it."""

import importlib

from geoloc_models.errors import GeolocError


def require_ros(command: str) -> None:
    """GeolocError if ROS 2 or the built messages are missing; commands call it before they do any work."""
    try:
        importlib.import_module("geoloc_ros.cli.shared.live_graph")
    except ImportError as error:
        raise GeolocError(
            f"geoloc {command} needs ROS 2 and this package built ({error}); source the environment that `make` or "
            "colcon built"
        ) from error
