# SPDX-License-Identifier: Apache-2.0
"""Camera model and rectification against OpenCV's projection and SciPy's rotations."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from geoloc_models.errors import GeolocError
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.rectify import MAX_TILT_DEG, footprint_m, rectify
from geoloc_ros.core.geometry.rotations import (
    nadir_rotation,
    quaternion_from_rotation,
    rotation_enu_from_optical,
    rotation_from_quaternion,
    tilt_deg,
)

MATRIX = np.array([[610.0, 0.0, 478.0], [0.0, 605.0, 275.0], [0.0, 0.0, 1.0]])
LENSES = {
    "pinhole": ((), "plumb_bob"),
    "plumb_bob": ((-0.25, 0.07, 0.001, -0.002, -0.01), "plumb_bob"),
    "rational_polynomial": ((0.3, 0.1, 0.001, -0.001, 0.02, 0.6, 0.2, 0.05), "rational_polynomial"),
    "equidistant": ((0.02, -0.01, 0.004, -0.001), "equidistant"),
}
ATTITUDES = {
    "level": nadir_rotation(0.0),
    "heading": nadir_rotation(70.0),
    "tilted": Rotation.from_euler("ZXY", [-130.0, 12.0, -8.0], degrees=True).as_matrix() @ nadir_rotation(),
}


def camera_with(lens: str) -> CameraModel:
    distortion, model = LENSES[lens]
    return CameraModel(960, 540, MATRIX, distortion, model)


def opencv_pixels(camera: CameraModel, optical: np.ndarray) -> np.ndarray:
    """(n, 3) points in the optical frame to (n, 2) pixels, by OpenCV."""
    points = optical.reshape(-1, 1, 3)
    if camera.model == "equidistant":
        distortion = np.array(camera.distortion)
        pixels, _ = cv2.fisheye.projectPoints(points, np.zeros(3), np.zeros(3), camera.matrix, distortion)
    else:
        distortion = np.array(camera.distortion or (0.0,) * 4)
        pixels, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), camera.matrix, distortion)
    return pixels.reshape(-1, 2)


@pytest.mark.parametrize("lens", LENSES)
def test_projection_agrees_with_opencv(lens: str) -> None:
    camera = camera_with(lens)
    plane = np.random.default_rng(0).uniform([-0.8, -0.45], [0.8, 0.45], (500, 2))
    expected = opencv_pixels(camera, np.column_stack([plane, np.ones(500)]))
    np.testing.assert_allclose(np.column_stack(camera.project(*plane.T)), expected, atol=1e-6)
    np.testing.assert_allclose(camera.undistort(expected), plane, atol=1e-9)


@pytest.mark.parametrize("attitude", ATTITUDES)
@pytest.mark.parametrize("lens", LENSES)
def test_landmarks_appear_where_they_are(lens: str, attitude: str) -> None:
    """Bright spots at known ground points, painted by OpenCV's projection, are found at the right pixel."""
    camera, rotation, height_m, gsd_m, size_px = camera_with(lens), ATTITUDES[attitude], 120.0, 0.5, 128
    image = np.zeros((540, 960, 3), np.uint8)
    blank = rectify(image, camera, rotation, height_m, gsd_m, size_px)
    assert blank.coverage == 1.0
    for east_m, north_m in [(0.0, 0.0), (18.3, 9.1), (-21.7, 14.2), (11.4, -23.6), (-25.0, -25.0)]:
        ground = np.array([[*(np.add(blank.centre_offset_enu_m, (east_m, north_m))), -height_m]])
        u, v = opencv_pixels(camera, ground @ rotation)[0]
        scene = image.copy()
        cv2.circle(scene, (round(u * 16), round(v * 16)), 96, (255, 255, 255), -1, cv2.LINE_AA, shift=4)
        view = rectify(scene, camera, rotation, height_m, gsd_m, size_px)
        weight = view.image[..., 0].astype(float)
        rows, cols = np.indices(weight.shape) + 0.5
        found = ((cols * weight).sum() / weight.sum(), (rows * weight).sum() / weight.sum())
        assert found == pytest.approx((64 + east_m / gsd_m, 64 - north_m / gsd_m), abs=0.3)


@pytest.mark.parametrize("lens", LENSES)
def test_view_is_centred_on_the_ground_point_of_the_picture_centre(lens: str) -> None:
    camera, rotation = camera_with(lens), ATTITUDES["tilted"]
    view = rectify(np.zeros((540, 960, 3), np.uint8), camera, rotation, 100.0, 0.5, 64)
    ground = np.array([[*view.centre_offset_enu_m, -100.0]])
    np.testing.assert_allclose(opencv_pixels(camera, ground @ rotation)[0], [479.5, 269.5], atol=1e-3)


def test_heading_turns_the_picture_to_north_up() -> None:
    camera = camera_with("pinhole")
    image = np.zeros((540, 960, 3), np.uint8)
    image[:250] = 255  # the upper half, which is forward
    east = rectify(image, camera, nadir_rotation(90.0), 100.0, 0.5, 64).image[..., 0]
    assert (east[:, 3].mean(), east[:, 60].mean()) == (0, 255)
    north = rectify(image, camera, nadir_rotation(0.0), 100.0, 0.5, 64).image[..., 0]
    assert (north[3].mean(), north[60].mean()) == (255, 0)


def test_imu_attitude_of_a_camera_that_looks_down_nose_up() -> None:
    # An identity quaternion means the nose points east and the image's top with it.
    np.testing.assert_allclose(rotation_enu_from_optical((0, 0, 0, 1)), nadir_rotation(90.0), atol=1e-12)
    yaw_north = Rotation.from_euler("z", 90.0, degrees=True).as_quat()
    np.testing.assert_allclose(rotation_enu_from_optical(yaw_north), nadir_rotation(0.0), atol=1e-12)
    # Nose up by 10 degrees (negative pitch in FLU) moves the optical axis forward, here to the east.
    pitched = rotation_enu_from_optical(Rotation.from_euler("y", -10.0, degrees=True).as_quat())
    np.testing.assert_allclose(pitched[:, 2], [math.sin(math.radians(10)), 0, -math.cos(math.radians(10))])
    assert tilt_deg(pitched) == pytest.approx(10.0)


def test_quaternions_agree_with_scipy() -> None:
    for rotation in Rotation.random(200, rng=np.random.default_rng(3)):
        q = rotation.as_quat()
        np.testing.assert_allclose(rotation_from_quaternion(*(3.0 * q)), rotation.as_matrix(), atol=1e-12)
        back = quaternion_from_rotation(rotation.as_matrix())
        np.testing.assert_allclose(back, q if q[3] >= 0 else -q, atol=1e-9)


def test_a_finer_picture_is_averaged_not_skipped() -> None:
    camera = CameraModel(1280, 960, np.array([[900.0, 0, 640], [0, 900, 480], [0, 0, 1]]))
    image = np.indices((960, 1280)).sum(axis=0)[..., None].repeat(3, axis=2) % 2 * 255
    view = rectify(image.astype(np.uint8), camera, nadir_rotation(20.0), 120.0, 0.6, 128)
    # Bilinear sampling alone would show the checkerboard as a strong moiré pattern.
    assert view.image.mean() == pytest.approx(127.5, abs=1.0)
    assert view.image.std() < 2.0


@pytest.mark.parametrize("attitude", ATTITUDES)
@pytest.mark.parametrize("lens", LENSES)
def test_footprint_is_the_largest_square_seen_whole(lens: str, attitude: str) -> None:
    camera, rotation = camera_with(lens), ATTITUDES[attitude]
    side_m = footprint_m(camera, rotation, 80.0)
    image = np.zeros((540, 960, 3), np.uint8)
    assert rectify(image, camera, rotation, 80.0, side_m * 0.998 / 400, 400).coverage == 1.0
    assert rectify(image, camera, rotation, 80.0, side_m * 1.01 / 400, 400).coverage < 1.0


@pytest.mark.parametrize("lens", LENSES)
def test_nothing_outside_the_picture_counts_as_seen(lens: str) -> None:
    """Far out, a distortion polynomial maps back into the image; coverage must be that of the outline."""
    camera, rotation = camera_with(lens), ATTITUDES["tilted"]
    view = rectify(np.full((540, 960, 3), 200, np.uint8), camera, rotation, 100.0, 4.0, 200)
    assert np.all(view.image == 200)
    side = np.linspace(0, 1, 200)
    outline = np.concatenate(
        [
            np.column_stack([side * 960, side * 0]),
            np.column_stack([side * 0 + 960, side * 540]),
            np.column_stack([960 - side * 960, side * 0 + 540]),
            np.column_stack([side * 0, 540 - side * 540]),
        ]
    )
    plane = camera.undistort(outline - 0.5)
    rays = np.column_stack([plane, np.ones(len(plane))]) @ rotation.T
    ground = rays[:, :2] / -rays[:, 2:] * 100.0
    area_m2 = cv2.contourArea(ground.astype(np.float32))
    assert view.coverage * 800.0**2 == pytest.approx(area_m2, rel=0.03)


def test_unseen_pixels_take_the_mean_colour_of_the_seen_ones() -> None:
    camera = camera_with("pinhole")
    image = np.empty((540, 960, 3), np.uint8)
    image[:, :480], image[:, 480:] = (200, 0, 50), (100, 40, 50)
    view = rectify(image, camera, nadir_rotation(), 100.0, 1.6, 128)
    assert 0.2 < view.coverage < 0.6
    np.testing.assert_allclose(view.image[0, 0], [150, 20, 50], atol=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height_m": 0.0}, "height above ground is 0.0 m"),
        ({"height_m": float("nan")}, "height above ground is nan"),
        ({"rotation": np.full((3, 3), np.nan)}, "attitude is not finite"),
        ({"rotation": 2 * np.eye(3)}, "no rotation matrix"),
        ({"rotation": np.eye(3)}, "tilted 180°.*limit is 60°"),
        ({"gsd_m": 0.0}, "ground sample distance is 0.0"),
        ({"image": np.zeros((540, 959, 3), np.uint8)}, "camera model says 540x960"),
    ],
)
def test_impossible_input_is_refused_with_the_reason(change: dict, message: str) -> None:
    values = {
        "image": np.zeros((540, 960, 3), np.uint8),
        "rotation": nadir_rotation(),
        "height_m": 100.0,
        "gsd_m": 0.5,
        **change,
    }
    with pytest.raises(GeolocError, match=message):
        rectify(values["image"], camera_with("pinhole"), values["rotation"], values["height_m"], values["gsd_m"], 64)


def test_tilt_limit() -> None:
    def tilted(angle_deg: float) -> np.ndarray:
        return Rotation.from_euler("x", angle_deg, degrees=True).as_matrix() @ nadir_rotation()

    camera, image = camera_with("pinhole"), np.zeros((540, 960, 3), np.uint8)
    rectify(image, camera, tilted(MAX_TILT_DEG - 1), 100.0, 0.5, 64)
    with pytest.raises(GeolocError, match="tilted 61°"):
        footprint_m(camera, tilted(MAX_TILT_DEG + 1), 100.0)


@pytest.mark.parametrize("q", [(0, 0, 0, 0), (float("nan"), 0, 0, 1)])
def test_impossible_quaternion_is_refused(q: tuple[float, float, float, float]) -> None:
    with pytest.raises(GeolocError, match="quaternion"):
        rotation_from_quaternion(*q)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "camera size is 0x540"),
        ({"matrix": np.zeros((3, 3))}, "focal lengths are 0 and 0"),
        ({"matrix": np.full((3, 3), np.inf)}, "finite"),
        ({"model": "double_sphere"}, "'double_sphere' is not supported"),
        ({"distortion": (0.1, 0.2)}, "4 or 5 distortion coefficients, not 2"),
        ({"distortion": (0.1,) * 5, "model": "equidistant"}, "equidistant takes 4"),
        ({"distortion": (float("nan"),) * 5}, "finite"),
    ],
)
def test_impossible_camera_is_refused(change: dict, message: str) -> None:
    with pytest.raises(GeolocError, match=message):
        CameraModel(**{"width": 960, "height": 540, "matrix": MATRIX, **change})


@pytest.mark.parametrize("lens", LENSES)
def test_camera_file_round_trip(lens: str, tmp_path: Path) -> None:
    camera = camera_with(lens)
    camera.to_yaml(tmp_path / "camera.yaml")
    back = CameraModel.from_yaml(tmp_path / "camera.yaml")
    np.testing.assert_array_equal(back.matrix, camera.matrix)
    assert (back.width, back.height, back.distortion, back.model) == (960, 540, camera.distortion, camera.model)


def test_cameras_are_equal_by_value() -> None:
    assert camera_with("plumb_bob") == camera_with("plumb_bob")
    assert hash(camera_with("plumb_bob")) == hash(camera_with("plumb_bob"))
    assert camera_with("plumb_bob") != camera_with("pinhole")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("width: 960\nheight: 540\nfx: 1\nfy: 1\ncx: 0", "lacks 'cy'"),
        ("width: [", "not YAML"),
        ("just text", "wrong type"),
        ("width: 960\nheight: 540\nfx: wide\nfy: 1\ncx: 0\ncy: 0", "wide"),
    ],
)
def test_bad_camera_file_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "camera.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(GeolocError, match=message):
        CameraModel.from_yaml(path)


def test_zeros_at_the_end_of_the_coefficients_change_nothing() -> None:
    """Drivers fill up the list; a term that is not zero belongs to another model."""
    k = (-0.25, 0.07, 0.001, -0.002, -0.01)
    assert CameraModel(960, 540, MATRIX, (*k, 0.0, 0.0, 0.0)) == CameraModel(960, 540, MATRIX, k)
    rational = (*k, 0.1, 0.0, 0.0)
    filled = CameraModel(960, 540, MATRIX, (*rational, *(0.0,) * 6), "rational_polynomial")
    assert filled.distortion == rational
    with pytest.raises(GeolocError, match="not 6"):
        CameraModel(960, 540, MATRIX, (*k, 0.2, 0.0))


@pytest.mark.parametrize("k2", [0.0, 0.02])
def test_lens_whose_corners_lie_beyond_its_polynomial(k2: float) -> None:
    """r (1 - 0.3 r² + k2 r⁴) turns round before the corners: they stay at the edge, on their own side."""
    camera = CameraModel(960, 540, MATRIX, (-0.3, k2, 0.0005, -0.0005, 0.0))
    corners = np.array([[0.0, 0.0], [959.0, 0.0], [959.0, 539.0], [0.0, 539.0]])
    plane = camera.undistort(corners)
    pinhole = (corners - MATRIX[:2, 2]) / [MATRIX[0, 0], MATRIX[1, 1]]
    np.testing.assert_allclose(np.arctan2(*plane.T), np.arctan2(*pinhole.T), atol=0.02)
    reach = 1 / math.sqrt(0.9) if k2 == 0.0 else camera.reach
    np.testing.assert_allclose(np.hypot(*plane.T), reach, rtol=0.01)
    image = np.zeros((540, 960, 3), np.uint8)
    side_m = footprint_m(camera, nadir_rotation(), 100.0)
    assert rectify(image, camera, nadir_rotation(), 100.0, side_m * 0.99 / 300, 300).coverage == 1.0
    assert rectify(image, camera, nadir_rotation(), 100.0, side_m * 1.02 / 300, 300).coverage < 1.0
