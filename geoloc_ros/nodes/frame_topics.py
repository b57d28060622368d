# SPDX-License-Identifier: Apache-2.0
"""The topics of a camera drone, for nodes that play or simulate one."""

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, NavSatFix, Range
from std_msgs.msg import Float64

from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import FLU_FROM_OPTICAL_DOWN
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.messages.sensors import (
    compressed_from_file,
    compressed_from_rgb,
    fix_from_truth,
    float64,
    image_from_rgb,
    imu_from_rotation,
    info_from_camera,
    range_from_height,
    time_from_seconds,
)
from geoloc_ros.nodes.frame_inputs import ALTITUDE_TYPES, IMAGE_TRANSPORTS, best_effort
from geoloc_ros.nodes.parameters import choice, declare, value


class CameraTopics:
    """Publishes images as image and camera_info."""

    def __init__(self, node: Node) -> None:
        """Declare the parameters and advertise; GeolocError for an impossible one."""
        text = "raw: image is a sensor_msgs/Image; compressed: it is a sensor_msgs/CompressedImage"
        declare(node, "image_transport", "raw", text, choices=IMAGE_TRANSPORTS)
        declare(node, "jpeg_quality", 95, "quality of compressed images that are not JPEG yet", 1, 100)
        declare(node, "camera_frame", "camera_optical", "frame_id of image and camera_info")
        self._compressed = choice(node, "image_transport", IMAGE_TRANSPORTS) == "compressed"
        self._quality, self._frame_id = value(node, "jpeg_quality"), value(node, "camera_frame")
        image_type = CompressedImage if self._compressed else Image
        self._image = node.create_publisher(image_type, "image", best_effort(2))
        self._info = node.create_publisher(CameraInfo, "camera_info", best_effort(5))

    @property
    def has_subscribers(self) -> bool:
        """Whether image and camera_info have subscribers."""
        return all(p.get_subscription_count() > 0 for p in (self._image, self._info))

    def publish(self, image: np.ndarray | None, camera: CameraModel, stamp: Time, file: bytes | None = None) -> None:
        """The camera and its image, if there is one. `file`: the image's own JPEG or PNG, if any."""
        self._info.publish(info_from_camera(camera, stamp, self._frame_id))
        if image is not None:
            self._image.publish(self._image_message(image, stamp, file))

    def _image_message(self, image: np.ndarray, stamp: Time, file: bytes | None) -> Image | CompressedImage:
        if not self._compressed:
            return image_from_rgb(image, stamp, self._frame_id)
        if file is not None:
            return compressed_from_file(file, stamp, self._frame_id)
        return compressed_from_rgb(image, stamp, self._frame_id, "jpeg", self._quality)


class FrameTopics:
    """Publishes frames as image, camera_info, imu, altitude and truth, and the time as /clock."""

    def __init__(self, node: Node) -> None:
        """Declare the parameters and advertise; GeolocError for an impossible one."""
        self._camera = CameraTopics(node)
        text = "float64: altitude is a std_msgs/Float64 (MAVROS rel_alt); range: it is a sensor_msgs/Range"
        declare(node, "altitude_type", "float64", text, choices=ALTITUDE_TYPES)
        declare(node, "base_frame", "base_link", "frame_id of imu and truth, the vehicle's body")
        self._altitude_type = choice(node, "altitude_type", ALTITUDE_TYPES)
        self._base_frame = value(node, "base_frame")
        altitude_type = Float64 if self._altitude_type == "float64" else Range
        self._clock = node.create_publisher(Clock, "/clock", 10)
        self._imu = node.create_publisher(Imu, "imu", best_effort(20))
        self._altitude = node.create_publisher(altitude_type, "altitude", best_effort(20))
        self._truth = node.create_publisher(NavSatFix, "truth", best_effort(20))

    @property
    def has_subscribers(self) -> bool:
        """Whether image, camera_info and altitude have subscribers."""
        return self._camera.has_subscribers and self._altitude.get_subscription_count() > 0

    def publish_clock(self, stamp_s: float) -> None:
        """Simulated time, s."""
        self._clock.publish(Clock(clock=time_from_seconds(stamp_s)))

    def publish(self, frame: Frame) -> None:
        """One frame; the image goes last, so that all it needs is there."""
        stamp = time_from_seconds(frame.stamp_s)
        if self._altitude_type == "float64":
            self._altitude.publish(float64(frame.height_m))
        else:
            self._altitude.publish(range_from_height(frame.height_m, stamp, self._base_frame))
        if frame.rotation_enu_from_optical is not None:
            # The localizer's default mount turns this back into the optical frame's rotation.
            enu_from_flu = frame.rotation_enu_from_optical @ FLU_FROM_OPTICAL_DOWN.T
            self._imu.publish(imu_from_rotation(enu_from_flu, stamp, self._base_frame))
        if frame.truth is not None:
            place = frame.truth.lat_deg, frame.truth.lon_deg
            self._truth.publish(fix_from_truth(*place, stamp, self._base_frame))
        self._camera.publish(frame.image, frame.camera, stamp, frame.encoded)
