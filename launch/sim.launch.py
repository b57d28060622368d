# SPDX-License-Identifier: Apache-2.0
"""Fly PX4's x500 over a map in Gazebo: `ros2 launch geoloc_ros sim.launch.py world:=DIR map:=OTHER_MAP`.

The world is what `geoloc sim gazebo` wrote. docs/gazebo.md tells the way from a clone to a flown mission.
"""

import os
import shlex
from pathlib import Path

from ament_index_python.packages import get_package_prefix
from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    Shutdown,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import EnvironmentVariable, LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

SHARE = FindPackageShare("geoloc_ros")

PARTS = {
    "gazebo": "Gazebo itself",
    "px4": "PX4's SITL",
    "agent": "Micro XRCE-DDS agent, PX4's way into ROS",
    "ros_gz_bridge": "bridge of clock, camera_info and true position",
    "ros_gz_image": "bridge of the images",
    "map_server": "server of the map that the localizer searches",
    "localizer": "the localizer",
    "px4_bridge": "fixes to PX4, attitude, height and GNSS from it",
    "mission": "take off, fly a pattern, land, report: geoloc sim mission",
}

Started = tuple[str, object]  # the command line to show, the action to run


def process(name: str, command: list[str], environment: dict[str, str], directory: str | None = None) -> Started:
    """A program whose end is the end of the simulation."""
    shown = " ".join([*(f"{key}={shlex.quote(value)}" for key, value in environment.items()), shlex.join(command)])
    action = ExecuteProcess(
        cmd=command, name=name, cwd=directory, additional_env=environment, output="screen",
        on_exit=Shutdown(reason=f"{name} ended"),
    )  # fmt: skip
    return (f"cd {shlex.quote(directory)} && {shown}" if directory else shown), action


def node(package: str, executable: str, arguments: list[str], parameters: dict, remappings: dict) -> Started:
    """A node of another package."""
    settings = [f"-p {key}:={str(value).lower() if value is True else value}" for key, value in parameters.items()]
    settings += [f"-r {old}:={new}" for old, new in remappings.items()]
    shown = " ".join(["ros2 run", package, executable, *arguments, "--ros-args", *settings])
    action = Node(
        package=package, executable=executable, name=executable, arguments=arguments, parameters=[parameters],
        remappings=list(remappings.items()), output="screen",
    )  # fmt: skip
    return shown, action


def graph(forwarded: dict[str, str]) -> Started:
    """Our own nodes, by localize.launch.py."""
    shown = " ".join(["ros2 launch geoloc_ros localize.launch.py", *(f"{k}:={v}" for k, v in forwarded.items())])
    source = PythonLaunchDescriptionSource(PathJoinSubstitution([SHARE, "launch", "localize.launch.py"]))
    return shown, IncludeLaunchDescription(source, launch_arguments=forwarded.items())


def simulate(context: LaunchContext) -> list:
    """Check all first, then start, or with dry_run tell, each part that is not switched off."""
    from geoloc_ros.core.simulation import sitl_setup

    def argument(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    parts = [part for part in PARTS if argument(part) == "true"]
    dry_run = argument("dry_run") == "true"
    px4 = Path(argument("px4_dir")).expanduser()
    problems = sitl_setup.missing(parts, px4, os.environ)
    if argument("gnss_loss_s") and "mission" not in parts:
        problems.append("gnss_loss_s: it is the mission that takes GNSS away; give mission:=true too")
    world, note = None, ""
    try:
        world = opened_world(argument("world"))
        if "map_server" in parts:
            note = served_map_note(world, argument("map"), argument("same_map") == "true")
    except (ImportError, ValueError) as error:
        problems.append(str(error))
    if problems and not dry_run:
        listed = "\n".join(f"  {number}. {problem}" for number, problem in enumerate(problems, 1))
        raise RuntimeError(f"the simulation cannot start; {len(problems)} thing(s) to mend:\n{listed}")
    started = commands(argument, parts, px4, world) if world else []
    lines = [f"to mend: {problem}" for problem in problems] + ([f"note: {note}"] if note else [])
    if dry_run:
        return [LogInfo(msg="\n".join(["dry run, would start:", *(shown for shown, _ in started), *lines]))]
    return [*(LogInfo(msg=line) for line in lines), *(action for _, action in started)]


def opened_world(folder: str):
    """The world; ValueError says what is wrong with it."""
    from geoloc_ros.core.simulation.gazebo import World

    if not folder:
        raise ValueError("no world; make one with `geoloc sim gazebo MAP --out DIR` and give world:=DIR")
    return World.open(Path(folder).expanduser().resolve())


def served_map_note(world, served: str, same_map: bool) -> str:
    """What the user should know about the map to search; ValueError if it will not do in this world."""
    from geoloc_ros.core.simulation.gazebo_check import check_served_map

    if not served:
        raise ValueError("no map to search; give map:=FILE, another image of the world's ground")
    return check_served_map(world, Path(served).expanduser(), same_map)


def commands(argument, parts: list[str], px4: Path, world) -> list[Started]:
    """Each part with its command line, in the order of their start."""
    from geoloc_ros.core.simulation import sitl_setup
    from geoloc_ros.core.simulation.gazebo import VEHICLE

    started = []
    if "gazebo" in parts:
        config = sitl_setup.server_config(px4, world.server_config)
        environment = sitl_setup.gazebo_environment(world.models, config, px4, os.environ)
        options = ["-r", "-s", "--headless-rendering"] if argument("headless") == "true" else ["-r"]
        started.append(process("gazebo", ["gz", "sim", *options, str(world.flight_sdf)], environment))
    if "agent" in parts:
        port = argument("agent_port")
        started.append(process("agent", [sitl_setup.agent_command(os.environ), "udp4", "-p", port], {}))
    if "px4" in parts:
        environment = sitl_setup.px4_environment(world.name, VEHICLE, argument("agent_port"))
        command = [str(sitl_setup.px4_binary(px4)), "-d", "-i", "0"]
        started.append(process("px4", command, environment, str(px4)))
    if "ros_gz_bridge" in parts:
        config = {"config_file": str(world.bridge), "use_sim_time": True}
        started.append(node("ros_gz_bridge", "parameter_bridge", [], config, {}))
    if "ros_gz_image" in parts:
        renamed = {f"/geoloc/image{kind}": f"image{kind}" for kind in ("", "/compressed")}
        started.append(node("ros_gz_image", "image_bridge", ["/geoloc/image"], {"use_sim_time": True}, renamed))
    if {"map_server", "localizer", "px4_bridge"} & set(parts):
        forwarded = {name: argument(name) for name in ("map", "gallery", "localizer_params")}
        forwarded |= {part: str(part in parts).lower() for part in ("map_server", "localizer")}
        forwarded["autopilot"] = "px4" if "px4_bridge" in parts else "none"
        started.append(graph({**forwarded, "use_sim_time": "true"}))
    if "mission" in parts:
        geoloc = Path(get_package_prefix("geoloc_ros")) / "lib" / "geoloc_ros" / "geoloc"
        command = [str(geoloc), "sim", "mission", *shlex.split(argument("mission_args"))]
        command += ["--gnss-loss-s", argument("gnss_loss_s")] if argument("gnss_loss_s") else []
        started.append(process("mission", command, {}))
    return started


def generate_launch_description() -> LaunchDescription:
    """Arguments; what they start depends on their values."""
    arguments = [
        DeclareLaunchArgument("world", default_value="", description="folder that `geoloc sim gazebo` wrote; needed"),
        DeclareLaunchArgument(
            "map",
            default_value="",
            description="map to search, needed: not the image on the ground but one of another date or source",
        ),
        DeclareLaunchArgument(
            "same_map",
            default_value="false",
            choices=["true", "false"],
            description="true: serve the ground's own image after all; accuracy then means nothing",
        ),
        DeclareLaunchArgument(
            "dry_run",
            default_value="false",
            choices=["true", "false"],
            description="true: tell what would be started and what is missing, start nothing",
        ),
        DeclareLaunchArgument(
            "px4_dir",
            default_value=EnvironmentVariable("PX4_DIR", default_value="~/PX4-Autopilot"),
            description="PX4's source tree, built with `make px4_sitl`",
        ),
        DeclareLaunchArgument(
            "headless", default_value="false", choices=["true", "false"], description="true: no window"
        ),
        DeclareLaunchArgument("agent_port", default_value="8888", description="UDP port of the agent"),
        DeclareLaunchArgument(
            "gallery", default_value="auto", description="gallery of the map, as for localize.launch.py"
        ),
        DeclareLaunchArgument(
            "localizer_params",
            default_value=PathJoinSubstitution([SHARE, "config", "localizer.yaml"]),
            description="parameter file of localizer",
        ),
        DeclareLaunchArgument(
            "gnss_loss_s",
            default_value="",
            description="the mission takes GNSS away this long after its start, s; empty: never",
        ),
        DeclareLaunchArgument(
            "mission_args", default_value="", description="further arguments of `geoloc sim mission`"
        ),
        *(
            DeclareLaunchArgument(
                part,
                default_value="false" if part == "mission" else "true",
                choices=["true", "false"],
                description=f"{text}; false: not started",
            )
            for part, text in PARTS.items()
        ),
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=simulate)])
