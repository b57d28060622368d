# SPDX-License-Identifier: Apache-2.0
"""Which topic of a bag is the image, which the camera, the attitude, the height, the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from geoloc_models.errors import GeolocError
from geoloc_ros.core.bags.bag_files import Topic
from geoloc_ros.core.bags.bag_storage import BagStorage
from geoloc_ros.messages.reading import has_orientation


@dataclass(frozen=True)
class Role:
    """What a topic is for. `types` and `names`: in order of preference; `loose` types need such a name."""

    types: tuple[str, ...]
    names: tuple[str, ...]
    what: str
    remedy: str
    loose: tuple[str, ...] = ()
    needed: bool = True


ROLES = {
    "image": Role(
        ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"),
        ("image", "image_raw", "image_rect"),
        "images",
        "record the camera's image or image/compressed",
    ),
    "camera_info": Role(
        ("sensor_msgs/msg/CameraInfo",),
        ("camera_info",),
        "the camera's calibration",
        "calibrate the camera and record its camera_info",
    ),
    "imu": Role(
        ("sensor_msgs/msg/Imu", "px4_msgs/msg/VehicleAttitude"),
        ("imu/data", "imu", "vehicle_attitude"),
        "attitude",
        "record an Imu with orientation (MAVROS imu/data) or PX4's vehicle_attitude; without one the camera counts "
        "as looking straight down with north up",
        needed=False,
    ),
    "altitude": Role(
        ("std_msgs/msg/Float64", "sensor_msgs/msg/Range", "px4_msgs/msg/VehicleLocalPosition"),
        ("altitude", "rel_alt", "height", "agl", "range", "vehicle_local_position"),
        "height above ground",
        "record MAVROS's rel_alt, a rangefinder's Range or PX4's vehicle_local_position",
        loose=("std_msgs/msg/Float64",),
    ),
    "truth": Role(
        ("sensor_msgs/msg/NavSatFix",),
        ("truth", "ground_truth"),
        "true positions",
        "record the vehicle's GNSS as NavSatFix",
        needed=False,
    ),
}

_OWN_OUTPUT = ("heatmap", "localizer/fix")
"""What the localizer itself publishes is never its input."""


@dataclass(frozen=True)
class Choice:
    """What became of a role: a topic, or the reason why there is none."""

    topic: Topic | None
    why: str
    needed: bool = False
    """Without a topic: whether nothing can be done before this is settled."""


def parse_topics(topics: Sequence[str]) -> dict[str, str]:
    """{role: topic} of "role=topic" texts; GeolocError for what is no such text."""
    chosen: dict[str, str] = {}
    for text in topics:
        role, _, name = text.partition("=")
        if role not in ROLES or not name:
            raise GeolocError(f"'{text}' names no topic; write ROLE=NAME with ROLE one of {', '.join(ROLES)}")
        chosen[role] = name
    return chosen


def choose_topics(storage: BagStorage, asked: Mapping[str, str]) -> dict[str, Choice]:
    """The topic of every role; GeolocError for one that was asked for and is not there."""
    chosen: dict[str, Choice] = {}
    for name, role in ROLES.items():
        found = [topic for topic in storage.topics if topic.msgtype in role.types]
        if name in asked:
            chosen[name] = _asked(name, asked[name], found)
            continue
        found = [topic for topic in found if not any(own in topic.name for own in _OWN_OUTPUT)]
        fit = [topic for topic in found if topic.msgtype not in role.loose or _rank(topic, role)[0] < 2]
        if name == "camera_info":
            fit = _of_same_camera(fit, chosen["image"].topic)
        if name == "imu" and len(fit) > 1:
            fit = [topic for topic in fit if _gives_attitude(storage, topic)] or fit
        chosen[name] = _best(name, role, fit, found)
    return chosen


def needed_topics(choices: Mapping[str, Choice]) -> dict[str, Topic]:
    """{role: topic}; GeolocError where one that is needed is missing or ambiguous."""
    for choice in choices.values():
        if choice.needed:
            raise GeolocError(choice.why)
    return {name: choice.topic for name, choice in choices.items() if choice.topic is not None}


def _asked(name: str, wanted: str, found: Sequence[Topic]) -> Choice:
    for topic in found:
        if topic.name == wanted:
            return Choice(topic, "as asked")
    raise GeolocError(
        f"the bag has no {name} topic {wanted}; it has {', '.join(topic.name for topic in found) or 'none'}"
    )


def _of_same_camera(found: list[Topic], image: Topic | None) -> list[Topic]:
    """Only the camera_info that lies beside the images, where one does."""
    if image is None:
        return found
    above = image.name.split("/")
    beside = {"/".join([*above[:depth], "camera_info"]) for depth in range(len(above) - 2, len(above))}
    return [topic for topic in found if topic.name in beside] or found


def _gives_attitude(storage: BagStorage, topic: Topic) -> bool:
    """Whether a topic's first message has an orientation at all: raw inertial data have none."""
    _, _, raw = next(iter(storage.messages([topic])))
    return has_orientation(storage.decode(topic, raw))


def _rank(topic: Topic, role: Role) -> tuple[int, int]:
    """How well a name fits: ends like a usual one, contains it, or neither; then by preference."""
    lower = topic.name.lower()
    for fit, fits in enumerate((lambda name: lower.endswith("/" + name), lambda name: name in lower)):
        for place, name in enumerate(role.names):
            if fits(name):
                return fit, place
    return 2, 0


def _best(name: str, role: Role, fit: list[Topic], of_type: list[Topic]) -> Choice:
    """The topic whose name is nearest to a usual one. fit: those of `of_type` that could do."""
    names = {topic.name for topic in fit}
    # An image that was recorded both ways is one image.
    fit = [topic for topic in fit if topic.name.removesuffix("/compressed") not in names - {topic.name}]
    if not fit:
        lack = f"the bag has no topic for {name} ({role.what}): none of type {' or '.join(role.types)}"
        if of_type:
            lack += f" with a name that tells, only {', '.join(topic.name for topic in of_type)}"
        return Choice(None, f"{lack}; {role.remedy}", role.needed)
    fit.sort(key=lambda topic: _rank(topic, role))
    best = [topic for topic in fit if _rank(topic, role) == _rank(fit[0], role)]
    if len(best) > 1:
        several = ", ".join(topic.name for topic in best)
        return Choice(None, f"the bag has several topics for {name}: {several}; use --topic {name}=NAME", True)
    others = ", ".join(topic.name for topic in of_type if topic != best[0])
    return Choice(best[0], f"rather than {others}" if others else f"the only {_short(best[0])}")


def _short(topic: Topic) -> str:
    return topic.msgtype.split("/")[-1]
