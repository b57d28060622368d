# SPDX-License-Identifier: Apache-2.0
"""Sensor messages there and back, against rosbags-image, SciPy and hand-made values."""

import array
import math

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2 in this environment")

from builtin_interfaces.msg import Time
from rosbags.image import message_to_cvimage
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, NavSatFix, NavSatStatus, Range
from std_msgs.msg import Float64

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rotations import FLU_FROM_OPTICAL_DOWN, rotation_enu_from_optical
from geoloc_ros.messages.reading import (
    GnssFix,
    camera_from_info,
    gnss_from_fix,
    height_from_altitude,
    quaternion_from_imu,
    rgb_from_image,
)
from geoloc_ros.messages.sensors import (
    UNKNOWN_ALTITUDE_VARIANCE_M2,
    compressed_from_rgb,
    fix_from_position,
    float64,
    image_from_rgb,
    imu_from_rotation,
    info_from_camera,
    no_fix,
    range_from_height,
    time_from_seconds,
)
from geoloc_ros.messages.stamps import seconds_from_time

STAMP = Time(sec=1455008967, nanosec=200000123)
LOSSLESS = ("rgb8", "bgr8", "rgba8", "bgra8", "rgb16", "bgr16")
ALL = (
    *LOSSLESS,
    *("mono8", "mono16", "yuv422", "yuv422_yuy2", "uyvy", "yuyv"),
    *("bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8", "bayer_rggb16", "bayer_gbrg16"),
)


def pixels(height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth colours, so that chroma subsampling and demosaicing lose little."""
    coarse = np.random.default_rng(3).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("encoding", ALL)
def test_image_agrees_with_rosbags_image(encoding: str) -> None:
    message = image_from_rgb(pixels(), STAMP, "camera", encoding)
    ours = rgb_from_image(message)
    theirs = message_to_cvimage(message, "rgb8")
    # 16 bits are cut there and here; rosbags-image divides by 257, we drop the lower byte.
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= (1 if encoding.endswith("16") else 0)


@pytest.mark.parametrize("encoding", ALL)
def test_image_comes_back(encoding: str) -> None:
    image = pixels()
    back = rgb_from_image(image_from_rgb(image, STAMP, "camera", encoding))
    assert back.shape == image.shape
    if encoding in LOSSLESS:
        np.testing.assert_array_equal(back, image)
        return
    if encoding.startswith("mono"):
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    inner = np.s_[2:-2, 2:-2]
    assert np.abs(back[inner].astype(int) - image[inner].astype(int)).mean() < 4.0


def test_image_header_and_padding() -> None:
    image = pixels()
    message = image_from_rgb(image, STAMP, "camera")
    assert (message.header.stamp, message.header.frame_id) == (STAMP, "camera")
    assert (message.height, message.width, message.step) == (48, 64, 192)
    padded = np.zeros((48, 200), np.uint8)
    padded[:, :192] = image.reshape(48, 192)
    message.step, message.data = 200, array.array("B", padded.tobytes())
    np.testing.assert_array_equal(rgb_from_image(message), image)


def test_bigendian_mono16() -> None:
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    message = Image(height=3, width=4, step=8, encoding="mono16", is_bigendian=1)
    message.data = array.array("B", values.astype(">u2").tobytes())
    np.testing.assert_array_equal(rgb_from_image(message)[..., 0], values >> 8)


def test_truncated_image_and_unknown_encoding() -> None:
    message = image_from_rgb(pixels(), STAMP, "camera")
    message.data = message.data[:-10]
    with pytest.raises(GeolocError, match="truncated"):
        rgb_from_image(message)
    message.encoding = "nv99"
    with pytest.raises(GeolocError, match="'nv99' is not supported"):
        rgb_from_image(message)


@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_compressed_image(form: str) -> None:
    image = pixels()
    message = compressed_from_rgb(image, STAMP, "camera", form)
    back = rgb_from_image(message)
    assert np.abs(back.astype(int) - image.astype(int)).mean() < (2.0 if form == "jpeg" else 1e-9)
    np.testing.assert_array_equal(back, message_to_cvimage(message, "rgb8"))
    message.data = message.data[: len(message.data) // 2]
    with pytest.raises(GeolocError):
        rgb_from_image(message)


def test_compressed_grey_and_nonsense() -> None:
    grey = pixels()[..., 0]
    _, data = cv2.imencode(".png", grey)
    message = CompressedImage(format="png", data=array.array("B", data.tobytes()))
    np.testing.assert_array_equal(rgb_from_image(message), np.repeat(grey[..., None], 3, axis=2))
    for data in (b"", b"no image"):
        with pytest.raises(GeolocError):
            rgb_from_image(CompressedImage(format="jpeg", data=array.array("B", data)))


def test_camera_info_both_ways() -> None:
    matrix = np.array([[610.0, 0.5, 480.0], [0.0, 611.0, 270.0], [0.0, 0.0, 1.0]])
    camera = CameraModel(960, 540, matrix, (0.1, -0.2, 0.001, 0.002, 0.05), "plumb_bob")
    info = info_from_camera(camera, STAMP, "camera")
    assert list(info.p)[:4] == [610.0, 0.5, 480.0, 0.0]
    back = camera_from_info(info)
    np.testing.assert_array_equal(back.matrix, matrix)
    assert (back.width, back.height, back.distortion, back.model) == (960, 540, camera.distortion, "plumb_bob")


def test_camera_info_of_a_binned_region() -> None:
    """A point's pixel in the binned region of interest is that of the full image, moved and scaled."""
    matrix = np.array([[600.0, 0.0, 479.5], [0.0, 600.0, 269.5], [0.0, 0.0, 1.0]])
    info = info_from_camera(CameraModel(960, 540, matrix), STAMP, "camera")
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 100, 40, 640, 480
    info.binning_x = info.binning_y = 2
    camera = camera_from_info(info)
    assert (camera.width, camera.height) == (320, 240)
    # The middle of four full pixels (300, 201), (301, 201), ... is the centre of binned pixel (100, 80).
    ray = np.linalg.inv(matrix) @ [300.5, 200.5, 1.0]
    np.testing.assert_allclose(camera.matrix @ ray, [100.0, 80.0, 1.0], atol=1e-9)


def test_camera_info_that_is_no_calibration() -> None:
    with pytest.raises(GeolocError, match="calibrate"):
        camera_from_info(CameraInfo(width=640, height=480))
    info = info_from_camera(CameraModel(64, 48, np.diag([50.0, 50.0, 1.0])), STAMP, "camera")
    info.distortion_model = "thin_prism"
    with pytest.raises(GeolocError, match="thin_prism"):
        camera_from_info(info)


def test_imu_reproduces_the_optical_rotation_exactly() -> None:
    """What the player sends and the localizer understands is flight.csv's rotation to the last digits."""
    for rotation in Rotation.random(20, rng=np.random.default_rng(1)).as_matrix():
        imu = imu_from_rotation(rotation @ FLU_FROM_OPTICAL_DOWN.T, STAMP, "base_link")
        back = rotation_enu_from_optical(quaternion_from_imu(imu))
        np.testing.assert_allclose(back, rotation, atol=1e-12)


def test_level_flight_to_the_east() -> None:
    """Nose east: the image's top points east and its right to the south."""
    imu = Imu()  # orientation is the identity: FLU equals ENU
    rotation = rotation_enu_from_optical(quaternion_from_imu(imu))
    np.testing.assert_allclose(rotation @ [0, -1, 0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(rotation @ [1, 0, 0], [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(rotation @ [0, 0, 1], [0, 0, -1], atol=1e-12)


def test_imu_without_attitude() -> None:
    imu = Imu()
    imu.orientation_covariance[0] = -1.0
    with pytest.raises(GeolocError, match="no orientation"):
        quaternion_from_imu(imu)
    for bad in (math.nan, 0.0):
        imu = Imu()
        imu.orientation.x = imu.orientation.w = bad
        with pytest.raises(GeolocError):
            quaternion_from_imu(imu)


def test_height() -> None:
    assert height_from_altitude(float64(120.25)) == 120.25
    ranged = range_from_height(120.25, STAMP, "b")
    assert ranged.header.stamp == STAMP
    assert height_from_altitude(ranged) == 120.25
    for bad in (0.0, -3.0, math.nan, math.inf):
        with pytest.raises(GeolocError, match="must be positive"):
            height_from_altitude(Float64(data=bad))
    with pytest.raises(GeolocError, match="outside the sensor's limits"):
        height_from_altitude(Range(min_range=0.2, max_range=40.0, range=math.inf))


def test_fix_carries_an_enu_covariance() -> None:
    covariance = np.array([[4.0, 1.0], [1.0, 9.0]])
    fix = fix_from_position(27.1, 112.8, 250.0, covariance, 25.0, STAMP, "base_link")
    assert (fix.header.stamp, fix.header.frame_id) == (STAMP, "base_link")
    assert (fix.latitude, fix.longitude, fix.altitude) == (27.1, 112.8, 250.0)
    assert fix.status.status == NavSatStatus.STATUS_FIX
    assert list(fix.position_covariance) == [4.0, 1.0, 0.0, 1.0, 9.0, 0.0, 0.0, 0.0, 25.0]
    assert fix.position_covariance_type == NavSatFix.COVARIANCE_TYPE_KNOWN
    gnss = gnss_from_fix(fix)
    assert gnss == GnssFix(27.1, 112.8, 250.0, 3.0)
    unknown = fix_from_position(27.1, 112.8, math.nan, covariance, 25.0, STAMP, "base_link")
    assert unknown.position_covariance[8] == UNKNOWN_ALTITUDE_VARIANCE_M2


def test_no_fix_is_nan_and_no_gnss() -> None:
    fix = no_fix(STAMP, "base_link")
    assert all(math.isnan(value) for value in (fix.latitude, fix.longitude, fix.altitude))
    assert fix.status.status == NavSatStatus.STATUS_NO_FIX
    assert gnss_from_fix(fix) is None
    fix.status.status = NavSatStatus.STATUS_FIX
    assert gnss_from_fix(fix) is None


def test_gnss_of_infinite_variance_is_no_fix() -> None:
    message = fix_from_position(58.0, 26.0, 10.0, np.diag([np.inf, np.inf]), 1.0, STAMP, "gnss")
    assert gnss_from_fix(message) is None


def test_seconds_and_time() -> None:
    assert seconds_from_time(STAMP) == pytest.approx(1455008967.200000123, abs=1e-6)
    assert time_from_seconds(0.9999999999) == Time(sec=1)
    assert time_from_seconds(-1.0) == Time()
    for seconds in np.random.default_rng(0).uniform(1e9, 2e9, 1000):
        assert seconds_from_time(time_from_seconds(seconds)) == seconds
