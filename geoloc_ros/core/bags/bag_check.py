# SPDX-License-Identifier: Apache-2.0
"""Whether a bag is fit for localization: what is in it, how regularly, by which clocks, and what is missing."""

import array
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geoloc_models.errors import GeolocError
from geoloc_ros.core.bags.bag import Bag, unset_fault
from geoloc_ros.core.bags.bag_files import Topic
from geoloc_ros.core.bags.bag_series import Lag, unset
from geoloc_ros.core.bags.bag_storage import BagStorage
from geoloc_ros.core.bags.bag_topics import ROLES, Choice, choose_topics
from geoloc_ros.messages.stamps import header_stamp_ns, px4_stamp_ns

GAP_S = 1.0
"""A pause of a topic that is worth a word: longer than this, and than GAP_PERIODS of its usual ones."""
GAP_PERIODS = 5.0
DRIFT_S = 0.1
"""Two clocks that move apart by more than this over a recording do not fit together at one of its ends."""

_PX4 = "px4_msgs/"
_FEW = 0.95
"""Images without attitude, height or truth are worth a word when fewer than this share have it."""


@dataclass(frozen=True)
class TopicReport:
    """One topic, as it was recorded. Times are s; lag is from stamp to recording, None for messages without stamps."""

    name: str
    msgtype: str
    count: int
    rate_hz: float | None
    longest_gap_s: float | None
    longest_gap_at_s: float | None
    """After the bag's first message."""
    gaps: int
    stamps_back: int = 0
    """How often a stamp is older than the one before."""
    furthest_back_s: float = 0.0
    unstamped: bool = False
    unset: int = 0
    """How many messages have the stamp 0 among others that are stamped."""
    lag_s: float | None = None
    lag_spread_s: float | None = None
    drift_s: float | None = None
    """How much the lag grew from the first to the last message, by a straight line."""


@dataclass(frozen=True)
class Fault:
    """Something wrong, with its remedy. needed: without it nothing can be localized."""

    needed: bool
    text: str


@dataclass
class BagReport:
    """All that was found."""

    path: Path
    size_bytes: int
    duration_s: float
    topics: list[TopicReport]
    roles: dict[str, Choice]
    images: dict[str, int] = field(default_factory=dict)
    """How many images there are, and how many have an attitude, a height and a truth of their moment."""
    faults: list[Fault] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether `evaluate` can do something with it."""
        return not any(fault.needed for fault in self.faults)

    def as_json(self) -> dict[str, Any]:
        """The same in plain types."""
        return {
            "bag": str(self.path),
            "size_bytes": self.size_bytes,
            "duration_s": self.duration_s,
            "usable": self.usable,
            "topics": [asdict(topic) for topic in self.topics],
            "roles": {
                role: {"topic": choice.topic.name if choice.topic else None, "why": choice.why}
                for role, choice in self.roles.items()
            },
            "images": self.images,
            "faults": [asdict(fault) for fault in self.faults],
        }


def check_bag(
    path: Path, asked: Mapping[str, str], advance: Callable[[int, int], None] = lambda done, total: None
) -> BagReport:
    """Read all of a bag; `asked` and `advance` as for `Bag`. GeolocError only where it cannot be read at all."""
    storage = BagStorage(path)
    times = _read_times(storage, advance)
    begin_ns = min((int(recorded[0]) for _, recorded in times.values() if len(recorded)), default=0)
    end_ns = max((int(recorded[-1]) for _, recorded in times.values() if len(recorded)), default=0)
    report = BagReport(
        path=path,
        size_bytes=storage.size_bytes,
        duration_s=(end_ns - begin_ns) * 1e-9,
        topics=[_topic_report(topic, *times[topic], begin_ns) for topic in storage.topics],
        roles=choose_topics(storage, asked),
    )
    if storage.ends_early:
        report.faults.append(Fault(False, storage.ends_early))
    _find_missing(report)
    _find_time_faults(report)
    if report.usable:
        _look_at_images(report, asked)
    return report


def _read_times(storage: BagStorage, advance: Callable[[int, int], None]) -> dict[Topic, tuple[np.ndarray, np.ndarray]]:
    """Stamps and times of recording of every topic, (n,) int64 ns; no stamps for messages that have none."""
    total = sum(topic.count for topic in storage.topics)
    times = {topic: (array.array("q"), array.array("q")) for topic in storage.topics}
    stamped = {topic for topic in storage.topics if _is_stamped(topic)}
    for number, (topic, recorded_ns, raw) in enumerate(storage.messages(storage.topics)):
        stamps, recorded = times[topic]
        recorded.append(recorded_ns)
        if topic in stamped:
            stamps.append(px4_stamp_ns(raw) if topic.msgtype.startswith(_PX4) else header_stamp_ns(raw))
        if number % 256 == 0:
            advance(number, total)
    advance(total, total)
    return {
        topic: (np.array(stamps, np.int64), np.array(recorded, np.int64)) for topic, (stamps, recorded) in times.items()
    }


def _is_stamped(topic: Topic) -> bool:
    """Whether a type begins with a header, or with PX4's time; by its definition, or because it is well known."""
    if topic.msgtype.startswith(_PX4):
        return True
    form, text = topic.definition
    if form == "msg":
        own = text.split("\n===")[0]
        fields = [line for line in own.splitlines() if re.match(r"\s*[\w/]+(\[.*\])?(<=\d+)?\s+\w+\s*(#.*)?$", line)]
        return bool(fields) and fields[0].split()[:2] in (["std_msgs/Header", "header"], ["Header", "header"])
    return topic.msgtype.startswith("sensor_msgs/") or topic.msgtype == "nav_msgs/msg/Odometry"


def _topic_report(topic: Topic, stamps_ns: np.ndarray, recorded_ns: np.ndarray, begin_ns: int) -> TopicReport:
    # A stamp that is there tells when the sender sent; the recorder may have written in bursts.
    stamped, unstamped = bool(stamps_ns.any()), len(stamps_ns) > 0 and not stamps_ns.any()
    dropped = unset(stamps_ns) if stamped else np.zeros(len(recorded_ns), bool)
    if dropped.any():
        stamps_ns, recorded_ns = stamps_ns[~dropped], recorded_ns[~dropped]
    times_ns = np.sort(stamps_ns if stamped else recorded_ns)
    steps_s = np.diff(times_ns) * 1e-9
    usual_s = float(np.median(steps_s)) if len(steps_s) else 0.0
    span_s = float(times_ns[-1] - times_ns[0]) * 1e-9 if len(times_ns) else 0.0
    found: dict[str, Any] = {}
    if stamped:
        back_s = -np.diff(stamps_ns) * 1e-9
        lag = Lag.of(stamps_ns, recorded_ns)
        found = {
            "stamps_back": int(np.count_nonzero(back_s > 0)),
            "furthest_back_s": float(max(back_s.max(initial=0.0), 0.0)),
            "lag_s": lag.median_s,
            "lag_spread_s": lag.spread_s,
            "drift_s": _drift_s(stamps_ns, recorded_ns),
        }
    longest = int(steps_s.argmax()) if len(steps_s) else None
    offset_ns = round((found.get("lag_s") or 0.0) * 1e9)
    return TopicReport(
        name=topic.name,
        msgtype=topic.msgtype,
        count=topic.count,
        rate_hz=(len(times_ns) - 1) / span_s if span_s > 0 else None,
        longest_gap_s=float(steps_s[longest]) if longest is not None else None,
        longest_gap_at_s=float(times_ns[longest] + offset_ns - begin_ns) * 1e-9 if longest is not None else None,
        gaps=int(np.count_nonzero(steps_s > max(GAP_S, GAP_PERIODS * usual_s))),
        unstamped=unstamped,
        unset=int(np.count_nonzero(dropped)),
        **found,
    )


def _drift_s(stamps_ns: np.ndarray, recorded_ns: np.ndarray) -> float | None:
    """Growth of the lag over the recording, by the least squares line; None for too few messages."""
    if len(stamps_ns) < 10 or recorded_ns[-1] == recorded_ns[0]:
        return None
    time_s = (recorded_ns - recorded_ns[0]) * 1e-9
    lag_s = (recorded_ns - stamps_ns - (recorded_ns[0] - stamps_ns[0])) * 1e-9
    return float(np.polyfit(time_s, lag_s, 1)[0] * (time_s[-1] - time_s[0]))


def _find_missing(report: BagReport) -> None:
    for choice in report.roles.values():
        if choice.topic is None:
            report.faults.append(Fault(choice.needed, choice.why))


def _find_time_faults(report: BagReport) -> None:
    """Gaps, stamps that go back, and topics of different clocks, among the topics that are used."""
    by_name = {topic.name: topic for topic in report.topics}
    used = {role: by_name[choice.topic.name] for role, choice in report.roles.items() if choice.topic}
    for topic in used.values():
        report.faults += [Fault(False, text) for text in _own_faults(topic)]
    image = used.get("image")
    if image is None or image.lag_s is None or image.lag_spread_s is None:
        return
    for topic in used.values():
        if topic is image or topic.lag_s is None or topic.lag_spread_s is None:
            continue
        both = f"{topic.name} and {image.name}"
        if Lag(topic.lag_s, topic.lag_spread_s).other_clock(Lag(image.lag_s, image.lag_spread_s)):
            text = (
                f"{both} are stamped by two clocks, {topic.lag_s - image.lag_s:.3f} s apart; `geoloc evaluate` brings "
                "them together by their times of recording, better is one clock (PTP, chrony, PX4's UXRCE_DDS_SYNCT)"
            )
            report.faults.append(Fault(False, text))
        if abs(apart_s := (topic.drift_s or 0.0) - (image.drift_s or 0.0)) > DRIFT_S:
            text = (
                f"the clocks of {both} move apart by {apart_s:.3f} s over the recording; synchronize them "
                "(PTP, chrony), or evaluate a shorter part"
            )
            report.faults.append(Fault(False, text))


def _own_faults(topic: TopicReport) -> list[str]:
    faults = []
    if topic.unstamped:
        faults.append(f"{topic.name} has no stamps (all are zero): its times of recording count; set header.stamp")
    if topic.unset:
        faults.append(unset_fault(topic.name, topic.unset, topic.count))
    if topic.stamps_back:
        faults.append(
            f"stamps of {topic.name} go back {topic.stamps_back} times, by {topic.furthest_back_s:.3f} s at most; "
            "record one flight a bag, with a clock that is not set meanwhile"
        )
    if topic.gaps:
        faults.append(
            f"{topic.name} pauses {topic.gaps} times for more than {GAP_S:g} s, the longest is "
            f"{topic.longest_gap_s:.1f} s at {topic.longest_gap_at_s:.1f} s; record to a faster disk, or compressed"
        )
    return faults


def _look_at_images(report: BagReport, asked: Mapping[str, str]) -> None:
    """What the images have of their own moment, and whether camera_info is theirs."""
    try:
        bag = Bag(report.path, dict(asked))
    except GeolocError as error:
        report.faults.append(Fault(True, str(error)))
        return
    report.images = bag.completeness()
    if undecodable := bag.undecodable():
        report.faults.append(Fault(True, undecodable))
    total = report.images["images"]
    for role, what in (("imu", "attitude"), ("altitude", "height"), ("truth", "truth")):
        count, topic = report.images[what], report.roles[role].topic
        if topic is not None and count < _FEW * total:
            report.faults.append(
                Fault(
                    role == "altitude" and count == 0,
                    f"only {count} of {total} images have {ROLES[role].what} of their moment; record "
                    f"{topic.name} from before the first image until after the last, without gaps",
                )
            )
