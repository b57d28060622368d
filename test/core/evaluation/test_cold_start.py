# SPDX-License-Identifier: Apache-2.0
"""Cold starts and kidnaps: what is staged is what the docs say, and the commands score it with real networks."""

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from geoloc_models.errors import GeolocError
from geoloc_ros.cli.main import main
from geoloc_ros.core.bags.bag import Bag
from geoloc_ros.core.bags.bag_writer import write_bag
from geoloc_ros.core.evaluation.cold_start import Start, summarize_starts
from geoloc_ros.core.evaluation.kidnap import BLANK_S, MOVED_M, WRONG_PRIOR_M, Kidnap, kidnapped, times_to_relocalize_s
from geoloc_ros.core.geometry.camera import CameraModel
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.geometry.rotations import nadir_rotation
from geoloc_ros.core.recording.flight_folder import Flight, write_flight
from geoloc_ros.core.recording.frame import Frame, Truth

HOME = LocalEnu(48.0, 9.0)
CAMERA = CameraModel(8, 8, np.array([[8.0, 0, 4], [0, 8.0, 4], [0, 0, 1]]))


def straight_flight(folder: Path, frames: int, speed_m_s: float) -> Flight:
    """Due east, two frames a second."""
    picture = np.full((8, 8, 3), 90, np.uint8)
    picture[:4] = 200

    def seen(index: int) -> Frame:
        place = HOME.to_geodetic(0.5 * index * speed_m_s, 0.0)
        return Frame(picture, 0.5 * index, nadir_rotation(), 100.0, CAMERA, Truth(*place, 100.0))

    write_flight(folder, CAMERA, map(seen, range(frames)))
    return Flight.open(folder)


def test_a_bag_is_kidnapped_as_its_flight_is(tmp_path: Path) -> None:
    """Frames are reached by their number in either."""
    flight = straight_flight(tmp_path / "flight", 240, 10.0)
    write_bag(tmp_path / "bag", flight)
    steps, events = kidnapped(flight, seed=3)
    bag_steps, bag_events = kidnapped(Bag(tmp_path / "bag"), seed=3)
    assert events == bag_events
    for mine, theirs in zip(steps, bag_steps, strict=True):
        assert (mine.truth, mine.prior, mine.frame.stamp_s) == (theirs.truth, theirs.prior, theirs.frame.stamp_s)
        np.testing.assert_array_equal(mine.frame.image, theirs.frame.image)


def test_a_kidnapped_vehicle_is_blind_then_elsewhere_then_misled(tmp_path: Path) -> None:
    flight = straight_flight(tmp_path / "flight", 240, 10.0)
    steps, events = kidnapped(flight, seed=3)
    shown = list(steps)
    stamps = np.array([step.frame.stamp_s for step in shown])
    np.testing.assert_allclose(np.diff(stamps), 0.5)  # the clock tells nothing
    black = np.array([step.frame.image is not None and not step.frame.image.any() for step in shown])
    assert black.sum() * 0.5 == BLANK_S
    assert (np.flatnonzero(black) == np.arange(80, 120)).all()
    east = np.array([HOME.to_enu(step.truth.lat_deg, step.truth.lon_deg)[0] for step in shown])
    jump = east[120] - east[79]
    assert MOVED_M <= jump < MOVED_M + 5.01
    assert events[0].stamp_s == stamps[120]
    told = [step for step in shown if step.prior is not None]
    assert len(told) == 1 and told[0].prior is not None
    off = LocalEnu(told[0].truth.lat_deg, told[0].truth.lon_deg).to_enu(*told[0].prior[:2])
    assert math.hypot(*off) == pytest.approx(WRONG_PRIOR_M, abs=0.01)
    assert events[1].stamp_s == told[0].frame.stamp_s


@pytest.mark.parametrize(("frames", "speed_m_s"), [(60, 10.0), (240, 1.0)], ids=["short", "slow"])
def test_a_flight_that_cannot_be_kidnapped_is_refused(tmp_path: Path, frames: int, speed_m_s: float) -> None:
    with pytest.raises(GeolocError, match="needs a longer flight"):
        kidnapped(straight_flight(tmp_path / "flight", frames, speed_m_s), seed=0)


def test_times_count_from_each_event_to_its_next_fix() -> None:
    events = [Kidnap("a", 10.0), Kidnap("b", 20.0), Kidnap("c", 30.0)]
    stamps = [0.0, 10.0, 12.5, 19.0, 20.0, 25.0, 30.0, 33.0]
    fixed = [True, False, True, True, False, False, False, True]
    times = times_to_relocalize_s(events, stamps, fixed)
    assert times[0] == 2.5 and math.isnan(times[1]) and times[2] == 3.0


def test_a_fix_of_another_place_is_wrong_and_not_found() -> None:
    starts = [
        Start(0, 4, 1.5, 3.0, 9.0, "", [100.0] * 4, (48.0, 9.0)),
        Start(5, 6, 2.5, 5.0, 9.0, "", [200.0] * 6, (48.0, 9.0)),
        Start(9, 3, 1.0, 400.0, 9.0, "", [300.0] * 3, (48.0, 9.0)),
        Start(12, None, math.nan, math.nan, 1.0, "lost", [100.0] * 10, (48.0, 9.0)),
    ]
    figures = summarize_starts(starts, 10)
    assert (figures["starts"], figures["found"], figures["wrong"]) == (4, 2, 1)
    assert (figures["frames_median"], figures["frames_max"], figures["median_error_m"]) == (5.0, 6, 4.0)
    assert summarize_starts(starts[3:], 10)["median_error_m"] is None


def test_evaluate_cold_start_and_gallery_errors(
    small_flight: Path, small_retriever: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole command with networks that ship, and a retriever drawn at random."""
    gallery = ["--retrieval-weights", str(small_retriever), "--gallery", str(tmp_path / "map.gallery")]
    command = ["evaluate", str(small_flight), "--cold-start", "--weights", "mix_compact", *gallery]
    assert main(command) == 2
    assert "geoloc gallery build MAP" in capsys.readouterr().err
    build = ["gallery", "build", str(small_flight / "map.tif"), "--weights", str(small_retriever)]
    assert main([*build, "--tile-m", "50", "--stride-m", "40", "--out", str(tmp_path / "map.gallery")]) == 0
    outputs = ["--json", str(tmp_path / "starts.json"), "--starts", "2", "--start-frames", "9"]
    outputs += ["--out", str(tmp_path / "drawn")]
    assert main([*command, *outputs]) == 0
    figures = json.loads((tmp_path / "starts.json").read_text())
    assert (figures["starts"], figures["wrong"]) == (2, 0)
    assert figures["found"] == sum(each["frames"] is not None for each in figures["each"])
    assert figures["found"] >= 1
    assert figures["median_error_m"] < 5.0
    assert cv2.imread(str(tmp_path / "drawn" / "starts.png")).shape[0] > 800
    assert len(list((tmp_path / "drawn").glob("start_*.jpg"))) == 2
    capsys.readouterr()
    for wrong, words in (
        (["--kidnap"], "choose one"),
        (["--starts", "0"], "1 or more"),
        (["--start-frames", "99"], "lower --start-frames"),
    ):
        assert main([*command, *wrong]) == 2
        error = capsys.readouterr().err.strip()
        assert words in error and len(error.splitlines()) == 1
