# SPDX-License-Identifier: Apache-2.0
"""What is missing for a simulation, found on machines made up of empty folders and small programs."""

from pathlib import Path

import pytest

from geoloc_ros.core.simulation.sitl_setup import (
    agent_command,
    gazebo_environment,
    missing,
    px4_environment,
    server_config,
)

ALL = ("gazebo", "px4", "agent", "ros_gz_bridge", "ros_gz_image", "map_server", "localizer", "px4_bridge", "mission")


class Machine:
    """A PATH, ROS packages and a PX4 tree."""

    def __init__(self, root: Path) -> None:
        self.bin, self.px4, self.prefix = root / "bin", root / "PX4-Autopilot", root / "ros"
        self.bin.mkdir()
        self.environment = {
            "PATH": str(self.bin),
            "AMENT_PREFIX_PATH": f"/nowhere:{self.prefix}",
            "ROS_DISTRO": "kilted",
        }

    def program(self, name: str, prints: str = "") -> None:
        (self.bin / name).write_text(f"#!/bin/sh\n/bin/echo '{prints}'\n")
        (self.bin / name).chmod(0o755)

    def file(self, path: str, text: str = "") -> Path:
        target = self.px4 / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return target

    def package(self, name: str) -> None:
        index = self.prefix / "share" / "ament_index" / "resource_index" / "packages"
        index.mkdir(parents=True, exist_ok=True)
        (index / name).touch()

    def missing(self, *parts: str) -> list[str]:
        return missing(parts, self.px4, self.environment)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_bare_machine_lacks_all_and_is_told_how_to_get_it(machine: Machine) -> None:
    found = machine.missing(*ALL)
    gazebo = "sudo apt install ros-kilted-ros-gz"
    remedies = (gazebo, "git clone --recursive", "snap install", gazebo, gazebo, "PX4/px4_msgs.git")
    assert len(found) == len(remedies)
    for sentence, remedy in zip(found, remedies, strict=True):
        assert remedy in sentence


def test_humble_has_harmonic_under_another_name(machine: Machine) -> None:
    machine.environment["ROS_DISTRO"] = "humble"
    assert all("ros-humble-ros-gzharmonic" in sentence for sentence in machine.missing("gazebo", "ros_gz_image"))


def test_what_is_switched_off_is_not_asked_for(machine: Machine) -> None:
    assert machine.missing("localizer", "map_server") == []
    assert [sentence.split(":")[0] for sentence in machine.missing("px4", "localizer")] == ["PX4"]


def test_complete_machine_lacks_nothing(machine: Machine) -> None:
    machine.program("gz", "8.9.0")
    machine.program("MicroXRCEAgent")
    for path in ("Makefile", "build/px4_sitl_default/bin/px4", "Tools/simulation/gz/models/x500/model.sdf"):
        machine.file(path)
    for name in ("ros_gz_bridge", "ros_gz_image", "px4_msgs"):
        machine.package(name)
    assert machine.missing(*ALL) == []


@pytest.mark.parametrize(("prints", "is_fine"), [("7.8.0", False), ("", False), ("9.1.0\n8.9.0", True)])
def test_gazebo_must_be_harmonic_or_newer(machine: Machine, prints: str, is_fine: bool) -> None:
    machine.program("gz", prints)
    assert (machine.missing("gazebo") == []) == is_fine


def test_px4_that_is_not_built(machine: Machine) -> None:
    machine.file("Makefile")
    (sentence,) = machine.missing("px4")
    assert "make px4_sitl" in sentence


def test_agent_as_a_snap(machine: Machine) -> None:
    assert agent_command(machine.environment) == "MicroXRCEAgent"
    machine.program("micro-xrce-dds-agent")
    assert agent_command(machine.environment) == "micro-xrce-dds-agent"
    assert machine.missing("agent") == []


def test_systems_are_those_of_this_px4_where_it_names_them(machine: Machine, tmp_path: Path) -> None:
    ours = tmp_path / "server.config"
    assert server_config(machine.px4, ours) == ours
    own = machine.file("src/modules/simulation/gz_bridge/server.config")
    assert server_config(machine.px4, ours) == own


def test_gazebo_finds_models_and_plugins(machine: Machine, tmp_path: Path) -> None:
    """As a shell would that sources PX4's gz_env.sh, with our models before PX4's."""
    machine.file(
        "build/px4_sitl_default/rootfs/gz_env.sh",
        "#!/usr/bin/env bash\nexport PX4_GZ_MODELS=/px4/models\nexport PX4_GZ_PLUGINS=/px4/plugins\n"
        "export GZ_SIM_RESOURCE_PATH=$GZ_SIM_RESOURCE_PATH:$PX4_GZ_MODELS\n"
        'export GZ_SIM_SYSTEM_PLUGIN_PATH="${GZ_SIM_SYSTEM_PLUGIN_PATH}:$PX4_GZ_PLUGINS"\n',
    )
    environment = {"GZ_SIM_RESOURCE_PATH": "/mine", "GZ_SIM_SYSTEM_PLUGIN_PATH": "/my/plugins"}
    found = gazebo_environment(tmp_path / "models", tmp_path / "server.config", machine.px4, environment)
    paths = found["GZ_SIM_RESOURCE_PATH"].split(":")
    assert paths == [str(tmp_path / "models"), str(machine.px4 / "Tools/simulation/gz/models"), "/mine", "/px4/models"]
    assert found["GZ_SIM_SYSTEM_PLUGIN_PATH"] == "/my/plugins:/px4/plugins"
    assert found["GZ_SIM_SERVER_CONFIG_PATH"] == str(tmp_path / "server.config")


def test_px4_keeps_simulated_time_and_fuses_our_fixes() -> None:
    found = px4_environment("hill", "x500_geoloc", "8899")
    assert found["PX4_PARAM_UXRCE_DDS_SYNCT"] == "0"
    assert found["PX4_PARAM_EKF2_AGP_CTRL"] == "1"
    assert (found["PX4_GZ_WORLD"], found["PX4_GZ_MODEL_NAME"]) == ("hill", "x500_geoloc")
    assert (found["PX4_GZ_STANDALONE"], found["PX4_UXRCE_DDS_PORT"]) == ("1", "8899")
