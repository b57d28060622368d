# SPDX-License-Identifier: Apache-2.0
"""Conversions between messages and core types, against rosbags-image, SciPy and hand-made values."""

import array
import math

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no ROS 2 in this environment")

from builtin_interfaces.msg import Time
from geoloc_ros.srv import GetMap
from rosbags.image import message_to_cvimage
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, NavSatFix, NavSatStatus, Range
from std_msgs.msg import Float64

from geoloc_models.drl.heatmap import heatmap_from_logits
from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rotations import FLU_FROM_OPTICAL_DOWN, rotation_enu_from_optical
from geoloc_ros.core.maps.crop import CropStatus, MapCrop
from geoloc_ros.messages import conversions as messages

STAMP = Time(sec=1455008967, nanosec=200000123)
LOSSLESS = ("rgb8", "bgr8", "rgba8", "bgra8", "rgb16", "bgr16")
ALL = (
    *LOSSLESS,
    *("mono8", "mono16", "yuv422", "yuv422_yuy2", "uyvy", "yuyv"),
    *("bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8", "bayer_rggb16", "bayer_gbrg16"),
)


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    """Smooth colours, so that chroma subsampling and demosaicing lose little."""
    coarse = np.random.default_rng(3).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("encoding", ALL)
def test_image_agrees_with_rosbags_image(encoding: str) -> None:
    message = messages.image_from_rgb(picture(), STAMP, "camera", encoding)
    ours = messages.rgb_from_image(message)
    theirs = message_to_cvimage(message, "rgb8")
    # 16 bits are cut there and here; rosbags-image divides by 257, we drop the lower byte.
    assert np.abs(ours.astype(int) - theirs.astype(int)).max() <= (1 if encoding.endswith("16") else 0)


@pytest.mark.parametrize("encoding", ALL)
def test_image_comes_back(encoding: str) -> None:
    image = picture()
    back = messages.rgb_from_image(messages.image_from_rgb(image, STAMP, "camera", encoding))
    assert back.shape == image.shape
    if encoding in LOSSLESS:
        np.testing.assert_array_equal(back, image)
        return
    if encoding.startswith("mono"):
        image = np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    inner = np.s_[2:-2, 2:-2]
    assert np.abs(back[inner].astype(int) - image[inner].astype(int)).mean() < 4.0


def test_image_header_and_padding() -> None:
    image = picture()
    message = messages.image_from_rgb(image, STAMP, "camera")
    assert (message.header.stamp, message.header.frame_id) == (STAMP, "camera")
    assert (message.height, message.width, message.step) == (48, 64, 192)
    padded = np.zeros((48, 200), np.uint8)
    padded[:, :192] = image.reshape(48, 192)
    message.step, message.data = 200, array.array("B", padded.tobytes())
    np.testing.assert_array_equal(messages.rgb_from_image(message), image)


def test_bigendian_mono16() -> None:
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    message = Image(height=3, width=4, step=8, encoding="mono16", is_bigendian=1)
    message.data = array.array("B", values.astype(">u2").tobytes())
    np.testing.assert_array_equal(messages.rgb_from_image(message)[..., 0], values >> 8)


def test_truncated_image_and_unknown_encoding() -> None:
    message = messages.image_from_rgb(picture(), STAMP, "camera")
    message.data = message.data[:-10]
    with pytest.raises(GeolocError, match="truncated"):
        messages.rgb_from_image(message)
    message.encoding = "nv99"
    with pytest.raises(GeolocError, match="'nv99' is not supported"):
        messages.rgb_from_image(message)


@pytest.mark.parametrize("form", ["jpeg", "png"])
def test_compressed_image(form: str) -> None:
    image = picture()
    message = messages.compressed_from_rgb(image, STAMP, "camera", form)
    back = messages.rgb_from_image(message)
    assert np.abs(back.astype(int) - image.astype(int)).mean() < (2.0 if form == "jpeg" else 1e-9)
    np.testing.assert_array_equal(back, message_to_cvimage(message, "rgb8"))
    message.data = message.data[: len(message.data) // 2]
    with pytest.raises(GeolocError):
        messages.rgb_from_image(message)


def test_compressed_grey_and_nonsense() -> None:
    grey = picture()[..., 0]
    _, data = cv2.imencode(".png", grey)
    message = CompressedImage(format="png", data=array.array("B", data.tobytes()))
    np.testing.assert_array_equal(messages.rgb_from_image(message), np.repeat(grey[..., None], 3, axis=2))
    for data in (b"", b"no picture"):
        with pytest.raises(GeolocError):
            messages.rgb_from_image(CompressedImage(format="jpeg", data=array.array("B", data)))


def test_camera_info_both_ways() -> None:
    matrix = np.array([[610.0, 0.5, 480.0], [0.0, 611.0, 270.0], [0.0, 0.0, 1.0]])
    camera = CameraModel(960, 540, matrix, (0.1, -0.2, 0.001, 0.002, 0.05), "plumb_bob")
    info = messages.info_from_camera(camera, STAMP, "camera")
    assert list(info.p)[:4] == [610.0, 0.5, 480.0, 0.0]
    back = messages.camera_from_info(info)
    np.testing.assert_array_equal(back.matrix, matrix)
    assert (back.width, back.height, back.distortion, back.model) == (
        960,
        540,
        camera.distortion,
        "plumb_bob",
    )


def test_camera_info_of_a_binned_region() -> None:
    """A point's pixel in the binned region of interest is that of the full picture, moved and scaled."""
    matrix = np.array([[600.0, 0.0, 479.5], [0.0, 600.0, 269.5], [0.0, 0.0, 1.0]])
    info = messages.info_from_camera(CameraModel(960, 540, matrix), STAMP, "camera")
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 100, 40, 640, 480
    info.binning_x = info.binning_y = 2
    camera = messages.camera_from_info(info)
    assert (camera.width, camera.height) == (320, 240)
    # The middle of four full pixels (300, 201), (301, 201), ... is the centre of binned pixel (100, 80).
    ray = np.linalg.inv(matrix) @ [300.5, 200.5, 1.0]
    np.testing.assert_allclose(camera.matrix @ ray, [100.0, 80.0, 1.0], atol=1e-9)


def test_camera_info_that_is_no_calibration() -> None:
    with pytest.raises(GeolocError, match="calibrate"):
        messages.camera_from_info(CameraInfo(width=640, height=480))
    info = messages.info_from_camera(CameraModel(64, 48, np.diag([50.0, 50.0, 1.0])), STAMP, "camera")
    info.distortion_model = "thin_prism"
    with pytest.raises(GeolocError, match="thin_prism"):
        messages.camera_from_info(info)


def test_imu_reproduces_the_optical_rotation_exactly() -> None:
    """What the player sends and the localizer understands is flight.csv's rotation to the last digits."""
    for rotation in Rotation.random(20, rng=np.random.default_rng(1)).as_matrix():
        imu = messages.imu_from_rotation(rotation @ FLU_FROM_OPTICAL_DOWN.T, STAMP, "base_link")
        back = rotation_enu_from_optical(messages.quaternion_from_imu(imu))
        np.testing.assert_allclose(back, rotation, atol=1e-12)


def test_level_flight_to_the_east() -> None:
    """Nose east: the picture's top points east and its right to the south."""
    imu = Imu()  # orientation is the identity: FLU equals ENU
    rotation = rotation_enu_from_optical(messages.quaternion_from_imu(imu))
    np.testing.assert_allclose(rotation @ [0, -1, 0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(rotation @ [1, 0, 0], [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(rotation @ [0, 0, 1], [0, 0, -1], atol=1e-12)


def test_imu_without_attitude() -> None:
    imu = Imu()
    imu.orientation_covariance[0] = -1.0
    with pytest.raises(GeolocError, match="no orientation"):
        messages.quaternion_from_imu(imu)
    for bad in (math.nan, 0.0):
        imu = Imu()
        imu.orientation.x = imu.orientation.w = bad
        with pytest.raises(GeolocError):
            messages.quaternion_from_imu(imu)


def test_height() -> None:
    assert (
        messages.height_from_altitude(messages.altitude_from_height(120.25, STAMP, "b", "float64")) == 120.25
    )
    ranged = messages.altitude_from_height(120.25, STAMP, "b", "range")
    assert ranged.header.stamp == STAMP
    assert messages.height_from_altitude(ranged) == 120.25
    for bad in (0.0, -3.0, math.nan, math.inf):
        with pytest.raises(GeolocError, match="must be positive"):
            messages.height_from_altitude(Float64(data=bad))
    with pytest.raises(GeolocError, match="outside the sensor's limits"):
        messages.height_from_altitude(Range(min_range=0.2, max_range=40.0, range=math.inf))


def test_fix_carries_an_enu_covariance() -> None:
    covariance = np.array([[4.0, 1.0], [1.0, 9.0]])
    fix = messages.fix_from_position(27.1, 112.8, 250.0, covariance, 25.0, STAMP, "base_link")
    assert (fix.header.stamp, fix.header.frame_id) == (STAMP, "base_link")
    assert (fix.latitude, fix.longitude, fix.altitude) == (27.1, 112.8, 250.0)
    assert fix.status.status == NavSatStatus.STATUS_FIX
    assert list(fix.position_covariance) == [4.0, 1.0, 0.0, 1.0, 9.0, 0.0, 0.0, 0.0, 25.0]
    assert fix.position_covariance_type == NavSatFix.COVARIANCE_TYPE_KNOWN
    gnss = messages.gnss_from_fix(fix)
    assert gnss == messages.GnssFix(27.1, 112.8, 250.0, 3.0)
    unknown = messages.fix_from_position(27.1, 112.8, math.nan, covariance, 25.0, STAMP, "base_link")
    assert unknown.position_covariance[8] == messages.UNKNOWN_ALTITUDE_VARIANCE_M2


def test_no_fix_is_nan_and_no_gnss() -> None:
    fix = messages.no_fix(STAMP, "base_link")
    assert all(math.isnan(value) for value in (fix.latitude, fix.longitude, fix.altitude))
    assert fix.status.status == NavSatStatus.STATUS_NO_FIX
    assert messages.gnss_from_fix(fix) is None
    fix.status.status = NavSatStatus.STATUS_FIX
    assert messages.gnss_from_fix(fix) is None


def test_odometry_turns_velocity_into_the_body() -> None:
    """Flying north-east with the nose north-east is flying forward."""
    rotation = Rotation.from_euler("z", 45, degrees=True).as_matrix()
    covariance = np.diag([1.0, 2.0, 0.3, 0.3])
    message = messages.odometry_from_filter(
        (10.0, 20.0, 120.0), (3.0, 3.0), covariance, rotation, STAMP, ("map", "base_link")
    )
    twist = message.twist.twist.linear
    np.testing.assert_allclose([twist.x, twist.y, twist.z], [math.sqrt(18), 0.0, 0.0], atol=1e-9)
    assert (message.header.frame_id, message.child_frame_id) == ("map", "base_link")
    assert [message.pose.covariance[i] for i in (0, 7)] == [1.0, 2.0]
    np.testing.assert_allclose([message.twist.covariance[i] for i in (0, 7)], [0.3, 0.3])


def test_odometry_comes_back_as_motion() -> None:
    rotation = Rotation.from_euler("ZYX", [30, 10, -5], degrees=True).as_matrix()
    message = messages.odometry_from_filter(
        (0.0, 0.0, 0.0), (3.0, -4.0), np.eye(4), rotation, STAMP, ("odom", "base_link")
    )
    motion = messages.motion_from_odometry(message)
    np.testing.assert_allclose(motion.velocity_enu_m_s, [3.0, -4.0, 0.0], atol=1e-9)
    assert motion.heading_deg == pytest.approx(60.0)  # yaw counts from east anticlockwise, heading from north
    message.twist.twist.linear.x = math.nan
    with pytest.raises(GeolocError, match="not finite"):
        messages.motion_from_odometry(message)


def test_velocity_of_odometry_that_knows_no_north_is_turned_by_the_imu() -> None:
    in_odom = Rotation.from_euler("ZYX", [40, 3, -2], degrees=True)
    in_map = Rotation.from_euler("ZYX", [130, 3, -2], degrees=True)
    odometry = messages.odometry_from_filter(
        (0.0, 0.0, 0.0), (3.0, -4.0), np.eye(4), in_odom.as_matrix(), STAMP, ("odom", "base_link")
    )
    motion = messages.motion_from_odometry(odometry)
    assert messages.velocity_from_motion(motion, None) == pytest.approx((3.0, -4.0))
    # A quarter turn to the left: east becomes north, south becomes east.
    turned = messages.velocity_from_motion(motion, tuple(in_map.as_quat()))
    assert turned == pytest.approx((4.0, 3.0))


def test_gnss_of_infinite_variance_is_no_fix() -> None:
    message = messages.fix_from_position(58.0, 26.0, 10.0, np.diag([np.inf, np.inf]), 1.0, STAMP, "gnss")
    assert messages.gnss_from_fix(message) is None


def test_map_to_odom_puts_the_body_where_the_filter_has_it() -> None:
    """The odometry's pose of the body, taken through map→odom, is the filtered place with the IMU's attitude."""
    in_odom = Rotation.from_euler("ZYX", [40, 3, -2], degrees=True).as_matrix()
    in_map = Rotation.from_euler("ZYX", [65, 4, 1], degrees=True).as_matrix()
    odometry = messages.odometry_from_filter(
        (7.0, -3.0, 80.0), (0.0, 0.0), np.eye(4), in_odom, STAMP, ("odom", "base_link")
    )
    motion = messages.motion_from_odometry(odometry)
    message = messages.transform_from_odom((120.0, 250.0, 110.0), in_map, motion, STAMP, "map")
    assert (message.header.frame_id, message.child_frame_id) == ("map", "odom")
    q, t = message.transform.rotation, message.transform.translation
    rotation = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    np.testing.assert_allclose(
        rotation @ [7.0, -3.0, 80.0] + [t.x, t.y, t.z], [120.0, 250.0, 110.0], atol=1e-9
    )
    np.testing.assert_allclose(rotation @ in_odom, in_map, atol=1e-9)


def crop_of(image: np.ndarray, status: CropStatus = CropStatus.OK) -> MapCrop:
    return MapCrop(image, 27.1, 112.8, 200.0, 200.0 / len(image), 1.0, status, "covered")


def test_crop_goes_through_the_service() -> None:
    crop = crop_of(picture(64, 64))
    request = GetMap.Request(latitude_deg=27.1, longitude_deg=112.8, size_m=200.0, size_px=64)
    response = messages.response_from_crop(crop, GetMap.Response())
    back = messages.crop_from_response(request, response)
    np.testing.assert_array_equal(back.image, crop.image)
    assert (back.lat_deg, back.lon_deg, back.size_m, back.gsd_m) == (27.1, 112.8, 200.0, 3.125)
    assert (back.status, back.text, back.coverage) == (CropStatus.OK, "covered", 1.0)
    # The origin is the north-west corner, 100 m from the centre each way.
    east_m, north_m = LocalEnu(27.1, 112.8).to_enu(
        response.origin_latitude_deg, response.origin_longitude_deg
    )
    np.testing.assert_allclose([east_m, north_m], [-100.0, 100.0], atol=1e-3)


def test_crop_reply_that_breaks_its_rules_is_unreadable() -> None:
    request = GetMap.Request(latitude_deg=27.1, longitude_deg=112.8, size_m=200.0, size_px=32)
    response = messages.response_from_crop(crop_of(picture(64, 64)), GetMap.Response())
    back = messages.crop_from_response(request, response)
    assert back.status is CropStatus.UNREADABLE
    assert "64x64 px instead of 32" in back.text


def test_crop_without_picture() -> None:
    crop = crop_of(picture(64, 64), CropStatus.OUT_OF_BOUNDS)
    response = messages.response_from_crop(crop, GetMap.Response())
    assert len(response.image.data) == 0
    request = GetMap.Request(latitude_deg=27.1, longitude_deg=112.8, size_m=200.0, size_px=64)
    assert messages.crop_from_response(request, response).status is CropStatus.OUT_OF_BOUNDS


def test_heatmap_grid_lies_where_the_peak_is() -> None:
    """The hottest cell's centre, in the map frame, is the place of the peak in the crop."""
    logits = np.zeros((17, 17), np.float32)
    logits[4, 12] = 12.0
    heatmap = heatmap_from_logits(logits, 4.0)
    crop = crop_of(picture(64, 64))
    frame = LocalEnu(27.099, 112.801)
    grid = messages.grid_from_heatmap(heatmap, crop, frame, STAMP, "map")
    data = np.array(grid.data).reshape(grid.info.height, grid.info.width)
    row, col = np.unravel_index(data.argmax(), data.shape)
    assert data.max() == 100
    east_m = grid.info.origin.position.x + (col + 0.5) * grid.info.resolution
    north_m = grid.info.origin.position.y + (row + 0.5) * grid.info.resolution
    lat_deg, lon_deg = crop.pixel_to_geodetic(12 * 4.0, 4 * 4.0)
    np.testing.assert_allclose([east_m, north_m], frame.to_enu(lat_deg, lon_deg), atol=0.05)


def test_heatmap_image() -> None:
    logits = np.zeros((17, 17), np.float32)
    logits[4, 12] = 12.0
    heatmap = heatmap_from_logits(logits, 4.0)
    grey = messages.image_from_heatmap(heatmap, 64, False, STAMP, "map")
    pixels = messages.rgb_from_image(grey)[..., 0]
    assert pixels.max() == 255
    row, col = np.unravel_index(pixels.argmax(), pixels.shape)
    assert max(abs(row - 16), abs(col - 48)) <= 1
    red = messages.rgb_from_image(messages.image_from_heatmap(heatmap, 64, True, STAMP, "map"))[row, col]
    assert red[0] > 2 * max(red[1], red[2])


def test_seconds_and_time() -> None:
    assert messages.seconds_from_time(STAMP) == pytest.approx(1455008967.200000123, abs=1e-6)
    assert messages.time_from_seconds(0.9999999999) == Time(sec=1)
    assert messages.time_from_seconds(-1.0) == Time()
    for seconds in np.random.default_rng(0).uniform(1e9, 2e9, 1000):
        assert messages.seconds_from_time(messages.time_from_seconds(seconds)) == seconds
