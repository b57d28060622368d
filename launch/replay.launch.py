# SPDX-License-Identifier: Apache-2.0
"""Play a recorded flight through the live graph: `ros2 launch geoloc_ros replay.launch.py flight:=FOLDER`."""

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("geoloc_ros")
TOPICS = ("image", "camera_info", "imu", "altitude", "odom", "gnss", "truth")


def start_source(context: LaunchContext) -> list:
    """The player of the one source that was named."""
    flight = LaunchConfiguration("flight").perform(context)
    bag = LaunchConfiguration("bag").perform(context)
    if bool(flight) == bool(bag):
        raise RuntimeError("replay.launch.py plays one source; give flight:=FOLDER or bag:=BAG")
    if bag:
        rate = LaunchConfiguration("rate").perform(context)
        return [
            ExecuteProcess(
                cmd=["ros2", "bag", "play", bag, "--clock", "100", "--rate", rate], output="screen"
            )
        ]
    return [
        Node(
            package="geoloc_ros",
            executable="flight_player",
            name="flight_player",
            namespace=LaunchConfiguration("namespace"),
            output="screen",
            parameters=[
                LaunchConfiguration("flight_player_params"),
                {
                    "flight": ParameterValue(LaunchConfiguration("flight"), value_type=str),
                    "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
                },
            ],
            remappings=[
                (topic, LaunchConfiguration(topic)) for topic in TOPICS if topic not in ("odom", "gnss")
            ],
        )
    ]


def start_localizer(context: LaunchContext) -> list:
    """The graph of localize.launch.py, on the time of the recording; a flight folder brings its own map."""
    map_path = LaunchConfiguration("map").perform(context)
    flight = LaunchConfiguration("flight").perform(context)
    if not map_path and not flight:
        raise RuntimeError("a bag holds no map; give map:=FILE")
    forwarded = {name: LaunchConfiguration(name) for name in ("namespace", "localizer_params", *TOPICS)}
    forwarded["map"] = map_path or f"{flight}/map.tif"
    forwarded["use_sim_time"] = "true"
    source = PythonLaunchDescriptionSource(PathJoinSubstitution([SHARE, "launch", "localize.launch.py"]))
    return [IncludeLaunchDescription(source, launch_arguments=forwarded.items())]


def generate_launch_description() -> LaunchDescription:
    """Localizer and map server first, then the player, which waits for its subscribers."""
    arguments = [
        DeclareLaunchArgument("flight", default_value="", description="flight folder to play"),
        DeclareLaunchArgument("bag", default_value="", description="bag to play instead, sqlite3 or MCAP"),
        DeclareLaunchArgument(
            "map", default_value="", description="map to search; empty: map.tif of the flight folder"
        ),
        DeclareLaunchArgument(
            "rate", default_value="1.0", description="speed of the replay, 1.0 is real time"
        ),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of all nodes"),
        DeclareLaunchArgument(
            "localizer_params",
            default_value=PathJoinSubstitution([SHARE, "config", "localizer.yaml"]),
            description="parameter file of localizer",
        ),
        DeclareLaunchArgument(
            "flight_player_params",
            default_value=PathJoinSubstitution([SHARE, "config", "flight_player.yaml"]),
            description="parameter file of flight_player",
        ),
        *(
            DeclareLaunchArgument(topic, default_value=topic, description=f"name of {topic} in bag and graph")
            for topic in TOPICS
        ),
    ]
    return LaunchDescription(
        [*arguments, OpaqueFunction(function=start_localizer), OpaqueFunction(function=start_source)]
    )
