# SPDX-License-Identifier: Apache-2.0
"""Record what a flight needs to be played again: `ros2 launch geoloc_ros record.launch.py out:=my_bag`."""

import re

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import FindExecutable, LaunchConfiguration

# argument: (default, what it is); names are relative to the namespace unless they start with "/"
TOPICS = {
    "image": ("image", "camera frames, raw or compressed"),
    "camera_info": ("camera_info", "intrinsics and distortion"),
    "imu": ("imu", "attitude"),
    "altitude": ("altitude", "height above ground"),
    "odom": ("odom", "odometry, where there is one"),
    "gnss": ("gnss", "the vehicle's own GNSS"),
    "truth": ("truth", "true position"),
}
# What geoloc says, and what the autopilots say and are told, in each message version.
ALWAYS = (
    r"localizer/(fix|odometry|pose|status)", r"(px4|mavlink)_bridge/.+", "/diagnostics", "/clock", "/tf", "/tf_static",
    r"/fmu/out/(vehicle_attitude|vehicle_local_position|vehicle_global_position|vehicle_gps_position|vehicle_status)"
    r"(_v\d+)?",
    r"/fmu/in/(aux_global_position|vehicle_visual_odometry)(_v\d+)?",
)  # fmt: skip


def record(context: LaunchContext) -> list:
    """`ros2 bag record` with one pattern, for how lists of topics are given has changed between distributions."""

    def argument(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    namespace = argument("namespace").strip("/")
    patterns = [re.escape(argument(topic)) for topic in TOPICS if argument(topic)]
    # image_transport publishes the compressed image beside the raw one.
    patterns += [f"{re.escape(argument('image'))}/compressed"] if argument("image") else []
    patterns += [*ALWAYS, *argument("more").split()]
    full = [pattern if pattern.startswith("/") else f"/{namespace}/{pattern}" for pattern in patterns]
    joined = "|".join(pattern.replace("//", "/") for pattern in full)
    command = [FindExecutable(name="ros2"), "bag", "record", "--storage", argument("storage")]
    command += ["--regex", f"^({joined})$"]
    if argument("out"):
        command += ["--output", argument("out")]
    if argument("compression") != "none":
        command += ["--compression-mode", argument("compression"), "--compression-format", "zstd"]
    if argument("use_sim_time") == "true":
        command += ["--use-sim-time"]
    # At the end the recorder writes the index and, with compression by file, packs the file.
    return [ExecuteProcess(cmd=command, name="record", output="screen", sigterm_timeout="120", sigkill_timeout="30")]


def generate_launch_description() -> LaunchDescription:
    """One process; Ctrl-C ends the recording and writes the bag's index."""
    arguments = [
        DeclareLaunchArgument("out", default_value="", description="folder of the bag; empty: named after the time"),
        DeclareLaunchArgument(
            "storage", default_value="mcap", choices=["mcap", "sqlite3"], description="format of the bag"
        ),
        DeclareLaunchArgument(
            "compression",
            default_value="none",
            choices=["none", "file", "message"],
            description="zstd: file packs each file once it is full, message packs while recording",
        ),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of the nodes"),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="false",
            choices=["true", "false"],
            description="true: messages are stamped with /clock (simulation, replay)",
        ),
        DeclareLaunchArgument(
            "more", default_value="", description="further topics, as regular expressions separated by spaces"
        ),
        *(
            DeclareLaunchArgument(topic, default_value=name, description=f"{text}; empty: not recorded")
            for topic, (name, text) in TOPICS.items()
        ),
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=record)])
