# SPDX-License-Identifier: Apache-2.0
"""PX4's topics: what its messages are called in each release, and how they are sent.

px4_msgs is built from the branch of the firmware. A message that changed since PX4 counts versions has a constant
MESSAGE_VERSION, and its topic ends in _vN from 1 on; so the package at hand determines the names of all topics.
"""

import importlib
import re
from dataclasses import dataclass
from typing import Any

from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from geoloc_models.errors import GeolocError

VERSIONS = ("auto", "1.15", "1.16", "1.17", "1.18")
NEW = "1.18"
"""The first version that takes AuxGlobalPosition; it stands for all later ones, too."""

_BUILD = (
    "build the branch of https://github.com/PX4/px4_msgs that is named as the firmware (release/1.15 to release/1.17; "
    "main for 1.18 and later) and source its workspace, as docs/px4.md shows"
)


def from_px4() -> QoSProfile:
    """For what PX4 sends, best effort and transient local: asking for less durability fits that and all else."""
    return QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT, durability=DurabilityPolicy.VOLATILE)


def to_px4(lifespan_s: float) -> QoSProfile:
    """For what PX4 receives: best effort and transient local, as its own are; what is too old is not kept."""
    return QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
        lifespan=Duration(seconds=lifespan_s),
    )


@dataclass(frozen=True)
class Px4Topic:
    """One topic of PX4 under its namespace, as px4_msgs has it."""

    name: str
    kind: Any  # the message class

    @property
    def unversioned(self) -> str:
        """The name without _vN."""
        return re.sub(r"_v\d+$", "", self.name)


@dataclass(frozen=True)
class Px4Topics:
    """What the bridge receives and sends. All names are full ones."""

    attitude: Px4Topic
    local_position: Px4Topic
    gps: Px4Topic
    aux: Px4Topic
    odometry: Px4Topic


def px4_topics(version: str, fmu: str) -> Px4Topics:
    """The topics of a PX4 `version` (one of VERSIONS) in the namespace `fmu`, such as /fmu.

    GeolocError where px4_msgs is missing or of another version, or `fmu` is no full name.
    """
    if not re.fullmatch(r"(/\w+)+", fmu):
        raise GeolocError(f"fmu_namespace is '{fmu}'; give a full name such as /fmu or /px4_1/fmu")
    try:
        package = importlib.import_module("px4_msgs.msg")
    except ImportError:
        raise GeolocError(f"px4_msgs is not here: {_BUILD}") from None
    is_new = hasattr(package, "AuxGlobalPosition")
    if version != "auto" and is_new != (version == NEW):
        found = f"{NEW} or later" if is_new else "1.17 or earlier"
        raise GeolocError(f"px4_msgs is that of PX4 {found}, px4_version is {version}: {_BUILD}")

    def topic(name: str, kind: Any) -> Px4Topic:
        number = getattr(kind, "MESSAGE_VERSION", 0)
        return Px4Topic(f"{fmu}/{name}_v{number}" if number else f"{fmu}/{name}", kind)

    return Px4Topics(
        attitude=topic("out/vehicle_attitude", package.VehicleAttitude),
        local_position=topic("out/vehicle_local_position", package.VehicleLocalPosition),
        gps=topic("out/vehicle_gps_position", package.SensorGps),
        aux=topic("in/aux_global_position", package.AuxGlobalPosition if is_new else package.VehicleGlobalPosition),
        odometry=topic("in/vehicle_visual_odometry", package.VehicleOdometry),
    )


def other_version(node: Node, topics: Px4Topics) -> str:
    """Which message PX4 has in another version than px4_msgs; empty if none is seen.

    Only where PX4 has none of ours: a translation node offers several versions of one message.
    """
    names = dict(node.get_topic_names_and_types())
    for topic, count, does in (
        (topics.attitude, node.count_publishers, "sends"),
        (topics.local_position, node.count_publishers, "sends"),
        (topics.aux, node.count_subscribers, "listens on"),
    ):
        kind = f"px4_msgs/msg/{topic.kind.__name__}"
        strangers = [found for found in names.get(topic.name, []) if found != kind]
        if count(topic.name) > 0 and not strangers:
            continue
        pattern = re.compile(re.escape(topic.unversioned) + r"(_v\d+)?")
        others = [name for name in names if pattern.fullmatch(name) and name != topic.name and count(name) > 0]
        if others or strangers:
            theirs = f"{others[0]}" if others else f"{topic.name} with {strangers[0]}"
            return f"PX4 {does} {theirs}, but px4_msgs here has {topic.name} with {kind}: {_BUILD}"
    return ""
