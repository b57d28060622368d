# SPDX-License-Identifier: Apache-2.0
"""Start map_server, localizer and an autopilot's bridge: `ros2 launch geoloc_ros localize.launch.py map:=map.tif`."""

import os

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

CONFIG = PathJoinSubstitution([FindPackageShare("geoloc_ros"), "config"])

# Fast DDS 2 knows the first name only; with Fast DDS 3 (Kilted and later) it brings a deprecation warning per node.
_FAST_DDS_2 = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")
PROFILE_VARIABLE = "FASTRTPS_DEFAULT_PROFILES_FILE" if _FAST_DDS_2 else "FASTDDS_DEFAULT_PROFILES_FILE"

USE_SIM_TIME = {"use_sim_time": ParameterValue(LaunchConfiguration("use_sim_time"), value_type=bool)}
LOG_LEVEL = ["--log-level", LaunchConfiguration("log_level")]

TOPICS = {
    "image": "camera frames: sensor_msgs/Image, or CompressedImage with image_transport: compressed",
    "camera_info": "intrinsics and distortion of these frames: sensor_msgs/CameraInfo",
    "imu": "attitude, ENU from FLU: sensor_msgs/Imu",
    "altitude": "height above ground, m: std_msgs/Float64, or sensor_msgs/Range with altitude_type: range",
    "odom": "heading where there is no imu: nav_msgs/Odometry",
    "gnss": "seeds the search while it is valid: sensor_msgs/NavSatFix",
    "truth": "true position if known, drawn into the overlay only: sensor_msgs/NavSatFix",
}


def localizer(context: LaunchContext) -> list:
    """The localizer, with the gallery that lies beside the map unless another or none is named."""
    gallery = LaunchConfiguration("gallery").perform(context)
    is_named = gallery != "auto"
    if not is_named:
        gallery = f"{LaunchConfiguration('map').perform(context).rstrip('/')}.gallery"
    # Without one beside the map the parameter file decides.
    named = {"gallery": ParameterValue(gallery, value_type=str)} if is_named or os.path.isfile(gallery) else {}
    return [
        LifecycleNode(
            package="geoloc_ros",
            executable="localizer",
            name="localizer",
            namespace=LaunchConfiguration("namespace"),
            output="screen",
            parameters=[
                LaunchConfiguration("localizer_params"),
                {"autostart": ParameterValue(LaunchConfiguration("autostart"), value_type=bool)},
                named,
                USE_SIM_TIME,
            ],
            remappings=[(topic, LaunchConfiguration(topic)) for topic in TOPICS],
            arguments=["--ros-args", *LOG_LEVEL],
            condition=IfCondition(LaunchConfiguration("localizer")),
        )
    ]


def bridge(context: LaunchContext) -> list:
    """The node between the localizer and the autopilot that was named; it publishes imu, altitude and gnss."""
    autopilot = LaunchConfiguration("autopilot").perform(context)
    if autopilot == "none":
        return []
    connection = LaunchConfiguration("connection").perform(context)
    named = {"connection": ParameterValue(connection, value_type=str)} if connection else {}
    return [
        Node(
            package="geoloc_ros",
            executable=f"{autopilot}_bridge",
            name=f"{autopilot}_bridge",
            namespace=LaunchConfiguration("namespace"),
            output="screen",
            parameters=[LaunchConfiguration(f"{autopilot}_bridge_params"), named, USE_SIM_TIME],
            remappings=[(topic, LaunchConfiguration(topic)) for topic in ("imu", "altitude", "gnss", "truth")],
            arguments=["--ros-args", *LOG_LEVEL],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Two nodes, or three; every topic they subscribe to can be remapped by an argument of its name."""
    arguments = [
        DeclareLaunchArgument("map", description="map to search: GeoTIFF, COG, VRT, MBTiles or a folder of XYZ tiles"),
        DeclareLaunchArgument(
            "gallery",
            default_value="auto",
            description="gallery of the map, to search it without prior and when lost; auto: MAP.gallery beside the "
            "map where there is one, else that of localizer_params; empty: none",
        ),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of all nodes"),
        DeclareLaunchArgument(
            "autopilot",
            default_value="none",
            choices=["none", "px4", "mavlink"],
            description="bridge to start: px4 over DDS, mavlink for all others; it brings imu, altitude and gnss",
        ),
        DeclareLaunchArgument(
            "connection",
            default_value="",
            description="where mavlink_bridge finds the autopilot, such as udpin:0.0.0.0:14540, "
            "tcp:127.0.0.1:5762 or serial:/dev/ttyAMA0:921600; empty: as mavlink_bridge_params says",
        ),
        DeclareLaunchArgument("localizer", default_value="true", description="false: without the localizer itself"),
        DeclareLaunchArgument("map_server", default_value="true", description="false: another node serves get_map"),
        DeclareLaunchArgument(
            "use_sim_time", default_value="false", description="true: time comes from /clock (simulation, replay)"
        ),
        DeclareLaunchArgument(
            "autostart",
            default_value="true",
            description="true: localizer configures and activates itself; false: by lifecycle calls",
        ),
        DeclareLaunchArgument(
            "localizer_params",
            default_value=PathJoinSubstitution([CONFIG, "localizer.yaml"]),
            description="parameter file of localizer",
        ),
        DeclareLaunchArgument(
            "map_server_params",
            default_value=PathJoinSubstitution([CONFIG, "map_server.yaml"]),
            description="parameter file of map_server",
        ),
        DeclareLaunchArgument(
            "px4_bridge_params",
            default_value=PathJoinSubstitution([CONFIG, "px4_bridge.yaml"]),
            description="parameter file of px4_bridge",
        ),
        DeclareLaunchArgument(
            "mavlink_bridge_params",
            default_value=PathJoinSubstitution([CONFIG, "mavlink_bridge.yaml"]),
            description="parameter file of mavlink_bridge",
        ),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error or fatal"),
        DeclareLaunchArgument(
            "dds_profile",
            default_value=EnvironmentVariable(
                PROFILE_VARIABLE, default_value=PathJoinSubstitution([CONFIG, "fastdds.xml"])
            ),
            description="Fast DDS profile; the one shipped has shared memory for raw frames",
        ),
        *(DeclareLaunchArgument(topic, default_value=topic, description=text) for topic, text in TOPICS.items()),
    ]
    map_server = Node(
        package="geoloc_ros",
        executable="map_server",
        name="map_server",
        namespace=LaunchConfiguration("namespace"),
        output="screen",
        parameters=[
            LaunchConfiguration("map_server_params"),
            {"map": ParameterValue(LaunchConfiguration("map"), value_type=str)},
            USE_SIM_TIME,
        ],
        arguments=["--ros-args", *LOG_LEVEL],
        condition=IfCondition(LaunchConfiguration("map_server")),
    )
    return LaunchDescription(
        [
            *arguments,
            SetEnvironmentVariable(PROFILE_VARIABLE, LaunchConfiguration("dds_profile")),
            map_server,
            OpaqueFunction(function=localizer),
            OpaqueFunction(function=bridge),
        ]
    )
