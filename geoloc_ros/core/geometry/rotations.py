# SPDX-License-Identifier: Apache-2.0
"""Attitudes: quaternions, rotation matrices, and the camera mount.

Frames as in REP-103: the optical frame is x right, y down, z forward; the body is FLU (x forward, y left, z up); the
world is local ENU. A rotation `b_from_a` turns vectors of a into b.
"""

import math
from collections.abc import Sequence

import numpy as np

from geoloc_models.errors import GeolocError

# Optical axes in FLU for a camera that looks down with the image's top towards the nose.
FLU_FROM_OPTICAL_DOWN = np.array([[0.0, -1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])

_HALF = math.sqrt(0.5)

DOWN_XYZW = (_HALF, -_HALF, 0.0, 0.0)
"""That rotation as a quaternion, FLU from the optical frame: the usual mount of a camera."""


def rotation_from_quaternion(qx: float, qy: float, qz: float, qw: float) -> np.ndarray:
    """(3, 3) rotation of a quaternion; its length is normalised, GeolocError where that is impossible."""
    q = np.array([qx, qy, qz, qw], dtype=np.float64)
    norm = float(np.linalg.norm(q))
    if not math.isfinite(norm):
        raise GeolocError(f"attitude quaternion {q.tolist()} is not finite; check the IMU")
    if norm < 1e-6:
        raise GeolocError("attitude quaternion is zero: the sender knows no attitude; check the IMU")
    x, y, z, w = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_rotation(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """(qx, qy, qz, qw) with qw >= 0 of a (3, 3) rotation."""
    r = np.asarray(rotation, dtype=np.float64)
    # Bar-Itzhack (2000): the quaternion is the leading eigenvector of this symmetric matrix, at any angle.
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], 0.0, 0.0, 0.0],
            [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], 0.0, 0.0],
            [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], 0.0],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], np.trace(r)],
        ]
    )
    q = np.linalg.eigh(k)[1][:, -1]  # eigh reads the lower triangle
    x, y, z, w = q if q[3] >= 0 else -q
    return float(x), float(y), float(z), float(w)


def rotation_from_vector(vector_rad: np.ndarray) -> np.ndarray:
    """(3, 3) rotation about a vector (3,) by its length, rad (Rodrigues' formula)."""
    angle = float(np.linalg.norm(vector_rad))
    x, y, z = vector_rad
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sinc(angle / math.pi) * cross + 0.5 * np.sinc(angle / (2 * math.pi)) ** 2 * cross @ cross


def rotation_enu_from_optical(
    quaternion: Sequence[float], flu_from_optical: np.ndarray = FLU_FROM_OPTICAL_DOWN
) -> np.ndarray:
    """(3, 3) rotation of the optical frame to ENU, for `rectify`.

    quaternion: (qx, qy, qz, qw) of sensor_msgs/Imu, ENU from FLU body. flu_from_optical: the camera's mount;
    by default it looks down with the image's top forward. GeolocError for an impossible quaternion.
    """
    return rotation_from_quaternion(*quaternion) @ flu_from_optical


def body_from_optical_quaternion(quaternion: Sequence[float]) -> tuple[float, float, float, float]:
    """(qx, qy, qz, qw) of the FLU body from that of its camera, which looks down with the image's top forward."""
    qx, qy, qz, qw = optical_from_body_quaternion(quaternion)
    return -qx, -qy, -qz, -qw


def optical_from_body_quaternion(
    quaternion: Sequence[float], mount: Sequence[float] = DOWN_XYZW
) -> tuple[float, float, float, float]:
    """The camera's (qx, qy, qz, qw) from its body's. mount: quaternion, FLU from the optical frame.

    Nothing is normalised: a quaternion keeps its length.
    """
    x, y, z, w = quaternion
    a, b, c, d = mount
    return (
        w * a + x * d + y * c - z * b,
        w * b - x * c + y * d + z * a,
        w * c + x * b - y * a + z * d,
        w * d - x * a - y * b - z * c,
    )


def nadir_rotation(heading_deg: float = 0.0) -> np.ndarray:
    """(3, 3) optical frame to ENU: straight down, the image's top `heading_deg` clockwise of north."""
    if not math.isfinite(heading_deg):
        raise GeolocError(f"heading is {heading_deg}; give degrees clockwise from north")
    angle = math.radians(heading_deg)
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, -s, 0.0], [-s, -c, 0.0], [0.0, 0.0, -1.0]])


def heading_rad(rotation_enu_from_body: np.ndarray) -> float:
    """Of the nose of a FLU body, clockwise from north, rad, -pi to pi."""
    return math.atan2(rotation_enu_from_body[0, 0], rotation_enu_from_body[1, 0])


def turn_clockwise(angle_rad: float) -> np.ndarray:
    """(3, 3) rotation in ENU about up, clockwise seen from above."""
    c, s = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])


def quaternion_with_heading(quaternion: Sequence[float], heading_deg: float) -> tuple[float, float, float, float]:
    """(qx, qy, qz, qw), ENU from FLU body, turned about up until its nose has this heading, clockwise from north."""
    rotation = rotation_from_quaternion(*quaternion)
    return quaternion_from_rotation(turn_clockwise(math.radians(heading_deg) - heading_rad(rotation)) @ rotation)


def tilt_deg(rotation: np.ndarray) -> float:
    """Angle between the optical axis and straight down, degrees."""
    return math.degrees(math.acos(float(np.clip(-np.asarray(rotation)[2, 2], -1.0, 1.0))))
