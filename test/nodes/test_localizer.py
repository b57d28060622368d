# SPDX-License-Identifier: Apache-2.0
"""The localizer through the graph: right fixes for good frames, clear words and no fix for bad ones."""

import dataclasses
import importlib.util
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from geoloc_ros.msg import LocalizerStatus
from geoloc_ros.srv import GetMap, SetPrior
from geometry_msgs.msg import PoseWithCovarianceStamped
from harness import CAMERA, HEIGHT_M, Rig, Scene, Spinner, assert_no_fix, call, draw_map, error_m, parameters, until
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import GetState
from nav_msgs.msg import OccupancyGrid, Odometry
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image, Imu, NavSatFix, NavSatStatus

from geoloc_models.engines.export import Sample, export
from geoloc_models.weights import FOLDER, shipped
from geoloc_ros.core.geometry.rotations import FLU_FROM_OPTICAL_DOWN
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.messages.maps import response_from_crop
from geoloc_ros.messages.reading import rgb_from_image
from geoloc_ros.messages.sensors import fix_from_position, image_from_rgb, imu_from_rotation, no_fix, time_from_seconds
from geoloc_ros.messages.stamps import seconds_from_time
from geoloc_ros.nodes import localizer_outputs


@pytest.fixture(scope="module")
def rig(map_path: Path) -> Iterator[Rig]:
    """One graph for the tests that leave it working, as each of them proves."""
    spinner, scene = Spinner(), Scene(map_path)
    yield Rig(spinner, scene, map_path)
    spinner.close()
    scene.close()


# --- good frames --------------------------------------------------------------------------------------------


def test_fixes_are_right(rig: Rig) -> None:
    odometry: list[Odometry] = []
    poses: list[PoseWithCovarianceStamped] = []
    subscriptions = [
        rig.drone.create_subscription(Odometry, "localizer/odometry", odometry.append, 10),
        rig.drone.create_subscription(PoseWithCovarianceStamped, "localizer/pose", poses.append, 10),
    ]
    rig.track()
    for _ in range(5):
        frame = rig.scene.next()
        fix, status = rig.drone.fly(frame)
        assert status.valid, status.reason
        assert fix.status.status == NavSatStatus.STATUS_FIX
        assert error_m(fix, frame.truth) < 3.0
        assert fix.header.frame_id == "base_link"
        assert fix.position_covariance_type == NavSatFix.COVARIANCE_TYPE_KNOWN
        covariance = np.array(fix.position_covariance).reshape(3, 3)
        assert np.all(np.linalg.eigvalsh(covariance) > 0)
        assert math.isnan(fix.altitude)  # nobody said how high the ground is
    assert (status.state, status.reason) == (LocalizerStatus.TRACKING, "")
    assert status.sigma_m > 0
    assert status.latency_total_ms > status.latency_network_ms > 0
    assert status.weights_id.startswith(Path(shipped("localizer")["default"]["file"]).stem)
    assert rig.drone.diagnosed("tracking") == DiagnosticStatus.OK
    until(lambda: odometry, what="odometry")
    # The map frame's origin is the first prior, the scene's middle.
    position, truth_m = (
        odometry[-1].pose.pose.position,
        rig.scene.frame.to_enu(frame.truth.lat_deg, frame.truth.lon_deg),
    )
    assert math.hypot(position.x - truth_m[0], position.y - truth_m[1]) < 3.0
    scale = 1.0 if math.isnan(status.height_scale) else status.height_scale
    assert position.z == pytest.approx(HEIGHT_M * scale)
    until(lambda: poses and poses[-1].header == odometry[-1].header, what="a pose")
    pose, covariance = poses[-1].pose, np.array(poses[-1].pose.covariance).reshape(6, 6)
    assert (poses[-1].header.frame_id, pose.pose) == ("map", odometry[-1].pose.pose)
    np.testing.assert_array_equal(covariance[:2, :2].ravel(), np.array(odometry[-1].pose.covariance)[[0, 1, 6, 7]])
    assert covariance[5, 5] == odometry[-1].pose.covariance[35]
    assert np.all(np.linalg.eigvalsh(covariance) > 0)
    q, offset_deg = pose.pose.orientation, 0.0 if math.isnan(status.height_scale) else status.heading_offset_deg
    reported = Rotation.from_matrix(frame.rotation_enu_from_optical @ FLU_FROM_OPTICAL_DOWN.T)
    turned = Rotation.from_quat([q.x, q.y, q.z, q.w]) * reported.inv()
    assert turned.as_rotvec(degrees=True) == pytest.approx([0.0, 0.0, -offset_deg], abs=1e-3)
    for subscription in subscriptions:
        rig.drone.destroy_subscription(subscription)


def test_pictures_are_drawn_for_listeners(rig: Rig) -> None:
    images: dict[str, Image] = {}
    grids: list[OccupancyGrid] = []
    topics = ("localizer/heatmap", "localizer/heatmap/overlay")
    subscriptions = [
        rig.drone.create_subscription(Image, topic, lambda m, topic=topic: images.update({topic: m}), 1)
        for topic in topics
    ]
    subscriptions.append(rig.drone.create_subscription(OccupancyGrid, "localizer/heatmap/grid", grids.append, 1))
    rig.track()
    for _ in range(10):
        frame = rig.scene.next()
        rig.drone.fly(frame)
        if len(images) == 2 and grids:
            break
    until(lambda: len(images) == 2 and grids, what="heatmap, overlay and grid")
    heatmap = rgb_from_image(images[topics[0]])
    overlay = rgb_from_image(images[topics[1]])
    assert heatmap.max() == 255
    assert overlay.shape == heatmap.shape
    # The grid's hottest cell is the vehicle's place (a level camera sees it in the middle).
    grid = grids[-1]
    data = np.array(grid.data).reshape(grid.info.height, grid.info.width)
    row, col = np.unravel_index(data.argmax(), data.shape)
    east_m = grid.info.origin.position.x + (col + 0.5) * grid.info.resolution
    north_m = grid.info.origin.position.y + (row + 0.5) * grid.info.resolution
    assert math.hypot(east_m, north_m) < 8.0  # the flight stays within 4 m of the middle
    for subscription in subscriptions:
        rig.drone.destroy_subscription(subscription)


def test_pictures_are_drawn_for_nobody_else(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []

    def noted(draw: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: (drawn.append(draw.__name__), draw(*arguments))[1]

    for module, name in (
        (localizer_outputs, "draw_overlay"),
        (localizer_outputs, "image_from_heatmap"),
        (localizer_outputs, "grid_from_heatmap"),
    ):
        monkeypatch.setattr(module, name, noted(getattr(module, name)))
    topics = ("localizer/heatmap", "localizer/heatmap/overlay", "localizer/heatmap/grid")
    until(lambda: not any(map(rig.drone.count_subscribers, topics)), what="end of earlier subscriptions")
    rig.track()
    drawn.clear()  # the last frame that was listened to may still have been in the making
    for _ in range(3):
        # A frame's images come after its status, but before the next frame's.
        assert rig.drone.fly(rig.scene.next())[1].valid
    assert drawn == []
    overlays: list[Image] = []
    subscription = rig.drone.create_subscription(Image, topics[1], overlays.append, 1)
    for _ in range(10):
        rig.drone.fly(rig.scene.next())
        if overlays:
            break
    assert set(drawn) == {"draw_overlay"}
    rig.drone.destroy_subscription(subscription)


def test_gnss_seeds_the_prior_and_the_altitude(spinner: Spinner, scene: Scene, map_path: Path) -> None:
    rig = Rig(spinner, scene, map_path)
    gnss = rig.drone.create_publisher(NavSatFix, "gnss", 5)
    until(lambda: gnss.get_subscription_count() > 0, what="gnss subscription")
    fix, status = rig.drone.fly(scene.next())
    assert_no_fix(fix, status, "no prior yet")
    stamp = time_from_seconds(scene.stamp_s + 0.4)
    lat_deg, lon_deg = scene.frame.to_geodetic(12.0, -9.0)
    gnss.publish(fix_from_position(lat_deg, lon_deg, 310.0, np.eye(2) * 25.0, 9.0, stamp, "gnss"))
    time.sleep(0.2)
    for _ in range(4):
        frame = scene.next(0.1)
        fix, status = rig.drone.fly(frame)
    assert status.valid, status.reason
    assert error_m(fix, frame.truth) < 3.0  # the 15 m of GNSS error are not in the output
    assert fix.altitude == pytest.approx(310.0, abs=0.01)
    # A jammed receiver says NO_FIX; the track goes on without it.
    gnss.publish(no_fix(stamp, "gnss"))
    _, status = rig.drone.fly(scene.next())
    assert status.valid, status.reason


def test_without_imu_the_camera_counts_as_level(spinner: Spinner, scene: Scene, map_path: Path) -> None:
    rig = Rig(spinner, scene, map_path, attitude_source="nadir", heading_deg=30.0)
    assert rig.drone.set_prior(*scene.place).success
    for _ in range(4):
        frame = scene.next(rotation_enu_from_optical=None)
        fix, status = rig.drone.fly(frame)
    assert status.valid, status.reason
    assert error_m(fix, frame.truth) < 3.0
    # An assumed attitude makes the fix less certain than a measured one: 5 degrees of 110 m are 9.6 m.
    assert fix.position_covariance[0] > 80.0


# --- bad frames ---------------------------------------------------------------------------------------------


def _truncate(image: Image) -> None:
    image.data = image.data[: len(image.data) // 2]


def _mislabel(image: Image) -> None:
    image.encoding = "infrared12"


def _nan(imu: Imu) -> None:
    imu.orientation.y = math.nan


def _zero(imu: Imu) -> None:
    imu.orientation.x = imu.orientation.y = imu.orientation.z = imu.orientation.w = 0.0


def _absent(imu: Imu) -> None:
    imu.orientation_covariance[0] = -1.0


@pytest.mark.parametrize(
    ("topic", "spoil", "reason"),
    [
        ("image", _truncate, "truncated"),
        ("image", _mislabel, "'infrared12' is not supported"),
        ("imu", _nan, "not finite"),
        ("imu", _zero, "quaternion is zero"),
        ("imu", _absent, "no orientation"),
    ],
)
def test_bad_message(rig: Rig, topic: str, spoil: Callable[[Any], None], reason: str) -> None:
    rig.track()
    rig.drone.diagnostics.clear()
    fix, status = rig.drone.fly_spoiled(rig.scene.next(), **{f"spoil_{topic}": spoil})
    assert_no_fix(fix, status, reason)
    assert rig.drone.diagnosed(reason) == DiagnosticStatus.ERROR
    _, status = rig.drone.fly(rig.scene.next())
    assert status.valid, status.reason


@pytest.mark.parametrize(
    ("height_m", "reason"), [(0.0, "must be positive"), (-20.0, "must be positive"), (math.nan, "must be positive")]
)
def test_bad_height(rig: Rig, height_m: float, reason: str) -> None:
    rig.track()
    rig.drone.diagnostics.clear()
    fix, status = rig.drone.fly(rig.scene.next(height_m=height_m))
    assert_no_fix(fix, status, reason)
    assert rig.drone.diagnosed(reason) == DiagnosticStatus.ERROR
    _, status = rig.drone.fly(rig.scene.next())
    assert status.valid, status.reason


def test_image_of_another_camera(rig: Rig) -> None:
    rig.track()
    image = np.zeros((240, 320, 3), np.uint8)
    fix, status = rig.drone.fly(rig.scene.next(image=image))
    assert_no_fix(fix, status, "image is 320x240 px, but camera_info is of 640x480")
    _, status = rig.drone.fly(rig.scene.next())
    assert status.valid, status.reason


def test_attitude_that_is_too_old(rig: Rig) -> None:
    rig.track()
    fix, status = rig.drone.fly(rig.scene.next(rotation_enu_from_optical=None))
    assert_no_fix(fix, status, f"attitude on {rig.namespace}/imu is 0.50 s away from the image, the limit is 0.2 s")
    _, status = rig.drone.fly(rig.scene.next())
    assert status.valid, status.reason


def test_prior_outside_the_map(rig: Rig) -> None:
    rig.track()
    rig.drone.diagnostics.clear()
    assert rig.drone.set_prior(10.0, 20.0).success
    fix, status = rig.drone.fly(rig.scene.next())
    assert_no_fix(fix, status, "the map does not cover 10.000")
    assert rig.drone.diagnosed("the map does not cover") == DiagnosticStatus.WARN
    rig.track()


def test_picture_of_another_place_gives_no_fix(rig: Rig) -> None:
    rig.track()
    noise = np.random.default_rng(0).integers(0, 256, (CAMERA.height, CAMERA.width, 3), dtype=np.uint8)
    fix, status = rig.drone.fly(rig.scene.next(image=noise))
    assert_no_fix(fix, status, "")
    assert status.reason
    _, status = rig.drone.fly(rig.scene.next())
    assert status.valid, status.reason


def test_stamp_of_one_image_that_is_wrong(rig: Rig) -> None:
    """0, far ahead, 3 s behind: that image is refused, and the track goes on as if it had not come."""
    rig.track()
    for stamp_s, reason in (
        (0.0, "did not stamp this image"),
        (rig.scene.stamp_s + 1000.0, "ahead of the last image's"),
        (rig.scene.stamp_s - 3.1, "behind the last image's"),
    ):
        fix, status = rig.drone.fly(dataclasses.replace(rig.scene.next(), stamp_s=stamp_s))
        assert_no_fix(fix, status, reason)
        assert status.state == LocalizerStatus.TRACKING
        rig.drone.diagnosed(reason)
        _, status = rig.drone.fly(rig.scene.next())
        assert status.valid, status.reason


def test_stamps_that_go_back(rig: Rig) -> None:
    """A camera whose clock was set stays on the new one."""
    rig.track()
    rig.drone.diagnostics.clear()
    rig.scene.stamp_s -= 100.0
    for _ in range(2):
        _, status = rig.drone.fly(rig.scene.next())
        assert "in a row mean that the camera's clock was set" in status.reason
    fix, status = rig.drone.fly(rig.scene.next())
    assert_no_fix(fix, status, "clock went back by 98.50 s")
    assert status.state == LocalizerStatus.UNINITIALIZED
    rig.drone.diagnosed("clock went back")
    rig.track()
    # An image that was overtaken on its way is dropped and disturbs nothing; DDS keeps only the newest.
    frame = rig.scene.next()
    _, before = rig.drone.fly(rig.scene.next())
    rig.drone.topics.publish(frame)
    until(lambda: rig.localizer._worker._inbox.dropped > before.dropped, what="the drop")
    _, after = rig.drone.fly(rig.scene.next())
    assert after.valid, after.reason
    assert after.dropped == before.dropped + 1


def test_prior_that_is_no_prior(rig: Rig) -> None:
    client = rig.drone.create_client(SetPrior, "localizer/set_prior")
    for request, reason in (
        (SetPrior.Request(latitude_deg=95.0, longitude_deg=20.0, radius_m=10.0), "no place on Earth"),
        (SetPrior.Request(latitude_deg=math.nan, longitude_deg=20.0, radius_m=10.0), "no place on Earth"),
        (SetPrior.Request(latitude_deg=10.0, longitude_deg=412.78, radius_m=10.0), "longitude within ±180"),
        (SetPrior.Request(latitude_deg=10.0, longitude_deg=20.0, radius_m=0.0), "radius is 0.0 m"),
        (SetPrior.Request(latitude_deg=10.0, longitude_deg=20.0, radius_m=1e9), "at most 20000 m"),
    ):
        response = call(client, request)
        assert not response.success
        assert reason in response.message


# --- load ---------------------------------------------------------------------------------------------------


def test_newest_frame_wins(rig: Rig) -> None:
    """Forty images in a burst: those in between are dropped, the last one is answered, nothing queues up."""
    rig.track()
    burst = [rig.scene.next(0.01) for _ in range(40)]
    before = rig.drone.statuses[-1]
    for frame in burst:
        rig.drone.topics.publish(frame)
        time.sleep(0.003)
    sent = time.monotonic()
    _, last = rig.drone.answer(burst[-1].stamp_s)
    processed = last.frames - before.frames
    assert time.monotonic() - sent < 2.5 * (last.latency_total_ms + 200) / 1e3
    assert processed < len(burst)
    assert last.dropped > before.dropped
    assert processed + last.dropped - before.dropped <= len(burst)
    stamps = [seconds_from_time(status.header.stamp) for status in rig.drone.statuses]
    first = stamps.index(seconds_from_time(before.header.stamp))
    assert stamps[first:] == sorted(stamps[first:])
    rig.track()


def test_memory_is_flat(rig: Rig) -> None:
    rig.track()
    frames = [rig.scene.next() for _ in range(20)]

    def fly_all() -> None:
        for frame in frames:
            rig.scene.stamp_s += 0.2
            rig.drone.fly(replace(frame, stamp_s=rig.scene.stamp_s))
            rig.drone.fixes.clear()
            rig.drone.statuses.clear()

    for _ in range(2):
        fly_all()
    before = resident_bytes()
    for _ in range(5):
        fly_all()
    # A leak of one image a frame would be 92 MB.
    assert resident_bytes() - before < 15e6


def resident_bytes() -> int:
    """Memory of this process that is in RAM."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class SlowMapServer(Node):
    """Gives its crops late, as a map on a poor network."""

    def __init__(self, path: Path, delay_s: float, namespace: str) -> None:
        super().__init__("slow_map_server", namespace=namespace)
        self._map, self._delay_s = RasterMap(path), delay_s
        self.create_service(GetMap, "get_map", self._on_get_map)

    def _on_get_map(self, request: GetMap.Request, response: GetMap.Response) -> GetMap.Response:
        time.sleep(self._delay_s)
        place = (request.latitude_deg, request.longitude_deg)
        return response_from_crop(self._map.crop(*place, request.size_m, request.size_px), response)


def test_services_answer_while_a_frame_is_in_flight(spinner: Spinner, scene: Scene, map_path: Path) -> None:
    rig = Rig(spinner, scene, map_path, map_timeout_s=5.0)
    spinner.remove(rig.map_server)
    spinner.add(SlowMapServer(map_path, 2.0, rig.namespace))
    time.sleep(0.5)
    assert rig.drone.set_prior(*scene.place).success
    state = rig.drone.create_client(GetState, "localizer/get_state")
    value = rig.drone.create_client(GetParameters, "localizer/get_parameters")
    call(state, GetState.Request())
    call(value, GetParameters.Request(names=["weights"]))
    frame = scene.next()
    rig.drone.topics.publish(frame)
    time.sleep(0.5)
    start = time.monotonic()
    assert call(state, GetState.Request()).current_state.label == "active"
    assert call(value, GetParameters.Request(names=["weights"])).values[0].string_value == "default"
    assert rig.drone.set_prior(*scene.place).success
    assert time.monotonic() - start < 1.0
    assert not rig.drone.fixes  # the frame was in flight all the while
    _, status = rig.drone.answer(frame.stamp_s)
    assert status.latency_crop_ms > 1900.0


# --- what can be wrong around it ----------------------------------------------------------------------------


def test_map_server_that_does_not_answer(spinner: Spinner, scene: Scene, map_path: Path) -> None:
    rig = Rig(spinner, scene, map_path, map_timeout_s=0.3)
    spinner.remove(rig.map_server)
    assert rig.drone.set_prior(*scene.place).success
    fix, status = rig.drone.fly(scene.next())
    assert_no_fix(fix, status, "no map server answers")
    slow = spinner.add(SlowMapServer(map_path, 1.0, rig.namespace))
    time.sleep(0.5)
    fix, status = rig.drone.fly(scene.next())
    assert_no_fix(fix, status, "did not answer within 0.3 s")
    spinner.remove(slow)
    rig.serve(map_path)
    time.sleep(0.5)
    rig.track()


@pytest.mark.parametrize("fault", ["crs", "damaged", "missing"])
def test_bad_map(spinner: Spinner, scene: Scene, map_path: Path, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "bad.tif"
    if fault == "crs":
        draw_map(path, 300, crs=None)
    elif fault == "damaged":
        path.write_bytes(map_path.read_bytes()[:200])
    rig = Rig(spinner, scene, path)
    assert rig.drone.set_prior(*scene.place).success
    fix, status = rig.drone.fly(scene.next())
    assert_no_fix(fix, status, "bad.tif")
    rig.drone.diagnosed("bad.tif")
    spinner.remove(rig.map_server)
    rig.serve(map_path)
    time.sleep(0.5)
    rig.track()


def test_no_camera_info(spinner: Spinner, scene: Scene, map_path: Path) -> None:
    rig = Rig(spinner, scene, map_path)
    assert rig.drone.set_prior(*scene.place).success
    frame = scene.next()
    stamp = time_from_seconds(frame.stamp_s)
    rotation = frame.rotation_enu_from_optical @ FLU_FROM_OPTICAL_DOWN.T
    rig.drone.imu.publish(imu_from_rotation(rotation, stamp, "base_link"))
    rig.drone.image.publish(image_from_rgb(frame.image, stamp, "camera"))
    fix, status = rig.drone.answer(frame.stamp_s)
    assert_no_fix(fix, status, "no camera_info on")
    assert rig.drone.diagnosed("no camera_info") == DiagnosticStatus.ERROR
    rig.track()


def test_damaged_weights(spinner: Spinner, scene: Scene, map_path: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes((FOLDER / shipped("localizer")["default"]["file"]).read_bytes()[:-1000])
    rig = Rig(spinner, scene, map_path, start=False, weights=str(damaged))
    assert not rig.transition(Transition.TRANSITION_CONFIGURE)
    assert rig.drone.diagnosed("damaged.safetensors are damaged") == DiagnosticStatus.ERROR
    # The node is still there: it takes the right weights and works.
    client = rig.drone.create_client(SetParameters, "localizer/set_parameters")
    (parameter,) = parameters(weights="default")
    request = SetParameters.Request(parameters=[parameter.to_parameter_msg()])
    assert call(client, request).results[0].successful
    assert rig.transition(Transition.TRANSITION_CONFIGURE)
    assert rig.transition(Transition.TRANSITION_ACTIVATE)
    until(lambda: rig.drone.topics.has_subscribers)
    rig.track()
    result = call(client, request).results[0]
    assert not result.successful
    assert "weights is read at configure" in result.reason


def test_an_exported_engine(spinner: Spinner, scene: Scene, map_path: Path, tmp_path: Path) -> None:
    chosen = {"weights": "mix_compact", "engine": "openvino-bf16", "engine_folder": str(tmp_path)}
    rig = Rig(spinner, scene, map_path, start=False, **chosen)
    assert not rig.transition(Transition.TRANSITION_CONFIGURE)
    words = "openvino-bf16 was not exported for the weights mix_compact"
    assert rig.drone.diagnosed(words) == DiagnosticStatus.ERROR
    with RasterMap(map_path) as raster:
        south, west, north, east = raster.bounds_deg
        crop = raster.crop((south + north) / 2, (west + east) / 2, 192 * 0.5, 192).image
    sample = Sample(crop[16:144, 48:176].copy(), crop, 0.5, (112.0, 80.0))
    assert not export("openvino-bf16", "mix_compact", tmp_path, [sample] * 2, "this map", "cpu").check.failure
    assert rig.transition(Transition.TRANSITION_CONFIGURE)
    assert rig.transition(Transition.TRANSITION_ACTIVATE)
    until(lambda: rig.drone.topics.has_subscribers)
    rig.track()
    _, status = rig.drone.fly(rig.scene.next())
    assert status.valid, status.reason
    assert status.device == "cpu (openvino-bf16)"


def test_transform_without_tf2(spinner: Spinner, scene: Scene, map_path: Path) -> None:
    """tf2_ros has no wheel: where it is missing, asking for it is answered in words."""
    if importlib.util.find_spec("tf2_ros") is not None:
        pytest.skip("tf2_ros is here")
    rig = Rig(spinner, scene, map_path, start=False, publish_tf=True)
    assert not rig.transition(Transition.TRANSITION_CONFIGURE)
    assert rig.drone.diagnosed("publish_tf needs tf2_ros") == DiagnosticStatus.ERROR


def test_lifecycle(spinner: Spinner, scene: Scene, map_path: Path) -> None:
    rig = Rig(spinner, scene, map_path)
    rig.track()
    assert rig.transition(Transition.TRANSITION_DEACTIVATE)
    rig.drone.fixes.clear()
    rig.drone.topics.publish(scene.next())
    refused = rig.drone.set_prior(*scene.place)
    assert not refused.success
    assert "not active" in refused.message
    time.sleep(0.5)
    assert not rig.drone.fixes
    assert rig.transition(Transition.TRANSITION_CLEANUP)
    assert rig.transition(Transition.TRANSITION_CONFIGURE)
    assert rig.transition(Transition.TRANSITION_ACTIVATE)
    until(lambda: rig.drone.topics.has_subscribers)
    time.sleep(0.3)
    rig.track()
    assert rig.transition(Transition.TRANSITION_ACTIVE_SHUTDOWN)


def test_silent_camera_is_stale(spinner: Spinner, scene: Scene, map_path: Path) -> None:
    rig = Rig(spinner, scene, map_path, image_timeout_s=0.5)
    assert rig.drone.diagnosed("no image on") == DiagnosticStatus.STALE


def test_simulated_clock_that_goes_back(spinner: Spinner, scene: Scene, map_path: Path) -> None:
    rig = Rig(spinner, scene, map_path, use_sim_time=True)
    clock = rig.drone.create_publisher(Clock, "/clock", 10)

    def tell(seconds: float) -> None:
        clock.publish(Clock(clock=time_from_seconds(seconds)))
        until(lambda: rig.localizer.get_clock().now().nanoseconds == round(seconds * 1e9), what="clock")

    until(lambda: clock.get_subscription_count() > 0)
    tell(scene.stamp_s)
    rig.track()
    tell(scene.stamp_s - 500.0)
    rig.drone.diagnosed("the clock went back by")
    scene.stamp_s -= 500.0
    fix, status = rig.drone.fly(scene.next())
    assert_no_fix(fix, status, "the clock went back by")
    assert status.state == LocalizerStatus.UNINITIALIZED
    rig.track()
