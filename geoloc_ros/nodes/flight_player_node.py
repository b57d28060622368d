# SPDX-License-Identifier: Apache-2.0
"""The node flight_player: plays a flight folder or a bag as the topics of a camera drone, with /clock.

A bag needs no `ros2 bag play`: its topics are found by type, and each image goes out with the attitude and the height
of its own moment.
"""

import contextlib
import sys
import threading
import time
from pathlib import Path
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rclpy.node import Node

from geoloc_models.errors import GeolocError
from geoloc_ros.core.bags.bag import Bag, open_recording
from geoloc_ros.core.bags.bag_topics import ROLES
from geoloc_ros.core.geometry.rotations import DOWN_XYZW
from geoloc_ros.core.recording.frame import noisy_prior
from geoloc_ros.messages.sensors import time_from_seconds
from geoloc_ros.msg import LocalizerStatus
from geoloc_ros.nodes.frame_topics import FrameTopics
from geoloc_ros.nodes.parameters import declare, value
from geoloc_ros.nodes.prior_client import PriorClient
from geoloc_ros.nodes.running import create_or_report, spin_until_interrupted

CLOCK_HZ = 100.0
PAUSE_S = 0.5
"""Real time between the first subscribers and the first frame, and after the last frame."""
LAST_ANSWER_S = 3.0
"""How long the answer to the last frame is waited for, so that it is not counted as dropped."""

# name: (default, lowest, highest, what it is)
_NUMBERS = {
    "rate": (1.0, 0.01, 100.0, "speed of the replay; 1 is real time"),
    "start_s": (0.0, 0.0, 1e6, "where to start, s after the first frame"),
    "duration_s": (0.0, 0.0, 1e6, "how much to play, s of flight; 0: all"),
    "prior_noise_m": (30.0, 0.0, 1e5, "distance of the prior from the first frame's true place, m"),
    "prior_radius_m": (0.0, 0.0, 1e5, "radius of the prior, m; 0: twice prior_noise_m, at least 20"),
    "answer_s": (0.0, 0.0, 60.0, "hold each frame until the last is answered, but no longer than this, s; 0: do not"),
    "wait_s": (60.0, 0.0, 3600.0, "how long to wait for listeners and for the localizer, s"),
}


class FlightPlayerNode(Node):
    """Waits until someone listens, gives the localizer its prior, plays, ends."""

    def __init__(self, **options: Any) -> None:
        """`options` are those of rclpy's Node, such as parameter_overrides."""
        super().__init__("flight_player", **options)
        declare(self, "flight", "", "flight folder (flight.csv, camera.yaml, frames/) or bag (sqlite3 or MCAP)")
        text = "topics of a bag where several would do: ROLE=NAME, separated by spaces; ROLE is one of "
        declare(self, "topics", "", text + ", ".join(ROLES))
        text = (
            "mount of a bag's camera: quaternion x, y, z, w that turns its optical frame into the FLU body; "
            "whatever it is, imu goes out for the localizer's default mount"
        )
        declare(self, "camera_mount_xyzw", list(DOWN_XYZW), text)
        declare(self, "loop", False, "start over at the end")
        declare(self, "set_prior", True, "give the localizer a prior before the first frame")
        declare(self, "seed", 0, "of the prior's direction", 0, 2**31 - 1)
        for name, (default, low, high, text) in _NUMBERS.items():
            declare(self, name, default, text, low, high)
        self._topics = FrameTopics(self)
        folder = value(self, "flight")
        if not folder:
            raise GeolocError("no flight is set; start with -p flight:=FOLDER_OR_BAG")
        self._name = folder
        topics, mount = value(self, "topics").split(), value(self, "camera_mount_xyzw")
        if len(mount) != 4:
            raise GeolocError(f"camera_mount_xyzw has {len(mount)} values; it needs x, y, z, w")
        self._flight = open_recording(Path(folder), topics, mount=mount)
        for line in self._flight.described() if isinstance(self._flight, Bag) else ():
            self.get_logger().info(line)
        self._first, self._stop = self._chosen()
        self._ended = threading.Event()
        self._answered = threading.Condition()
        self._answered_stamp = Time()
        self._answers = 0
        self.create_subscription(LocalizerStatus, "localizer/status", self._on_status, 10)
        # After the subscription: DDS announces both in their order, so a localizer that answers this client has
        # discovered the subscription too, and the answer to the first frame is not lost.
        self._prior = PriorClient(self)

    def _on_status(self, message: LocalizerStatus) -> None:
        with self._answered:
            self._answered_stamp = message.header.stamp
            self._answers += 1
            self._answered.notify()

    def _chosen(self) -> tuple[int, int]:
        """First frame inside start_s and duration_s, and the one after the last."""
        start_s, duration_s = value(self, "start_s"), value(self, "duration_s")
        first_s = self._flight.stamp_s(0)
        offsets_s = [self._flight.stamp_s(index) - first_s for index in range(len(self._flight))]
        end_s = start_s + duration_s if duration_s else max(offsets_s)
        chosen = [index for index, offset_s in enumerate(offsets_s) if start_s <= offset_s <= end_s]
        if not chosen:
            raise GeolocError(f"no frame lies {start_s:g} s or more after the first; lower start_s")
        return chosen[0], chosen[-1] + 1

    def play(self) -> None:
        """Play to the end, beside the executor; GeolocError if nobody listens or the prior is refused."""
        while not self._ended.is_set():
            self._wait_for_listeners()
            if value(self, "set_prior"):
                self._set_prior()
            self._play_once()
            self._ended.wait(PAUSE_S)
            if not value(self, "loop"):
                return

    def stop(self) -> None:
        """End the play at the next frame."""
        self._ended.set()

    def _wait_for_listeners(self) -> None:
        start_s = self._flight.stamp_s(self._first)
        end = time.monotonic() + value(self, "wait_s")
        while not self._topics.has_subscribers and not self._ended.is_set():
            if time.monotonic() > end:
                raise GeolocError(
                    f"nobody listens to image, camera_info and altitude after {value(self, 'wait_s'):g} s; "
                    "start the localizer, or give both the same image_transport and altitude_type"
                )
            self._topics.publish_clock(start_s)
            self._ended.wait(0.05)
        # The clock of the other nodes has to arrive before anything is stamped with it.
        for _ in range(int(PAUSE_S / 0.05)):
            self._topics.publish_clock(start_s)
            self._ended.wait(0.05)

    def _set_prior(self) -> None:
        known = (self._flight.truth(index) for index in range(self._first, self._stop))
        truth = next((truth for truth in known if truth is not None), None)
        if truth is None:
            raise GeolocError(
                f"{self._name} has no truth to make a prior of; start with -p set_prior:=false and call the "
                "localizer's set_prior"
            )
        lat_deg, lon_deg, radius_m = noisy_prior(truth, value(self, "prior_noise_m"), value(self, "seed"))
        radius_m = value(self, "prior_radius_m") or radius_m
        self._prior.set(lat_deg, lon_deg, radius_m, value(self, "wait_s"), self._ended)

    def _play_once(self) -> None:
        rate, first_s = value(self, "rate"), self._flight.stamp_s(self._first)
        count = self._stop - self._first
        self.get_logger().info(f"playing {count} frames of {self._name} at {rate:g} x")
        self._answers = 0
        start = time.monotonic()
        # Reading takes its time, so it is done ahead of the frame's moment.
        for frame in self._flight.frames(self._first, self._stop):
            if frame.problem:
                self.get_logger().warning(frame.problem)
            while (reached_s := first_s + (time.monotonic() - start) * rate) < frame.stamp_s:
                self._topics.publish_clock(reached_s)
                if self._ended.wait(min(1.0 / CLOCK_HZ, (frame.stamp_s - reached_s) / rate)):
                    return
            self._topics.publish_clock(frame.stamp_s)
            self._topics.publish(frame)
            if value(self, "answer_s") > 0:
                self._wait_for_answer(frame.stamp_s, value(self, "answer_s"))
                # Time stood still while waiting, so that the next frames do not come in a burst.
                start = max(start, time.monotonic() - (frame.stamp_s - first_s) / rate)
        self._report_dropped(count, frame.stamp_s)

    def _report_dropped(self, count: int, last_s: float) -> None:
        """How many frames the localizer answered; nothing where none listens."""
        if self._answers:
            self._wait_for_answer(last_s, LAST_ANSWER_S)
            dropped = max(0, count - self._answers)
            self.get_logger().info(f"played {count} frames: {count - dropped} answered, {dropped} dropped")

    def _wait_for_answer(self, stamp_s: float, at_most_s: float) -> None:
        stamp = time_from_seconds(stamp_s)
        with self._answered:
            self._answered.wait_for(lambda: self._answered_stamp == stamp, at_most_s)


def main() -> int:
    """Play the flight and end; 2 if it cannot be played."""
    rclpy.init()
    node = create_or_report("flight_player", FlightPlayerNode)
    if node is None:
        return 2
    failures: list[GeolocError] = []

    def play() -> None:
        try:
            node.play()
        except GeolocError as error:
            failures.append(error)
        except RuntimeError:
            # Ctrl-C shuts ROS down under the player, which fails at its next publication.
            if rclpy.ok():
                raise
        finally:
            # Ctrl-C may shut ROS down between this call's look and its act.
            with contextlib.suppress(RuntimeError):
                rclpy.try_shutdown()

    player = threading.Thread(target=play, name="play")
    player.start()
    try:
        spin_until_interrupted(node)
    finally:
        node.stop()
        player.join()
        rclpy.try_shutdown()
    for failure in failures:
        print(f"flight_player: {failure}", file=sys.stderr)
    return 2 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
