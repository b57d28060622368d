# SPDX-License-Identifier: Apache-2.0
"""The camera simulator in the graph: its pictures show the place that its truth says."""

from __future__ import annotations

import numpy as np
import pytest
from harness import Scene, Spinner, parameters, until
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, Imu, NavSatFix, Range

from geoloc_models.errors import GeolocError
from geoloc_ros import messages
from geoloc_ros.core.camera import rectify, rotation_enu_from_optical
from geoloc_ros.core.maps import RasterMap
from geoloc_ros.nodes.camera_sim import CameraSimNode
from geoloc_ros.nodes.frame_inputs import best_effort


def test_pictures_show_the_true_place(spinner: Spinner, scene: Scene) -> None:
    """A picture, rectified by what was published with it, is the map about the published truth."""
    listener = spinner.add(Node("listener"))
    heard: dict[str, dict[int, object]] = {}
    for topic, kind in (("image", Image), ("imu", Imu), ("altitude", Range), ("truth", NavSatFix)):
        heard[topic] = {}
        listener.create_subscription(
            kind, topic, lambda m, topic=topic: heard[topic].update({stamp(m): m}), best_effort(20)
        )
    infos: list[CameraInfo] = []
    listener.create_subscription(CameraInfo, "camera_info", infos.append, best_effort(5))
    values = {
        "map": str(scene.path),
        "altitude_type": "range",
        "rate_hz": 5.0,
        "height_m": 70.0,
        "noise": 0.0,
    }
    spinner.add(CameraSimNode(parameter_overrides=parameters(**values)))

    def complete() -> list[int]:
        return [s for s in list(heard["image"]) if all(s in samples for samples in heard.values())]

    until(lambda: len(complete()) >= 3 and infos, what="three whole frames")
    key = complete()[-1]
    image, imu, altitude, truth = (heard[topic][key] for topic in ("image", "imu", "altitude", "truth"))
    rotation = rotation_enu_from_optical(messages.quaternion_from_imu(imu))
    height_m = messages.height_from_altitude(altitude)
    camera = messages.camera_from_info(infos[-1])
    view = rectify(messages.rgb_from_image(image), camera, rotation, height_m, 0.4, 128)
    east_m, north_m = scene.frame.to_enu(truth.latitude, truth.longitude)
    centre = scene.frame.to_geodetic(
        east_m + view.centre_offset_enu_m[0], north_m + view.centre_offset_enu_m[1]
    )
    with RasterMap(scene.path) as raster:
        expected = raster.crop(*centre, 128 * 0.4, 128).image
    a, b = view.image.astype(float).ravel(), expected.astype(float).ravel()
    assert np.corrcoef(a, b)[0, 1] > 0.9


def stamp(message: object) -> int:
    """Nanoseconds of the message's stamp."""
    time = message.header.stamp  # type: ignore[attr-defined]
    return int(time.sec * 1_000_000_000 + time.nanosec)


@pytest.mark.parametrize(
    ("values", "message"),
    [({}, "no map is set"), ({"map": "/nowhere.tif"}, "nowhere.tif"), ({"pattern": "zigzag"}, "pattern")],
)
def test_bad_parameters(scene: Scene, values: dict[str, str], message: str) -> None:
    values = {"map": str(scene.path), **values} if values else {}
    with pytest.raises(GeolocError, match=message):
        CameraSimNode(parameter_overrides=parameters(**values))
