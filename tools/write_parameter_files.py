# SPDX-License-Identifier: Apache-2.0
"""Write config/NODE.yaml from what the nodes declare, so that files, code and `ros2 param describe` agree.

Usage (after `source tools/env.sh`): python tools/write_parameter_files.py [FOLDER]
"""

import importlib
import math
import sys
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rclpy
from rasterio.transform import from_origin
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.node import Node

from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.recording.flight_folder import write_flight
from geoloc_ros.core.recording.frame import Frame, Truth

NODES = {
    "localizer": "LocalizerNode",
    "map_server": "MapServerNode",
    "flight_player": "FlightPlayerNode",
    "camera_sim": "CameraSimNode",
    "mavlink_bridge": "MavlinkBridgeNode",
    # The node itself needs px4_msgs, which is built elsewhere.
    "px4_bridge": "declare_px4_parameters",
}
# What a node cannot start without: the launch file or the command line gives it, so the file leaves it empty.
GIVEN = {"flight_player": "flight", "camera_sim": "map", "map_server": "map"}
RCLPY_OWN = ("use_sim_time", "start_type_description_service")
WIDTH = 104


def value_text(value: Any) -> str:
    """A parameter's value as YAML that keeps its type."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, float):
        return ".nan" if math.isnan(value) else repr(value)
    if isinstance(value, int):
        return str(value)
    return f"[{', '.join(value_text(item) for item in value)}]"


def comment(descriptor: ParameterDescriptor, indent: str) -> list[str]:
    """Description, choices and range as comment lines."""
    text = descriptor.description
    if descriptor.additional_constraints:
        text += f"; {descriptor.additional_constraints}"
    for bounds in (*descriptor.floating_point_range, *descriptor.integer_range):
        text += f" ({bounds.from_value:.12g} to {bounds.to_value:.12g})"
    return textwrap.wrap(text, WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def file_text(name: str, node: Node) -> str:
    """The parameter file of one node."""
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        f"# Parameters of {name} with their defaults, in any namespace.",
        "/**:",
        "  ros__parameters:",
    ]
    group = ""
    for key, parameter in node.get_parameters_by_prefix("").items():
        if key in RCLPY_OWN:
            continue
        *groups, leaf = key.split(".")
        if groups and groups[0] != group:
            group = groups[0]
            lines.append(f"    {group}:")
        indent = "      " if groups else "    "
        lines += [
            *comment(node.describe_parameter(key), indent),
            f"{indent}{leaf}: {value_text('' if key == GIVEN.get(name) else parameter.value)}",
        ]
    return "\n".join(lines) + "\n"


def write_scene(folder: Path) -> tuple[Path, Path]:
    """A grey raster and a flight of one frame, for the nodes that do not start without; (map, flight)."""
    raster, flight = folder / "map.tif", folder / "flight"
    profile = {"driver": "GTiff", "width": 800, "height": 800, "count": 3, "dtype": "uint8", "crs": "EPSG:32635"}
    with rasterio.open(raster, "w", transform=from_origin(500_000, 6_500_000, 1.0, 1.0), **profile) as target:
        target.write(np.full((3, 800, 800), 128, np.uint8))
    camera = CameraModel(8, 8, np.array([[8.0, 0.0, 3.5], [0.0, 8.0, 3.5], [0.0, 0.0, 1.0]]))
    frame = Frame(
        image=np.zeros((8, 8, 3), np.uint8),
        stamp_s=0.0,
        rotation_enu_from_optical=nadir_rotation(0.0),
        height_m=100.0,
        camera=camera,
        truth=Truth(58.6, 27.0, 100.0),
    )
    write_flight(flight, camera, [frame])
    return raster, flight


def main(folder: Path) -> None:
    """Start each node once and write down what it declares."""
    with tempfile.TemporaryDirectory() as scratch:
        raster, flight = write_scene(Path(scratch))
        rclpy.init(args=["--ros-args", "-p", f"map:={raster}", "-p", f"flight:={flight}"])
        for name, maker in NODES.items():
            make = getattr(importlib.import_module(f"geoloc_ros.nodes.{name}_node"), maker)
            if isinstance(make, type):
                node = make()
            else:
                node = Node(name)
                make(node)
            (folder / f"{name}.yaml").write_text(file_text(name, node), encoding="utf-8")
            getattr(node, "close", lambda: None)()
            node.destroy_node()
        rclpy.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "config")
