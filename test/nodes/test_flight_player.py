# SPDX-License-Identifier: Apache-2.0
"""The player: what goes in as a flight folder comes out as messages, exactly and in order, and can be located."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from geoloc_ros.msg import LocalizerStatus
from harness import FRAMES, Spinner, error_m, parameters, until
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, NavSatFix, Range
from std_msgs.msg import Float64

from geoloc_models.errors import GeolocError
from geoloc_ros.core.bags.bag_writer import write_bag
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rotations import rotation_enu_from_optical
from geoloc_ros.core.recording.flight_folder import Flight
from geoloc_ros.core.recording.frame import Truth, noisy_prior
from geoloc_ros.messages.reading import quaternion_from_imu, rgb_from_image
from geoloc_ros.messages.sensors import time_from_seconds
from geoloc_ros.messages.stamps import seconds_from_time
from geoloc_ros.nodes.flight_player_node import FlightPlayerNode
from geoloc_ros.nodes.frame_inputs import best_effort
from geoloc_ros.nodes.localizer_node import LocalizerNode
from geoloc_ros.nodes.map_server_node import MapServerNode


class Listener(Node):
    """Keeps all that a player says, in the order in which it came."""

    def __init__(self, namespace: str, image_type: Any = Image, altitude_type: Any = Range) -> None:
        super().__init__("listener", namespace=namespace)
        self.heard: dict[str, list[Any]] = {}
        for topic, kind in (
            ("image", image_type), ("camera_info", CameraInfo), ("imu", Imu), ("altitude", altitude_type),
            ("truth", NavSatFix), ("/clock", Clock), ("localizer/fix", NavSatFix),
            ("localizer/status", LocalizerStatus),
        ):  # fmt: skip
            self.heard[topic] = []
            self.create_subscription(kind, topic, self.heard[topic].append, best_effort(100))


def player(spinner: Spinner, folder: Path, namespace: str, **values: Any) -> FlightPlayerNode:
    """A player ten times faster than real time."""
    values = {"flight": str(folder), "altitude_type": "range", "rate": 10.0, **values}
    node = FlightPlayerNode(namespace=namespace, parameter_overrides=parameters(**values))
    spinner.add(node)
    return node


def test_messages_are_the_flight(spinner: Spinner, folder: Path) -> None:
    listener: Listener = spinner.add(Listener("/played"))
    player(spinner, folder, "/played", set_prior=False).play()
    flight, heard = Flight.open(folder), listener.heard
    until(lambda: len(heard["image"]) == FRAMES, 5.0, "all images")
    for index, image in enumerate(heard["image"]):
        frame = flight[index]
        assert seconds_from_time(image.header.stamp) == frame.stamp_s
        np.testing.assert_array_equal(rgb_from_image(image), frame.image)
        imu, altitude, truth = (heard[topic][index] for topic in ("imu", "altitude", "truth"))
        assert {imu.header.stamp == s.header.stamp for s in (image, altitude, truth)} == {True}
        rotation = rotation_enu_from_optical(quaternion_from_imu(imu))
        np.testing.assert_allclose(rotation, frame.rotation_enu_from_optical, atol=1e-12)
        assert altitude.range == pytest.approx(frame.height_m, abs=1e-4)
        assert (truth.latitude, truth.longitude) == (frame.truth.lat_deg, frame.truth.lon_deg)
    clock = [seconds_from_time(message.clock) for message in heard["/clock"]]
    assert clock == sorted(clock)
    assert clock[-1] == pytest.approx(flight.stamp_s(FRAMES - 1), abs=0.2)


def test_compressed_pictures_are_the_files(spinner: Spinner, folder: Path) -> None:
    listener: Listener = spinner.add(Listener("/files", CompressedImage))
    player(spinner, folder, "/files", set_prior=False, image_transport="compressed").play()
    flight = Flight.open(folder)
    until(lambda: len(listener.heard["image"]) == FRAMES, 5.0, "all images")
    for index, image in enumerate(listener.heard["image"]):
        assert bytes(image.data) == flight[index].encoded


def test_a_bag_is_played_as_its_flight(spinner: Spinner, folder: Path, tmp_path: Path) -> None:
    """The same messages whether the recording is a folder or a bag, from any part of it."""
    flight = Flight.open(folder)
    write_bag(tmp_path / "bag", flight, "sqlite3", "message")
    listener: Listener = spinner.add(Listener("/bag", CompressedImage))
    values = {"image_transport": "compressed", "topics": "image=/camera/image/compressed", "start_s": 1.0}
    player(spinner, tmp_path / "bag", "/bag", set_prior=False, **values).play()
    heard = listener.heard
    until(lambda: len(heard["image"]) == FRAMES - 2, 5.0, "all images but the first two")
    for index, image in enumerate(heard["image"], start=2):
        frame = flight[index]
        assert seconds_from_time(image.header.stamp) == frame.stamp_s
        assert bytes(image.data) == frame.encoded
        imu, truth = (heard[topic][index - 2] for topic in ("imu", "truth"))
        rotation = rotation_enu_from_optical(quaternion_from_imu(imu))
        np.testing.assert_allclose(rotation, frame.rotation_enu_from_optical, atol=1e-12)
        assert (truth.latitude, truth.longitude) == (frame.truth.lat_deg, frame.truth.lon_deg)


def test_a_bag_without_truth_gives_no_prior(spinner: Spinner, folder: Path, tmp_path: Path) -> None:
    frames = (replace(frame, truth=None) for frame in Flight.open(folder))
    write_bag(tmp_path / "bag", frames)
    spinner.add(Listener("/blind"))
    with pytest.raises(GeolocError, match=r"no truth to make a prior of; .*set_prior:=false"):
        player(spinner, tmp_path / "bag", "/blind").play()


def test_part_of_a_flight(spinner: Spinner, folder: Path) -> None:
    listener: Listener = spinner.add(Listener("/part"))
    player(spinner, folder, "/part", set_prior=False, start_s=2.0, duration_s=1.0).play()
    until(lambda: len(listener.heard["truth"]) == 3, 5.0, "all truths")
    stamps = [seconds_from_time(m.header.stamp) for m in listener.heard["truth"]]
    first = Flight.open(folder).stamp_s(0)
    assert [round(stamp - first, 3) for stamp in stamps] == [2.0, 2.5, 3.0]


def test_damaged_frame_is_passed_over(spinner: Spinner, folder: Path) -> None:
    flight = Flight.open(folder)
    (folder / "frames" / f"{flight.stamp_s(3):.6f}.jpg").write_bytes(b"no image")
    listener: Listener = spinner.add(Listener("/damaged"))
    player(spinner, folder, "/damaged", set_prior=False).play()
    until(lambda: len(listener.heard["image"]) == FRAMES - 1, 5.0, "the other images")


def test_nobody_listens(spinner: Spinner, folder: Path) -> None:
    with pytest.raises(GeolocError, match="nobody listens"):
        player(spinner, folder, "/alone", wait_s=0.3).play()


def test_no_localizer_to_take_the_prior(spinner: Spinner, folder: Path) -> None:
    spinner.add(Listener("/deaf"))
    with pytest.raises(GeolocError, match=r"no prior set within .* does not answer"):
        player(spinner, folder, "/deaf", wait_s=0.5).play()


@pytest.mark.parametrize(("flight", "message"), [("", "no flight is set"), ("/nowhere", "neither a flight folder")])
def test_no_flight(flight: str, message: str) -> None:
    with pytest.raises(GeolocError, match=message):
        FlightPlayerNode(parameter_overrides=parameters(flight=flight))


@pytest.mark.parametrize(
    ("form", "types"),
    [
        ({"altitude_type": "range", "image_transport": "raw"}, (Image, Range)),
        ({"altitude_type": "float64", "image_transport": "compressed"}, (CompressedImage, Float64)),
    ],
)
def test_flight_is_located_in_the_graph(
    spinner: Spinner, folder: Path, form: dict[str, str], types: tuple[Any, Any]
) -> None:
    """Player, map server and localizer on simulated time: a prior 15 m off, and a fix for every frame."""
    listener: Listener = spinner.add(Listener("/live", *types))
    map_path = str(Flight.open(folder).map_path)
    spinner.add(MapServerNode(namespace="/live", parameter_overrides=parameters(map=map_path)))
    localizer = LocalizerNode(namespace="/live", parameter_overrides=parameters(use_sim_time=True, threads=2, **form))
    localizer.trigger_configure()
    localizer.trigger_activate()
    spinner.add(localizer)
    node = player(spinner, folder, "/live", answer_s=20.0, prior_noise_m=15.0, **form)
    playing = threading.Thread(target=node.play)
    playing.start()
    playing.join(120.0)
    assert not playing.is_alive()
    heard, flight = listener.heard, Flight.open(folder)
    last = time_from_seconds(flight.stamp_s(FRAMES - 1))
    until(lambda: heard["localizer/status"] and heard["localizer/status"][-1].header.stamp == last, 20.0)
    valid = [fix for fix in heard["localizer/fix"] if fix.status.status >= 0]
    assert len(valid) == FRAMES, "on a map of the same day one frame is decisive"
    truth = {flight.stamp_s(i): flight.truth(i) for i in range(FRAMES)}
    for fix in valid:
        assert error_m(fix, truth[seconds_from_time(fix.header.stamp)]) < 3.0


def test_prior_is_as_far_off_as_asked(folder: Path) -> None:
    """The prior's error is what the parameter says, in the direction of the seed."""
    truth: Truth = Flight.open(folder).truth(0)
    priors = [noisy_prior(truth, 30.0, seed) for seed in (0, 0, 1)]
    assert priors[0] == priors[1] != priors[2]
    for lat_deg, lon_deg, radius_m in priors:
        off_m = np.hypot(*LocalEnu(truth.lat_deg, truth.lon_deg).to_enu(lat_deg, lon_deg))
        assert off_m == pytest.approx(30.0, abs=1e-6)
        assert radius_m == 60.0


def test_png_flight_is_played(spinner: Spinner, folder: Path) -> None:
    """Images that are no JPEG are sent on under their own format."""
    flight = Flight.open(folder)
    name = folder / "frames" / f"{flight.stamp_s(0):.6f}.jpg"
    _, data = cv2.imencode(".png", cv2.cvtColor(flight[0].image, cv2.COLOR_RGB2BGR))
    name.write_bytes(data.tobytes())
    listener: Listener = spinner.add(Listener("/png", CompressedImage))
    player(spinner, folder, "/png", set_prior=False, image_transport="compressed", duration_s=0.6).play()
    until(lambda: listener.heard["image"], 5.0, "an image")
    assert "png" in listener.heard["image"][0].format
