# SPDX-License-Identifier: Apache-2.0
"""The search of the whole map through the graph: found without prior, found again, and clear words where it cannot."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diagnostic_msgs.msg import DiagnosticStatus
from geoloc_ros.msg import LocalizerStatus
from harness import Rig, Scene, Spinner, assert_no_fix, call, draw_map, error_m, parameters, until
from lifecycle_msgs.msg import Transition
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import SetParameters
from sensor_msgs.msg import Image, NavSatFix
from std_srvs.srv import Trigger

from geoloc_models.ast.retriever_weights import load_retriever
from geoloc_models.training.processes import Processes
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.recording.frame import Frame
from geoloc_ros.core.relocalization.gallery_build import GalleryBuild
from geoloc_ros.messages.sensors import fix_from_position, time_from_seconds

STEP_S = 2.0
TRIES = 12  # frames that a search is given
ALONE = Processes(0, 1, torch.device("cpu"))


def build_gallery(map_path: Path, retriever: Path, out: Path) -> Path:
    """Tiles of what the camera sees."""
    with RasterMap(map_path) as source:
        network, _ = load_retriever(retriever, "cpu")
        GalleryBuild(map_path.name, source, network, out, (100.0,), 40.0).run(ALONE)
    return out


@pytest.fixture(scope="module")
def gallery(map_path: Path, small_retriever: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gallery of the drawn map."""
    return build_gallery(map_path, small_retriever, tmp_path_factory.mktemp("gallery") / "map.gallery")


@pytest.fixture
def flight(map_path: Path) -> Iterator[Scene]:
    """A camera that flies fast enough to see new ground in each frame."""
    scene = Scene(map_path, reach_m=110.0)
    yield scene
    scene.close()


def searching(small_retriever: Path, gallery: Path) -> dict[str, str]:
    """The localizer's parameters; the small network is fast enough for a test."""
    return {"weights": "mix_compact", "gallery": str(gallery), "retrieval_weights": str(small_retriever)}


def relocalize(rig: Rig) -> Trigger.Response:
    return call(rig.drone.create_client(Trigger, "localizer/relocalize"), Trigger.Request())


def search(rig: Rig) -> tuple[list[LocalizerStatus], Frame, NavSatFix]:
    """Fly until a fix; all statuses, the last frame and its fix."""
    statuses = []
    for _ in range(TRIES):
        frame = rig.scene.next(STEP_S)
        fix, status = rig.drone.fly(frame)
        statuses.append(status)
        if status.valid:
            return statuses, frame, fix
    raise AssertionError(f"not found: {[status.reason for status in statuses]}")


def test_found_without_prior_and_found_again(
    spinner: Spinner, flight: Scene, map_path: Path, small_retriever: Path, gallery: Path
) -> None:
    rig = Rig(spinner, flight, map_path, **searching(small_retriever, gallery))
    odometry: list[Odometry] = []
    sheets: list[Image] = []
    rig.drone.create_subscription(Odometry, "localizer/odometry", odometry.append, 10)
    rig.drone.create_subscription(Image, "localizer/heatmap/overlay", sheets.append, 10)
    for _ in range(2):
        statuses, frame, fix = search(rig)
        assert error_m(fix, frame.truth) < 5.0
        for status in statuses[:-1]:
            assert status.state in (LocalizerStatus.LOST, LocalizerStatus.RELOCALIZING)
            assert status.reason.startswith(("lost", "searching"))
        found = statuses[-1]
        assert (found.state, found.reason) == (LocalizerStatus.TRACKING, "")
        assert 1 < found.crops <= 8  # crops; less where they would reach beyond the map
        assert found.latency_retrieve_ms > 0
        winner = found.candidates[0]
        winner_m = flight.frame.to_enu(winner.latitude_deg, winner.longitude_deg)
        truth_m = flight.frame.to_enu(frame.truth.lat_deg, frame.truth.lon_deg)
        assert np.hypot(winner_m[0] - truth_m[0], winner_m[1] - truth_m[1]) < 10.0
        odds = np.array([candidate.log_odds for candidate in found.candidates])
        assert list(odds) == sorted(odds, reverse=True)
        assert np.exp(odds[0]) > 1000.0
        assert winner.frames >= 3
        assert all(-1.0 <= candidate.similarity <= 1.0 for candidate in found.candidates)
        assert all(math.isfinite(candidate.heading_deg) for candidate in found.candidates)
        _, status = rig.drone.fly(rig.scene.next(0.5))
        assert status.valid, status.reason
        assert len(status.candidates) == 0
        assert np.isnan(status.latency_retrieve_ms)
        response = relocalize(rig)
        assert response.success, response.message
    # The sheet of candidates has a size of its own. Without prior the first fix is the map frame's origin.
    until(lambda: any((sheet.width, sheet.height) == (768, 512) for sheet in list(sheets)), what="a sheet")
    until(lambda: odometry, what="odometry")
    place = odometry[0].pose.pose.position
    assert np.hypot(place.x, place.y) < 10.0
    # A valid gnss ends a search as it ends being lost.
    gnss = rig.drone.create_publisher(NavSatFix, "gnss", 5)
    until(lambda: gnss.get_subscription_count() > 0, what="gnss subscription")
    frame = flight.next(STEP_S)
    stamp = time_from_seconds(flight.stamp_s)
    place_deg = (frame.truth.lat_deg, frame.truth.lon_deg)
    gnss.publish(fix_from_position(*place_deg, 310.0, np.eye(2) * 25.0, 9.0, stamp, "gnss"))
    time.sleep(0.3)
    _, status = rig.drone.fly(frame)
    assert status.reason.startswith("confirming: 1 of 3")
    assert len(status.candidates) == 0


def test_gallery_of_another_map(
    spinner: Spinner, flight: Scene, map_path: Path, small_retriever: Path, tmp_path: Path
) -> None:
    """No search, and the reason in status and diagnostics; priors still work."""
    other = draw_map(tmp_path / "other.tif", seed=6)
    gallery = build_gallery(other, small_retriever, tmp_path / "other.gallery")
    rig = Rig(spinner, flight, map_path, map_timeout_s=1.0, **searching(small_retriever, gallery))
    for _ in range(2):
        fix, status = rig.drone.fly(flight.next(STEP_S))
        assert_no_fix(fix, status, "is of another map than this one, other.tif")
        assert status.state == LocalizerStatus.LOST
        assert status.crops == 0
    assert rig.drone.diagnosed("is of another map") == DiagnosticStatus.ERROR
    rig.track()
    # The map server comes back with the right map.
    spinner.remove(rig.map_server)
    assert relocalize(rig).success
    fix, status = rig.drone.fly(flight.next(STEP_S))
    assert_no_fix(fix, status, "the map cannot be compared with its gallery: no map server answers")
    server = rig.serve(other)

    def searched() -> bool:
        _, status = rig.drone.fly(flight.next(STEP_S))
        return bool(status.crops > 0)

    until(searched, what="a search")
    # Without a map server a frame waits for one crop, not for each of its eight.
    spinner.remove(server)
    fix, status = rig.drone.fly(flight.next(STEP_S))
    assert_no_fix(fix, status, "lost: no map: ")
    assert status.latency_total_ms < 5000.0


def test_without_a_gallery_relocalize_says_what_to_do(spinner: Spinner, flight: Scene, map_path: Path) -> None:
    rig = Rig(spinner, flight, map_path, weights="mix_compact")
    response = relocalize(rig)
    assert not response.success
    assert "geoloc gallery build" in response.message
    assert "~/set_prior" in response.message
    assert rig.transition(Transition.TRANSITION_DEACTIVATE)
    assert "activate it first" in relocalize(rig).message


def test_gallery_that_does_not_fit(
    spinner: Spinner, flight: Scene, map_path: Path, small_retriever: Path, gallery: Path, tmp_path: Path
) -> None:
    """FAILURE at configure with the reason, and the node lives on."""
    cut = tmp_path / "cut.gallery"
    cut.write_bytes(gallery.read_bytes()[:-1000])
    renamed = tmp_path / "renamed.gallery"
    renamed.write_bytes(gallery.read_bytes().replace(b"small-", b"large-"))
    rig = Rig(spinner, flight, map_path, start=False, **searching(small_retriever, tmp_path / "absent"))
    client = rig.drone.create_client(SetParameters, "localizer/set_parameters")
    for path, reason in (
        (tmp_path / "absent", "cannot read gallery"),
        (cut, "is truncated"),
        (renamed, "was made with the weights large-"),
    ):
        (parameter,) = parameters(gallery=str(path))
        request = SetParameters.Request(parameters=[parameter.to_parameter_msg()])
        assert call(client, request).results[0].successful
        assert not rig.transition(Transition.TRANSITION_CONFIGURE)
        assert rig.drone.diagnosed(reason) == DiagnosticStatus.ERROR
    (parameter,) = parameters(gallery="")
    request = SetParameters.Request(parameters=[parameter.to_parameter_msg()])
    assert call(client, request).results[0].successful
    assert rig.transition(Transition.TRANSITION_CONFIGURE)
