# SPDX-License-Identifier: Apache-2.0
"""Play a flight folder or a bag through the live graph: `ros2 launch geoloc_ros replay.launch.py flight:=FOLDER`."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("geoloc_ros")
TOPICS = ("image", "camera_info", "imu", "altitude", "odom", "gnss", "truth")


def localizer(map_path: str) -> IncludeLaunchDescription:
    """The graph of localize.launch.py on the time of the recording."""
    forwarded = {name: LaunchConfiguration(name) for name in ("gallery", "namespace", "localizer_params", *TOPICS)}
    forwarded["map"] = map_path
    forwarded["use_sim_time"] = "true"
    source = PythonLaunchDescriptionSource(PathJoinSubstitution([SHARE, "launch", "localize.launch.py"]))
    return IncludeLaunchDescription(source, launch_arguments=forwarded.items())


def flight_player(recording: str) -> Node:
    """The player of a flight folder or a bag; it waits by itself until the localizer takes its prior."""
    return Node(
        package="geoloc_ros",
        executable="flight_player",
        name="flight_player",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        parameters=[
            LaunchConfiguration("flight_player_params"),
            {
                "flight": ParameterValue(recording, value_type=str),
                "topics": ParameterValue(LaunchConfiguration("bag_topics"), value_type=str),
                "rate": ParameterValue(LaunchConfiguration("rate"), value_type=float),
            },
        ],
        remappings=[(topic, LaunchConfiguration(topic)) for topic in TOPICS if topic not in ("odom", "gnss")],
    )


def play(context: LaunchContext) -> list:
    """Localizer, map server and the player of the one source that was named."""
    flight = LaunchConfiguration("flight").perform(context)
    bag = LaunchConfiguration("bag").perform(context)
    map_path = LaunchConfiguration("map").perform(context)
    if bool(flight) == bool(bag):
        raise RuntimeError("replay.launch.py plays one source; give flight:=FOLDER or bag:=BAG")
    if bag and not map_path:
        raise RuntimeError("a bag holds no map; give map:=FILE")
    return [localizer(map_path or f"{flight}/map.tif"), flight_player(flight or bag)]


def generate_launch_description() -> LaunchDescription:
    """Arguments; what they start depends on their values."""
    arguments = [
        DeclareLaunchArgument("flight", default_value="", description="flight folder to play"),
        DeclareLaunchArgument("bag", default_value="", description="bag to play instead, sqlite3 or MCAP"),
        DeclareLaunchArgument(
            "bag_topics",
            default_value="",
            description="topics of the bag where several would do: ROLE=NAME, separated by spaces; else found by type",
        ),
        DeclareLaunchArgument(
            "map", default_value="", description="map to search; empty: map.tif of the flight folder"
        ),
        DeclareLaunchArgument(
            "gallery",
            default_value="auto",
            description="gallery of the map; auto: MAP.gallery beside the map where there is one, else that of "
            "localizer_params; empty: none",
        ),
        DeclareLaunchArgument("rate", default_value="1.0", description="speed of the replay, 1.0 is real time"),
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
            DeclareLaunchArgument(topic, default_value=topic, description=f"name of {topic} in the graph")
            for topic in TOPICS
        ),
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=play)])
