# SPDX-License-Identifier: Apache-2.0
"""What single MAVLink messages mean in our frames and units, and the messages that carry a fix; no I/O here.

MAVLink has attitudes as the turn from the FRD body to NED, angles in radians, places in 1e-7 degrees and altitudes in
millimetres above sea level (mavlink.io, common.xml). Here the body is FLU and the world ENU (REP-103).
"""

import math
from dataclasses import dataclass
from typing import Any

from geoloc_ros.core.autopilot.fix_gate import Decision, Fix
from geoloc_ros.core.autopilot.mavlink_dialect import mavlink
from geoloc_ros.core.geometry.geoid import undulation_m
from geoloc_ros.core.geometry.px4_frames import Origin, enu_from_flu_quaternion, ned_from_frd_quaternion, px4_local_m
from geoloc_ros.core.geometry.rotations import quaternion_with_heading

GPS_EPOCH_S = 315_964_800
GPS_LEAP_S = 18
"""GPS time minus UTC since 2017."""
WEEK_S = 604_800
GPS_SATELLITES = 6
GPS_DOP = 1.0
"""ArduPilot arms with at least six satellites and an HDOP below GPS_HDOP_GOOD, 1.4. There is no GNSS behind a fix to
count them; its accuracy states its quality, and with fewer satellites ArduPilot prefers a real receiver."""

ODOMETRY_QUALITY = 100
"""Per cent. A fix that is not good is not sent; its covariance states its accuracy."""
UNKNOWN_VARIANCE = 1e6
"""Variance of what the fix does not contain, in the square of its unit: finite, and too large to have weight."""
_UNKNOWN_QUATERNION = (math.nan,) * 4

_DOWNWARD = mavlink.MAV_SENSOR_ROTATION_PITCH_270
_NO_VELOCITY = mavlink.GPS_INPUT_IGNORE_FLAG_VEL_HORIZ | mavlink.GPS_INPUT_IGNORE_FLAG_SPEED_ACCURACY


@dataclass(frozen=True)
class Attitude:
    """Quaternion x, y, z, w that turns FLU into ENU, and the angular rates about the FLU axes, rad/s."""

    quaternion: tuple[float, float, float, float]
    rates_rad_s: tuple[float, float, float]

    @property
    def is_finite(self) -> bool:
        return all(map(math.isfinite, (*self.quaternion, *self.rates_rad_s)))

    @property
    def cos_tilt(self) -> float:
        """Cosine between the body's vertical axis and the world's."""
        x, y, _, _ = self.quaternion
        return 1.0 - 2.0 * (x * x + y * y)


@dataclass(frozen=True)
class Place:
    """WGS84 degrees and ellipsoidal altitude, m; standard deviations in m, NaN where unknown."""

    lat_deg: float
    lon_deg: float
    altitude_m: float
    sigma_m: float = math.nan
    altitude_sigma_m: float = math.nan


@dataclass(frozen=True)
class Velocity:
    """Over the ground, m/s, and one standard deviation of it along its worst axis."""

    east_m_s: float
    north_m_s: float
    sigma_m_s: float


# --- in -----------------------------------------------------------------------------------------------------


def attitude_from(message: Any) -> Attitude:
    """From ATTITUDE_QUATERNION, ATTITUDE, HIL_STATE_QUATERNION or SIM_STATE."""
    kind = message.get_type()
    if kind == "SIM_STATE":
        rates = message.xgyro, message.ygyro, message.zgyro
    else:
        rates = message.rollspeed, message.pitchspeed, message.yawspeed
    if kind == "HIL_STATE_QUATERNION":
        wxyz = tuple(message.attitude_quaternion)
    elif kind == "ATTITUDE":
        wxyz = _quaternion_from_angles(message.roll, message.pitch, message.yaw)
    else:
        wxyz = message.q1, message.q2, message.q3, message.q4
    forward, right, down = rates
    return Attitude(enu_from_flu_quaternion(*wxyz), (forward, -right, -down))


def _quaternion_from_angles(roll: float, pitch: float, yaw: float) -> tuple[float, float, float, float]:
    """w, x, y, z of yaw, then pitch, then roll, rad."""
    (cr, sr), (cp, sp), (cy, sy) = ((math.cos(a / 2), math.sin(a / 2)) for a in (roll, pitch, yaw))
    return (
        cr * cp * cy + sr * sp * sy,
        sr * cp * cy - cr * sp * sy,
        cr * sp * cy + sr * cp * sy,
        cr * cp * sy - sr * sp * cy,
    )


def gnss_from(message: Any) -> Place | None:
    """The fix of the vehicle's own receiver (GPS_RAW_INT, GPS2_RAW); None while it has no 3D fix."""
    if message.fix_type < mavlink.GPS_FIX_TYPE_3D_FIX or (message.lat == 0 and message.lon == 0):
        return None
    lat_deg, lon_deg = message.lat * 1e-7, message.lon * 1e-7
    # Zero means "not reported": old autopilots end the message before this field.
    ellipsoidal_mm = message.alt_ellipsoid
    altitude_m = ellipsoidal_mm * 1e-3 if ellipsoidal_mm else message.alt * 1e-3 + undulation_m(lat_deg, lon_deg)
    sigma_m, altitude_sigma_m = (
        accuracy_mm * 1e-3 if accuracy_mm else math.nan for accuracy_mm in (message.h_acc, message.v_acc)
    )
    return Place(lat_deg, lon_deg, altitude_m, sigma_m, altitude_sigma_m)


def truth_from(message: Any) -> Place:
    """Where the simulated vehicle really is: HIL_STATE_QUATERNION of PX4, SIM_STATE of ArduPilot."""
    if message.get_type() == "HIL_STATE_QUATERNION":
        lat_e7, lon_e7, amsl_m = message.lat, message.lon, message.alt * 1e-3
    else:
        # ArduPilot fills `lat` and `lon` with 1e-7 degrees though they are for degrees, and in float32.
        lat_e7, lon_e7, amsl_m = message.lat_int or message.lat, message.lon_int or message.lon, message.alt
    lat_deg, lon_deg = lat_e7 * 1e-7, lon_e7 * 1e-7
    return Place(lat_deg, lon_deg, amsl_m + undulation_m(lat_deg, lon_deg))


class Heights:
    """Height above ground from the best message available: a range finder, then the height above home."""

    # The first of these that was heard within the last second counts.
    _RANKS = ("DISTANCE_SENSOR", "ALTITUDE bottom", "ALTITUDE", "GLOBAL_POSITION_INT", "LOCAL_POSITION_NED")
    _FRESH_S = 1.0

    def __init__(self) -> None:
        self._heard_s: dict[str, float] = {}
        self.source = ""  # what the last height came from

    def height_m(self, message: Any, cos_tilt: float, now_s: float) -> float | None:
        """The height of a message if no better source speaks, m; None else. cos_tilt turns range into height."""
        found = _height_in(message, cos_tilt)
        if found is None:
            return None
        rank, height_m = found
        self._heard_s[rank] = now_s
        for better in self._RANKS[: self._RANKS.index(rank)]:
            if now_s - self._heard_s.get(better, -math.inf) < self._FRESH_S:
                return None
        self.source = rank
        return height_m


def _height_in(message: Any, cos_tilt: float) -> tuple[str, float] | None:
    """(name of the source, height in m) of one message; None where it holds none."""
    kind = message.get_type()
    if kind == "DISTANCE_SENSOR":
        # Some sensors report their maximum range when they see nothing.
        seen = message.min_distance < message.current_distance < message.max_distance
        if message.orientation != _DOWNWARD or not seen:
            return None
        found = kind, message.current_distance * 1e-2 * cos_tilt
    elif kind == "ALTITUDE":
        if message.bottom_clearance >= 0:
            found = "ALTITUDE bottom", message.bottom_clearance
        else:
            found = kind, message.altitude_relative
    elif kind == "GLOBAL_POSITION_INT":
        found = kind, message.relative_alt * 1e-3
    elif kind == "LOCAL_POSITION_NED":
        found = kind, -message.z
    else:
        return None
    return found if math.isfinite(found[1]) else None


# --- out ----------------------------------------------------------------------------------------------------


def gps_input(fix: Fix, decision: Decision, gps_id: int, velocity: Velocity | None) -> Any:
    """GPS_INPUT for ArduPilot. fix: altitude above sea level; gps_id: number of its MAVLink GPS, from 0.

    The time is the image's. A stamp from before GPS, as from a simulation's clock, becomes week 0, which makes
    ArduPilot use the arrival. Never with a vertical velocity, which no image shows; ArduPilot takes a missing
    horizontal one for zero if it is set to fuse it. The message has no accuracy of the heading.
    """
    moving = velocity or Velocity(0.0, 0.0, 0.0)
    gps_s = fix.stamp_s - GPS_EPOCH_S + GPS_LEAP_S
    week, second = divmod(gps_s, WEEK_S) if gps_s > 0 else (0, 0.0)
    return mavlink.MAVLink_gps_input_message(
        time_usec=_microseconds(fix.stamp_s),
        gps_id=gps_id,
        ignore_flags=mavlink.GPS_INPUT_IGNORE_FLAG_VEL_VERT | (0 if velocity else _NO_VELOCITY),
        time_week_ms=int(second * 1e3),
        time_week=int(week),
        fix_type=mavlink.GPS_FIX_TYPE_3D_FIX,
        lat=_e7(fix.lat_deg),
        lon=_e7(fix.lon_deg),
        alt=fix.altitude_m,
        hdop=GPS_DOP,
        vdop=GPS_DOP,
        vn=moving.north_m_s,
        ve=moving.east_m_s,
        vd=0.0,
        speed_accuracy=moving.sigma_m_s,
        horiz_accuracy=decision.eph_m,
        vert_accuracy=decision.epv_m,
        satellites_visible=GPS_SATELLITES,
        yaw=_yaw_cdeg(decision.heading_deg),
    )


def global_position_sensor(fix: Fix, decision: Decision, target: tuple[int, int], sensor_id: int) -> Any:
    """GLOBAL_POSITION_SENSOR for PX4 1.18 and newer. fix: altitude above sea level; target: (system, component).

    Its time is that of sending, on the clock that TIMESYNC compares; how long ago the image was goes with it.
    """
    return mavlink.MAVLink_global_position_sensor_message(
        target_system=target[0],
        target_component=target[1],
        id=sensor_id,
        time_usec=_microseconds(fix.stamp_s + decision.latency_s),
        processing_time=_microseconds(decision.latency_s),
        source=mavlink.GLOBAL_POSITION_SRC_VISION,
        flags=0,
        lat=_e7(fix.lat_deg),
        lon=_e7(fix.lon_deg),
        alt_ellipsoid=fix.altitude_m + undulation_m(fix.lat_deg, fix.lon_deg),
        alt=fix.altitude_m,
        eph=decision.eph_m,
        epv=decision.epv_m,
    )


def odometry(fix: Fix, decision: Decision, origin: Origin, attitude: Attitude | None) -> Any:
    """ODOMETRY for PX4, in its local NED frame. attitude: the vehicle's own; None: the message states that it has none.

    Attitude and velocity carry variances that weigh nothing, so that PX4 takes the horizontal position alone; except
    for the yaw, if the decision has a heading, to which the attitude is turned then.
    """
    north_m, east_m = px4_local_m(fix.lat_deg, fix.lon_deg, origin)
    variance = fix.covariance_enu_m2
    pose = [0.0] * 21
    pose[0], pose[1], pose[6] = variance[1, 1], variance[0, 1], variance[0, 0]
    pose[11] = variance[2, 2]
    pose[15] = pose[18] = pose[20] = UNKNOWN_VARIANCE
    velocity = [0.0] * 21
    for diagonal in (0, 6, 11, 15, 18, 20):
        velocity[diagonal] = UNKNOWN_VARIANCE
    q = _UNKNOWN_QUATERNION if attitude is None else ned_from_frd_quaternion(*attitude.quaternion)
    if attitude is not None and math.isfinite(decision.heading_deg):
        q = ned_from_frd_quaternion(*quaternion_with_heading(attitude.quaternion, decision.heading_deg))
        pose[20] = math.radians(decision.sigma_heading_deg) ** 2
    return mavlink.MAVLink_odometry_message(
        time_usec=_microseconds(fix.stamp_s),
        frame_id=mavlink.MAV_FRAME_LOCAL_NED,
        child_frame_id=mavlink.MAV_FRAME_BODY_FRD,
        x=north_m,
        y=east_m,
        z=origin.amsl_m - fix.altitude_m,
        q=list(q),
        vx=0.0,
        vy=0.0,
        vz=0.0,
        rollspeed=0.0,
        pitchspeed=0.0,
        yawspeed=0.0,
        pose_covariance=pose,
        velocity_covariance=velocity,
        reset_counter=decision.reset_counter,
        estimator_type=mavlink.MAV_ESTIMATOR_TYPE_VISION,
        quality=ODOMETRY_QUALITY,
    )


def _yaw_cdeg(heading_deg: float) -> int:
    """GPS_INPUT's yaw, centidegrees: north is 36000, as 0 means that there is none."""
    return (round(heading_deg * 100.0) % 36000 or 36000) if math.isfinite(heading_deg) else 0


def _microseconds(seconds: float) -> int:
    return max(0, round(seconds * 1e6))


def _e7(degrees: float) -> int:
    return round(degrees * 1e7)
