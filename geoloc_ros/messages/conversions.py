# SPDX-License-Identifier: Apache-2.0
"""Every conversion between ROS messages and the core's types, both ways; no other file converts.

Frames follow REP-103 and REP-105: Imu orientation turns the FLU body into ENU, covariances are row-major ENU
in m², positions are WGS84. Whatever a message can get wrong ends in a GeolocError of one sentence.
"""

from __future__ import annotations

import array
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import TransformStamped
from nav_msgs.msg import OccupancyGrid, Odometry
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, Imu, NavSatFix, NavSatStatus, Range
from std_msgs.msg import Float64, Header

from geoloc_models.errors import GeolocError
from geoloc_ros.core.autopilot.fix_gate import Decision, Fix, FixStatus
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.geoid import undulation_m
from geoloc_ros.core.geometry.px4_frames import enu_from_flu_quaternion, height_above_ground_m
from geoloc_ros.core.geometry.rotations import quaternion_from_rotation, rotation_from_quaternion
from geoloc_ros.core.localization.state import State
from geoloc_ros.core.maps.crop import CropStatus, MapCrop
from geoloc_ros.core.recording.images import decode_compressed, decode_image, encode_image
from geoloc_ros.messages.camera_info import camera_from_info as camera_from_info
from geoloc_ros.messages.stamps import seconds_from_stamp, stamp_from_seconds
from geoloc_ros.msg import LocalizerStatus
from geoloc_ros.srv import GetMap

if TYPE_CHECKING:  # these bring the network along, which the map server has no use for
    from geoloc_models.drl.heatmap import Heatmap
    from geoloc_ros.core.localization.estimate import Estimate

UNKNOWN_ALTITUDE_VARIANCE_M2 = 1e6
"""Stands in a fix whose altitude is not known: one standard deviation of a kilometre."""


# --- time ---------------------------------------------------------------------------------------------------


def seconds_from_time(stamp: Time) -> float:
    """Seconds since the clock's epoch. A float keeps 0.2 µs in this century."""
    return seconds_from_stamp(stamp.sec, stamp.nanosec)


def time_from_seconds(seconds: float) -> Time:
    """The nearest Time message at or after the epoch; `seconds_from_time` inverts it in this century."""
    sec, nanosec = stamp_from_seconds(seconds)
    return Time(sec=sec, nanosec=nanosec)


# --- pictures -----------------------------------------------------------------------------------------------


def rgb_from_image(message: Image | CompressedImage) -> np.ndarray:
    """Pixels as (h, w, 3) uint8 RGB; GeolocError for an unknown encoding or a truncated picture."""
    if isinstance(message, CompressedImage):
        return decode_compressed(message.data)
    return decode_image(
        message.encoding, message.height, message.width, message.step, message.data, message.is_bigendian
    )


def image_from_rgb(image: np.ndarray, stamp: Time, frame_id: str, encoding: str = "rgb8") -> Image:
    """An Image in any encoding that core/images.py knows from (h, w, 3) uint8 RGB."""
    data, step = encode_image(image, encoding)
    message = Image(height=image.shape[0], width=image.shape[1], encoding=encoding, step=step)
    message.header = Header(stamp=stamp, frame_id=frame_id)
    # rclpy checks every element of anything but an array.array, which takes 100 ms for a picture.
    message.data = array.array("B", data)
    return message


def compressed_from_rgb(
    image: np.ndarray, stamp: Time, frame_id: str, form: str = "jpeg", quality: int = 95
) -> CompressedImage:
    """A CompressedImage (`form`: jpeg or png) from (h, w, 3) uint8 RGB; `quality` 1..100 is JPEG's."""
    if form not in ("jpeg", "png"):
        raise GeolocError(f"compressed format '{form}' is not supported; use jpeg or png")
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if form == "jpeg" else []
    _, data = cv2.imencode(f".{form}", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return compressed_from_file(data.tobytes(), stamp, frame_id, form)


def compressed_from_file(data: bytes, stamp: Time, frame_id: str, form: str = "jpeg") -> CompressedImage:
    """A CompressedImage of a picture file's bytes, as they are."""
    message = CompressedImage(format=f"bgr8; {form} compressed bgr8")
    message.header = Header(stamp=stamp, frame_id=frame_id)
    message.data = array.array("B", data)
    return message


# --- camera, attitude, height -------------------------------------------------------------------------------


def info_from_camera(camera: CameraModel, stamp: Time, frame_id: str) -> CameraInfo:
    """CameraInfo of a monocular camera: R is identity and P repeats K."""
    message = CameraInfo(width=camera.width, height=camera.height, distortion_model=camera.model)
    message.header = Header(stamp=stamp, frame_id=frame_id)
    message.d = [float(value) for value in camera.distortion]
    message.k = camera.matrix.ravel().tolist()
    message.r = np.eye(3).ravel().tolist()
    message.p = np.hstack([camera.matrix, np.zeros((3, 1))]).ravel().tolist()
    return message


def quaternion_from_imu(message: Imu) -> tuple[float, float, float, float]:
    """(qx, qy, qz, qw), ENU from FLU body; GeolocError where there is none or it is no rotation."""
    if message.orientation_covariance[0] == -1.0:  # REP-145
        raise GeolocError(
            "imu message carries no orientation (its covariance starts with -1); "
            "connect an attitude estimator such as /mavros/imu/data"
        )
    q = message.orientation
    rotation_from_quaternion(q.x, q.y, q.z, q.w)  # refuses NaN and zero
    return q.x, q.y, q.z, q.w


def imu_from_rotation(rotation_enu_from_body: np.ndarray, stamp: Time, frame_id: str) -> Imu:
    """Imu with an orientation only; rates and accelerations are marked as absent (REP-145).

    A rotation that is not finite becomes a quaternion that is not.
    """
    message = Imu()
    message.header = Header(stamp=stamp, frame_id=frame_id)
    q = message.orientation
    known = bool(np.all(np.isfinite(rotation_enu_from_body)))
    q.x, q.y, q.z, q.w = quaternion_from_rotation(rotation_enu_from_body) if known else (math.nan,) * 4
    message.angular_velocity_covariance[0] = -1.0
    message.linear_acceleration_covariance[0] = -1.0
    return message


def imu_from_quaternion(
    quaternion: tuple[float, float, float, float],
    rates_rad_s: tuple[float, float, float],
    stamp: Time,
    frame_id: str,
) -> Imu:
    """Imu of an attitude (x, y, z, w; ENU from FLU body) and angular rates about the body's axes."""
    message = Imu()
    message.header = Header(stamp=stamp, frame_id=frame_id)
    q, rates = message.orientation, message.angular_velocity
    q.x, q.y, q.z, q.w = quaternion
    rates.x, rates.y, rates.z = rates_rad_s
    message.linear_acceleration_covariance[0] = -1.0  # REP-145: none
    return message


def height_from_altitude(message: Float64 | Range) -> float:
    """Height above ground, m; GeolocError for NaN, a height <= 0 or a range outside the sensor's limits."""
    if isinstance(message, Float64):
        height_m = message.data
    else:
        height_m = message.range
        if message.max_range > message.min_range and not message.min_range <= height_m <= message.max_range:
            raise GeolocError(
                f"range {height_m:.2f} m is outside the sensor's limits {message.min_range:.2f} to "
                f"{message.max_range:.2f} m; the ground is out of its reach"
            )
    if not (math.isfinite(height_m) and height_m > 0):
        raise GeolocError(
            f"height above ground is {height_m} m; it must be positive, check the altitude topic"
        )
    return float(height_m)


def altitude_from_height(height_m: float, stamp: Time, frame_id: str, kind: str) -> Float64 | Range:
    """Height above ground as `kind` float64 (no stamp) or range (stamped, float32)."""
    if kind == "float64":
        return Float64(data=float(height_m))
    message = Range(min_range=0.0, max_range=1e5, field_of_view=0.0, range=float(height_m))
    message.header = Header(stamp=stamp, frame_id=frame_id)
    return message


# --- positions ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GnssFix:
    """A valid NavSatFix: place, ellipsoidal altitude (NaN where unknown), largest horizontal deviation."""

    lat_deg: float
    lon_deg: float
    altitude_m: float
    sigma_m: float  # one standard deviation; 0 where the receiver does not say


def gnss_from_fix(message: NavSatFix) -> GnssFix | None:
    """The fix, or None while the receiver has none (NO_FIX, NaN, impossible coordinates, no idea where)."""
    lat_deg, lon_deg = message.latitude, message.longitude
    if message.status.status < NavSatStatus.STATUS_FIX:
        return None
    if not (math.isfinite(lat_deg) and math.isfinite(lon_deg) and abs(lat_deg) <= 90 and abs(lon_deg) <= 180):
        return None
    variance = max(message.position_covariance[0], message.position_covariance[4])
    if math.isinf(variance):
        return None
    known = message.position_covariance_type != NavSatFix.COVARIANCE_TYPE_UNKNOWN and variance > 0
    return GnssFix(lat_deg, lon_deg, message.altitude, math.sqrt(variance) if known else 0.0)


def fix_from_position(
    lat_deg: float,
    lon_deg: float,
    altitude_m: float,
    covariance_enu_m2: np.ndarray,
    altitude_variance_m2: float,
    stamp: Time,
    frame_id: str,
) -> NavSatFix:
    """A valid NavSatFix. covariance_enu_m2: (2, 2), east and north; altitude: ellipsoidal, NaN if unknown."""
    message = NavSatFix(latitude=float(lat_deg), longitude=float(lon_deg), altitude=float(altitude_m))
    message.header = Header(stamp=stamp, frame_id=frame_id)
    message.status.status = NavSatStatus.STATUS_FIX
    covariance = np.zeros((3, 3))
    covariance[:2, :2] = covariance_enu_m2
    covariance[2, 2] = altitude_variance_m2 if math.isfinite(altitude_m) else UNKNOWN_ALTITUDE_VARIANCE_M2
    message.position_covariance = covariance.ravel().tolist()
    message.position_covariance_type = NavSatFix.COVARIANCE_TYPE_KNOWN
    return message


def fix_from_receiver(
    place: tuple[float, float, float], sigma_m: tuple[float, float], stamp: Time, frame_id: str
) -> NavSatFix:
    """A receiver's fix. place: latitude, longitude, ellipsoidal altitude; sigma_m: horizontal and vertical standard
    deviation, NaN where the receiver does not say.
    """
    variances = [0.0 if math.isnan(sigma) else sigma * sigma for sigma in sigma_m]
    message = fix_from_position(*place, np.eye(2) * variances[0], variances[1], stamp, frame_id)
    message.position_covariance_type = (
        NavSatFix.COVARIANCE_TYPE_UNKNOWN
        if math.isnan(sigma_m[0])
        else NavSatFix.COVARIANCE_TYPE_DIAGONAL_KNOWN
    )
    return message


def no_fix(stamp: Time, frame_id: str) -> NavSatFix:
    """NO_FIX with NaN position, for a frame without an answer."""
    message = NavSatFix(latitude=math.nan, longitude=math.nan, altitude=math.nan)
    message.header = Header(stamp=stamp, frame_id=frame_id)
    message.status.status = NavSatStatus.STATUS_NO_FIX
    message.position_covariance_type = NavSatFix.COVARIANCE_TYPE_UNKNOWN
    return message


def candidate_from_fix(message: NavSatFix) -> Fix:
    """The localizer's fix as the gate before an autopilot takes it; altitude still ellipsoidal, NaN if unknown."""
    return Fix(
        stamp_s=seconds_from_time(message.header.stamp),
        valid=message.status.status >= NavSatStatus.STATUS_FIX,
        lat_deg=message.latitude,
        lon_deg=message.longitude,
        altitude_m=message.altitude,
        covariance_enu_m2=np.array(message.position_covariance, dtype=np.float64).reshape(3, 3),
    )


def fix_status_from_status(message: LocalizerStatus) -> FixStatus:
    """What the gate needs of the localizer's status."""
    return FixStatus(State(message.state), message.valid, message.frames)


@dataclass(frozen=True)
class Motion:
    """What odometry (VIO) says; without an imu its frame must be north-aligned ENU, as MAVROS's local frame is."""

    heading_deg: float  # of the nose, clockwise from north
    velocity_enu_m_s: tuple[float, float, float]
    position_m: np.ndarray  # (3,) in its frame
    rotation_odom_from_body: np.ndarray  # (3, 3)
    frame_id: str


def motion_from_odometry(message: Odometry) -> Motion:
    """Heading, velocity and pose; GeolocError for an attitude or velocity that is not finite."""
    q, linear = message.pose.pose.orientation, message.twist.twist.linear
    rotation = rotation_from_quaternion(q.x, q.y, q.z, q.w)
    east, north, up = (rotation @ [linear.x, linear.y, linear.z]).tolist()  # twist is in the body frame
    if not all(map(math.isfinite, (east, north, up))):
        raise GeolocError("velocity of the odometry is not finite; check the VIO")
    heading_deg = math.degrees(math.atan2(rotation[0, 0], rotation[1, 0]))
    place = message.pose.pose.position
    position_m = np.array([place.x, place.y, place.z])
    return Motion(heading_deg, (east, north, up), position_m, rotation, message.header.frame_id)


def velocity_from_odometry(message: Odometry) -> tuple[float, float, float]:
    """(east, north) velocity and its larger standard deviation, m/s, of an odometry whose frame is ENU, as ours."""
    motion = motion_from_odometry(message)
    rotation = motion.rotation_odom_from_body
    covariance = rotation @ np.array(message.twist.covariance).reshape(6, 6)[:3, :3] @ rotation.T
    east_m_s, north_m_s, _ = motion.velocity_enu_m_s
    return east_m_s, north_m_s, math.sqrt(max(covariance[0, 0], covariance[1, 1]))


def velocity_from_motion(
    motion: Motion, attitude: tuple[float, float, float, float] | None
) -> tuple[float, float]:
    """(east, north) m/s. attitude: ENU from FLU body by the imu, which knows north where odometry may not."""
    velocity = np.array(motion.velocity_enu_m_s)
    if attitude is not None:
        velocity = rotation_from_quaternion(*attitude) @ motion.rotation_odom_from_body.T @ velocity
    return float(velocity[0]), float(velocity[1])


def transform_from_odom(
    position_enu_m: tuple[float, float, float],
    rotation_enu_from_body: np.ndarray,
    motion: Motion,
    stamp: Time,
    map_frame: str,
) -> TransformStamped:
    """map→odom (REP-105): where the odometry's frame lies in the map, if the body is at the filtered place."""
    message = TransformStamped(child_frame_id=motion.frame_id)
    message.header = Header(stamp=stamp, frame_id=map_frame)
    rotation = rotation_enu_from_body @ motion.rotation_odom_from_body.T
    shift, q = message.transform.translation, message.transform.rotation
    shift.x, shift.y, shift.z = (np.array(position_enu_m) - rotation @ motion.position_m).tolist()
    q.x, q.y, q.z, q.w = quaternion_from_rotation(rotation)
    return message


def odometry_from_filter(
    position_enu_m: tuple[float, float, float],
    velocity_enu_mps: tuple[float, float],
    covariance: np.ndarray,
    rotation_enu_from_body: np.ndarray | None,
    stamp: Time,
    frames: tuple[str, str],
) -> Odometry:
    """The filtered state. covariance: (4, 4) of east, north, and their velocities; frames: (map, body).

    Odometry gives its twist in the body frame, so the velocity is turned by the attitude; without one the
    body counts as aligned with ENU. What the filter does not estimate has a variance of 1e6.
    """
    message = Odometry(child_frame_id=frames[1])
    message.header = Header(stamp=stamp, frame_id=frames[0])
    rotation = np.eye(3) if rotation_enu_from_body is None else rotation_enu_from_body
    pose, twist = message.pose.pose, message.twist.twist
    pose.position.x, pose.position.y, pose.position.z = (float(value) for value in position_enu_m)
    q = pose.orientation
    q.x, q.y, q.z, q.w = quaternion_from_rotation(rotation)
    velocity = rotation.T @ np.array([*velocity_enu_mps, 0.0])
    twist.linear.x, twist.linear.y, twist.linear.z = velocity.tolist()
    pose_covariance, twist_covariance = np.eye(6) * 1e6, np.eye(6) * 1e6
    pose_covariance[:2, :2] = covariance[:2, :2]
    velocity_covariance = np.diag([0.0, 0.0, 1e6])
    velocity_covariance[:2, :2] = covariance[2:, 2:]
    twist_covariance[:3, :3] = rotation.T @ velocity_covariance @ rotation
    message.pose.covariance = pose_covariance.ravel().tolist()
    message.twist.covariance = twist_covariance.ravel().tolist()
    return message


# --- PX4 ----------------------------------------------------------------------------------------------------
# px4_msgs is there only where somebody built it, so its messages go by their fields.


def time_from_px4(timestamp_us: int) -> Time:
    """The moment of a PX4 stamp, whose clock must be ours."""
    return Time(sec=timestamp_us // 1_000_000, nanosec=timestamp_us % 1_000_000 * 1000)


def imu_from_px4(message: Any, frame_id: str) -> Imu:
    """VehicleAttitude as ENU from FLU; GeolocError for a quaternion that is none."""
    rotation = rotation_from_quaternion(*enu_from_flu_quaternion(*map(float, message.q)))
    return imu_from_rotation(rotation, time_from_px4(message.timestamp_sample or message.timestamp), frame_id)


def height_from_px4(message: Any) -> float:
    """Height above ground of a VehicleLocalPosition, m; NaN if PX4 knows none."""
    return height_above_ground_m(message.z_valid, message.z, message.dist_bottom_valid, message.dist_bottom)


def altitude_amsl_from_px4(message: Any) -> float:
    """Altitude above mean sea level of a VehicleLocalPosition, m; NaN if PX4 knows none."""
    return float(message.ref_alt - message.z) if message.z_valid and message.z_global else math.nan


def gnss_from_px4(message: Any, frame_id: str) -> NavSatFix:
    """SensorGps as NavSatFix; NO_FIX with NaN unless it has three dimensions."""
    stamp = time_from_px4(message.timestamp_sample or message.timestamp)
    if message.fix_type < message.FIX_TYPE_3D:
        return no_fix(stamp, frame_id)
    place = (message.latitude_deg, message.longitude_deg, message.altitude_ellipsoid_m)
    return fix_from_receiver(place, (message.eph, message.epv), stamp, frame_id)


def aux_position_from_fix(kind: Any, fix: Fix, decision: Decision, source_id: int) -> Any:
    """PX4's auxiliary global position: AuxGlobalPosition, or VehicleGlobalPosition up to 1.17, as `kind` says.

    timestamp 0 has PX4 put in the moment of arrival.
    """
    message = kind(timestamp=0, timestamp_sample=round(fix.stamp_s * 1e6))
    message.lat, message.lon, message.alt = fix.lat_deg, fix.lon_deg, fix.altitude_m
    message.eph, message.epv = decision.eph_m, decision.epv_m
    message.lat_lon_reset_counter = decision.reset_counter
    if hasattr(message, "source"):
        message.id, message.source = source_id, kind.SOURCE_VISION
    else:
        message.alt_ellipsoid = fix.altitude_m + undulation_m(fix.lat_deg, fix.lon_deg)
    if hasattr(message, "lat_lon_valid"):  # not in 1.15
        message.lat_lon_valid = message.alt_valid = True
    return message


# --- map crops ----------------------------------------------------------------------------------------------


def response_from_crop(crop: MapCrop, response: GetMap.Response) -> GetMap.Response:
    """Fill a GetMap response; the picture stays empty where the crop has none."""
    response.status = int(crop.status)
    response.text = crop.text
    response.coverage = float(crop.coverage)
    response.gsd_m = float(crop.gsd_m)
    response.crs = (
        f"+proj=aeqd +lat_0={crop.lat_deg!r} +lon_0={crop.lon_deg!r} +datum=WGS84 +units=m +no_defs"
    )
    if crop.status in (CropStatus.OK, CropStatus.PARTLY_COVERED):
        origin_deg = crop.pixel_to_geodetic(0.0, 0.0)
        response.origin_latitude_deg, response.origin_longitude_deg = origin_deg
        response.image = image_from_rgb(crop.image, Time(), "map")
    return response


def crop_from_response(request: GetMap.Request, response: GetMap.Response) -> MapCrop:
    """The crop that was asked for; a reply that breaks its own rules counts as UNREADABLE."""
    status, text = CropStatus(response.status), response.text
    if status not in (CropStatus.OK, CropStatus.PARTLY_COVERED):
        return empty_crop(request, status, text)
    try:
        image = rgb_from_image(response.image)
        if image.shape[:2] != (request.size_px, request.size_px):
            raise GeolocError(f"it is {image.shape[1]}x{image.shape[0]} px instead of {request.size_px}")
    except GeolocError as error:
        return empty_crop(request, CropStatus.UNREADABLE, f"the map server's picture is unusable: {error}")
    # A copy, as the pixels of a message are read-only and PyTorch wants them writable.
    return replace(empty_crop(request, status, text), image=image.copy(), coverage=response.coverage)


def empty_crop(request: GetMap.Request, status: CropStatus, text: str) -> MapCrop:
    """A crop without a picture (0 x 0 pixels) of the place that was asked for."""
    return MapCrop(
        image=np.zeros((0, 0, 3), dtype=np.uint8),
        lat_deg=request.latitude_deg,
        lon_deg=request.longitude_deg,
        size_m=request.size_m,
        gsd_m=request.size_m / max(1, request.size_px),
        coverage=0.0,
        status=status,
        text=text,
    )


# --- heatmaps -----------------------------------------------------------------------------------------------


def image_from_heatmap(heatmap: Heatmap, size_px: int, colour: bool, stamp: Time, frame_id: str) -> Image:
    """The probability map stretched so that the most probable place is white (mono8) or red (rgb8)."""
    grey = _stretched(heatmap.resized(size_px, size_px), 255)
    if not colour:
        message = Image(height=size_px, width=size_px, encoding="mono8", step=size_px)
        message.header = Header(stamp=stamp, frame_id=frame_id)
        message.data = array.array("B", grey.tobytes())
        return message
    rgb = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    return image_from_rgb(rgb, stamp, frame_id)


def grid_from_heatmap(
    heatmap: Heatmap, crop: MapCrop, map_frame: LocalEnu, stamp: Time, frame_id: str
) -> OccupancyGrid:
    """The probability map as 0..100 (100: most probable) in `map_frame`, one cell around each node."""
    grid = OccupancyGrid()
    grid.header = Header(stamp=stamp, frame_id=frame_id)
    rows, columns = heatmap.probability.shape
    cell_m = heatmap.stride_px * crop.gsd_m
    east_m, north_m = map_frame.to_enu(crop.lat_deg, crop.lon_deg)
    grid.info.map_load_time = stamp
    grid.info.resolution = float(cell_m)
    grid.info.width, grid.info.height = columns, rows
    # A node lies in the middle of its cell; the first row of a grid is the southern one.
    grid.info.origin.position.x = east_m - crop.size_m / 2 - cell_m / 2
    grid.info.origin.position.y = north_m + crop.size_m / 2 - (rows - 0.5) * cell_m
    grid.info.origin.orientation.w = 1.0
    grid.data = array.array("b", _stretched(heatmap.probability, 100)[::-1].astype(np.int8).tobytes())
    return grid


def _stretched(values: np.ndarray, top: int) -> np.ndarray:
    """uint8 of the same shape with the largest value at `top`."""
    largest = float(values.max())
    return np.rint(values * (top / largest if largest > 0 else 0.0)).astype(np.uint8)


# --- status and diagnostics ---------------------------------------------------------------------------------


def status_from_estimate(
    estimate: Estimate,
    stamp: Time,
    frame_id: str,
    latencies_ms: Mapping[str, float],
    counts: tuple[int, int],
    engine: tuple[str, str],
) -> LocalizerStatus:
    """One frame's status. latencies_ms: by stage; counts: (frames, dropped); engine: (weights id, device)."""
    track = estimate.filtered
    message = LocalizerStatus(state=int(estimate.state), valid=estimate.valid, reason=estimate.reason)
    message.header = Header(stamp=stamp, frame_id=frame_id)
    heatmap = estimate.heatmap
    message.peak = 0.0 if heatmap is None else float(heatmap.peak)
    message.peak_ratio = math.nan if heatmap is None else float(heatmap.peak_ratio)
    message.entropy = math.nan if heatmap is None else float(heatmap.entropy)
    message.sigma_m = (
        math.nan if track is None else math.sqrt(np.linalg.eigvalsh(track.covariance[:2, :2])[-1])
    )
    searched = estimate.crop
    message.search_size_m = float(estimate.search_size_m if searched is None else searched.size_m)
    message.candidates = estimate.crops
    for candidate in estimate.candidates:
        lat_deg, lon_deg = candidate.tracker.place
        message.candidate_latitude_deg.append(lat_deg)
        message.candidate_longitude_deg.append(lon_deg)
        message.candidate_log_odds.append(candidate.log_odds)
        message.candidate_similarity.append(candidate.similarity)
        message.candidate_frames.append(candidate.frames)
        message.candidate_heading_deg.append(candidate.heading_deg)
    for stage in ("decode", "rectify", "retrieve", "crop", "network", "post", "total", "age"):
        setattr(message, f"latency_{stage}_ms", float(latencies_ms.get(stage, math.nan)))
    message.frames, message.dropped = counts
    message.weights_id, message.device = engine
    return message


def diagnostics(
    stamp: Time, name: str, hardware_id: str, level: bytes, text: str, values: Mapping[str, object]
) -> DiagnosticArray:
    """One DiagnosticStatus in an array, as /diagnostics carries it; `level` is one of DiagnosticStatus."""
    status = DiagnosticStatus(level=level, name=name, message=text, hardware_id=hardware_id)
    status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
    message = DiagnosticArray(status=[status])
    message.header.stamp = stamp
    return message
