# SPDX-License-Identifier: Apache-2.0
"""What a simulation with Gazebo and PX4 needs from the machine: what is missing, and the environment of each program.

Light on imports, for it has to run where most is missing. Facts of PX4 1.15 to 1.18 and Gazebo Harmonic and newer;
docs/gazebo.md says how to get them.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

HARMONIC = 8
"""Gazebo Sim's major version in Harmonic."""

VEHICLE_PARAMETERS = {
    "UXRCE_DDS_SYNCT": "0",  # PX4's stamps stay in simulated time, which is /clock
    "EKF2_AGP_CTRL": "1",  # up to 1.17: horizontal positions of the auxiliary source are fused
    "EKF2_AGP0_CTRL": "1",  # the same from 1.18 on
    "EKF2_AGP0_ID": "1",
    "SYS_FAILURE_EN": "1",  # the mission may take GNSS away
}
"""PX4's parameters for flights that go on with our fixes; a PX4 that does not know one says so and goes on."""

_AGENT = "MicroXRCEAgent"
_PYTHON_MODULES = ("torch", "safetensors", "rasterio", "pyproj", "cv2", "rich")


def missing(parts: Collection[str], px4: Path, environment: Mapping[str, str]) -> list[str]:
    """One sentence for each thing that is not there and how to get it.

    parts: names of the parts to start, as the arguments of sim.launch.py. px4: PX4's source tree.
    """
    checks: dict[str, Callable[[], str]] = {
        "gazebo": partial(_gazebo, environment),
        "px4": partial(_px4, px4),
        "agent": partial(_agent, environment),
        "ros_gz_bridge": partial(_ros_package, "ros_gz_bridge", environment),
        "ros_gz_image": partial(_ros_package, "ros_gz_image", environment),
        "px4_bridge": partial(_px4_msgs, environment),
        "localizer": _python_modules,
        "map_server": _python_modules,
    }
    found = [checks[part]() for part in checks if part in parts]
    return list(dict.fromkeys(sentence for sentence in found if sentence))


def server_config(px4: Path, fallback: Path) -> Path:
    """The systems that Gazebo loads: what this PX4 says (1.16 and newer), else the fallback."""
    own = px4 / "src" / "modules" / "simulation" / "gz_bridge" / "server.config"
    return own if own.is_file() else fallback


def gazebo_environment(models: Path, config: Path, px4: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Variables for `gz sim`: our models before PX4's, PX4's plugins, and the systems to load."""
    variables = _exports(px4 / "build" / "px4_sitl_default" / "rootfs" / "gz_env.sh", environment)
    paths = [str(models), str(px4 / "Tools" / "simulation" / "gz" / "models")]
    paths += [path for path in variables.get("GZ_SIM_RESOURCE_PATH", "").split(":") if path and path not in paths]
    variables["GZ_SIM_RESOURCE_PATH"] = ":".join(paths)
    variables["GZ_SIM_SERVER_CONFIG_PATH"] = str(config)
    return variables


def px4_environment(world: str, vehicle: str, agent_port: str) -> dict[str, str]:
    """Variables for PX4's SITL that make it fly a vehicle of a running Gazebo world."""
    return {
        "PX4_GZ_STANDALONE": "1",
        "PX4_GZ_WORLD": world,
        "PX4_GZ_MODEL_NAME": vehicle,
        "PX4_SYS_AUTOSTART": "4001",  # x500
        "PX4_UXRCE_DDS_PORT": agent_port,
        **{f"PX4_PARAM_{name}": value for name, value in VEHICLE_PARAMETERS.items()},
    }


def px4_binary(px4: Path) -> Path:
    """PX4's executable for SITL."""
    return px4 / "build" / "px4_sitl_default" / "bin" / "px4"


def agent_command(environment: Mapping[str, str]) -> str:
    """The agent's name: built from source, or as Ubuntu's snap."""
    snap = "micro-xrce-dds-agent"
    return _AGENT if _which(_AGENT, environment) or not _which(snap, environment) else snap


def _exports(script: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a shell script of plain `export NAME=value` lines sets; none if there is no such script."""
    found: dict[str, str] = {}
    if script.is_file():
        for name, value in re.findall(
            r"^\s*export\s+(\w+)=(.*?)\s*$", script.read_text(encoding="utf-8"), re.MULTILINE
        ):
            known = {**environment, **found}
            parts = re.split(r"\$\{?(\w+)\}?", value.strip("\"'"))
            parts[1::2] = [known.get(variable, "") for variable in parts[1::2]]
            found[name] = "".join(parts)
    return found


def _which(program: str, environment: Mapping[str, str]) -> str | None:
    return shutil.which(program, path=environment.get("PATH", os.defpath))


def _gazebo(environment: Mapping[str, str]) -> str:
    remedy = (
        "install gz-harmonic or newer (https://gazebosim.org/docs/latest/getstarted); with ROS: "
        f"sudo apt install {_ros_gz(environment)}"
    )
    program = _which("gz", environment)
    if program is None:
        return f"Gazebo: there is no gz; {remedy}"
    try:
        output = subprocess.run(
            [program, "sim", "--versions"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=dict(environment),
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"Gazebo: {program} does not answer ({error}); {remedy}"
    versions = [int(number) for number in re.findall(r"^\s*(\d+)\.\d+", output, re.MULTILINE)]
    if not versions or max(versions) < HARMONIC:
        return f"Gazebo: {program} is not Gazebo Sim {HARMONIC} or newer ({output.strip() or 'no version'}); {remedy}"
    return ""


def _px4(px4: Path) -> str:
    if not (px4 / "Makefile").is_file():
        return (
            f"PX4: {px4} is no PX4-Autopilot; git clone --recursive https://github.com/PX4/PX4-Autopilot.git, "
            "then name it with px4_dir:=FOLDER or PX4_DIR"
        )
    needed = (px4_binary(px4), px4 / "Tools" / "simulation" / "gz" / "models" / "x500" / "model.sdf")
    absent = [str(path) for path in needed if not path.is_file()]
    if absent:
        return (
            f"PX4: not built for SITL, {' and '.join(absent)} missing; in {px4}: "
            "git submodule update --init --recursive && make px4_sitl"
        )
    return ""


def _agent(environment: Mapping[str, str]) -> str:
    if _which(agent_command(environment), environment):
        return ""
    return (
        f"Micro XRCE-DDS agent: there is no {_AGENT}; sudo snap install micro-xrce-dds-agent --edge, or build "
        "https://github.com/eProsima/Micro-XRCE-DDS-Agent"
    )


def _is_ros_package(name: str, environment: Mapping[str, str]) -> bool:
    prefixes = [prefix for prefix in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    return any(
        (Path(prefix) / "share" / "ament_index" / "resource_index" / "packages" / name).exists() for prefix in prefixes
    )


def _ros_package(name: str, environment: Mapping[str, str]) -> str:
    if _is_ros_package(name, environment):
        return ""
    return f"{name}: no such ROS package; sudo apt install {_ros_gz(environment)}"


def _ros_gz(environment: Mapping[str, str]) -> str:
    """The Debian package of Gazebo and its bridges; Humble's own is for an older Gazebo."""
    distribution = environment.get("ROS_DISTRO", "jazzy")
    return f"ros-{distribution}-ros-gz" + ("harmonic" if distribution == "humble" else "")


def _px4_msgs(environment: Mapping[str, str]) -> str:
    if _is_ros_package("px4_msgs", environment):
        return ""
    return (
        "px4_msgs: no such ROS package; clone the branch of your PX4, such as release/1.16, of "
        "https://github.com/PX4/px4_msgs.git into the workspace, colcon build, source it"
    )


def _python_modules() -> str:
    absent = [name for name in _PYTHON_MODULES if importlib.util.find_spec(name) is None]
    if not absent:
        return ""
    return f"Python: no {', '.join(absent)}; activate the environment that README.md makes in this shell"
