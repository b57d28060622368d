# SPDX-License-Identifier: Apache-2.0
"""The loop around PX4's SIH or ArduPilot's simulator, without Gazebo and GPU:
`ros2 launch geoloc_ros sitl.launch.py view:=map_date1.tif map:=map_date2.tif`.

docs/sitl.md tells the way from a clone to a flown mission.
"""

import shlex

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("geoloc_ros")
FORWARDED = ("map", "gallery", "namespace", "localizer_params", "log_level")


def text(name: str) -> ParameterValue:
    """An argument that stays text, whatever it looks like."""
    return ParameterValue(LaunchConfiguration(name), value_type=str)


def node(executable: str, values: dict) -> Node:
    """One of our nodes; `values` win over its parameter file."""
    return Node(
        package="geoloc_ros",
        executable=executable,
        name=executable,
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        parameters=[LaunchConfiguration(f"{executable}_params"), values],
        arguments=["--ros-args", "--log-level", LaunchConfiguration("log_level")],
    )


def autopilot(context: LaunchContext) -> list:
    """The simulator, where its command is given."""
    command = shlex.split(LaunchConfiguration("autopilot_cmd").perform(context))
    return [ExecuteProcess(cmd=command, name="autopilot", output="screen")] if command else []


def generate_launch_description() -> LaunchDescription:
    """map_server, localizer, mavlink_bridge, camera_sim, and the autopilot if wanted."""
    arguments = [
        DeclareLaunchArgument("view", description="raster that the simulated camera sees"),
        DeclareLaunchArgument(
            "map", description="map to search; of another date or source than view, or else accuracy means nothing"
        ),
        DeclareLaunchArgument(
            "autopilot_cmd",
            default_value="",
            description="command that starts the simulator, such as 'px4 -d -i 0'; empty: it is started elsewhere",
        ),
        DeclareLaunchArgument(
            "connection",
            default_value="udpin:0.0.0.0:14540",
            description="where the autopilot talks to the bridge; the default is PX4's, ArduPilot: tcp:127.0.0.1:5762",
        ),
        DeclareLaunchArgument("rate_hz", default_value="10.0", description="frames a second at most"),
        DeclareLaunchArgument("gallery", default_value="auto", description="as for localize.launch.py"),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of all nodes"),
        *(
            DeclareLaunchArgument(
                f"{name}_params",
                default_value=PathJoinSubstitution([SHARE, "config", f"{name}.yaml"]),
                description=f"parameter file of {name}",
            )
            for name in ("localizer", "mavlink_bridge", "camera_sim")
        ),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
    ]
    rate_hz = ParameterValue(LaunchConfiguration("rate_hz"), value_type=float)
    forwarded = {name: LaunchConfiguration(name) for name in FORWARDED}
    forwarded["autopilot"] = "none"  # its bridge does not ask for the truth
    source = PythonLaunchDescriptionSource(PathJoinSubstitution([SHARE, "launch", "localize.launch.py"]))
    return LaunchDescription(
        [
            *arguments,
            IncludeLaunchDescription(source, launch_arguments=forwarded.items()),
            node("mavlink_bridge", {"connection": text("connection"), "truth": True}),
            node("camera_sim", {"map": text("view"), "source": "vehicle", "rate_hz": rate_hz}),
            OpaqueFunction(function=autopilot),
        ]
    )
