# SPDX-License-Identifier: Apache-2.0
"""APE and RPE against evo on the TUM files that a report writes."""

from pathlib import Path

import numpy as np
import pytest
from evo.core.metrics import APE, RPE, PoseRelation, Unit
from evo.core.sync import associate_trajectories
from evo.core.trajectory import PoseTrajectory3D
from evo.tools.file_interface import read_tum_trajectory_file

from geoloc_ros.core.evaluation.pose_errors import statistics
from geoloc_ros.core.evaluation.scores import FrameScore, Run, score_fix, summarize
from geoloc_ros.core.geometry.geodesy import LocalEnu
from geoloc_ros.core.reporting.exports import write_tum

ORIGIN = (63.4, 10.4)


@pytest.fixture(scope="module")
def frames() -> list[FrameScore]:
    """A winding flight of 4 km with noisy fixes, a jump, and gaps, one of them at the start."""
    rng = np.random.default_rng(3)
    enu = LocalEnu(*ORIGIN)
    heading = np.cumsum(rng.normal(0.0, 0.15, 300))
    east_m, north_m = np.cumsum(rng.uniform(8.0, 18.0, 300) * np.array([np.sin(heading), np.cos(heading)]), axis=1)
    frames = []
    for index, (x, y) in enumerate(zip(east_m, north_m, strict=True)):
        off = rng.normal(0.0, 2.0, 2) + (40.0 if 150 <= index < 160 else 0.0)
        lost = index < 4 or 90 <= index < 120
        frames.append(
            score_fix(
                index=index,
                stamp_s=1_700_000_000.0 + 0.5 * index,
                truth_lat_lon_deg=enu.to_geodetic(x, y),
                lat_lon_deg=None if lost else enu.to_geodetic(x + off[0], y + off[1]),
                height_m=120.0,
            )
        )
    return frames


@pytest.fixture(scope="module")
def trajectories(
    frames: list[FrameScore], tmp_path_factory: pytest.TempPathFactory
) -> tuple[PoseTrajectory3D, PoseTrajectory3D]:
    folder = tmp_path_factory.mktemp("tum")
    write_tum(folder / "truth.tum", frames, truth=True)
    write_tum(folder / "fixes.tum", frames)
    truth, fixes = (read_tum_trajectory_file(str(folder / name)) for name in ("truth.tum", "fixes.tum"))
    assert (truth.num_poses, fixes.num_poses) == (300, 266)
    pair = associate_trajectories(truth, fixes, max_diff=1e-4)
    assert pair[0].num_poses == 266
    return pair


def close_to(figures: dict[str, float]) -> object:
    # TUM files hold micrometres, the summary too.
    return pytest.approx({name: float(value) for name, value in figures.items()}, rel=1e-5, abs=1e-5)


def test_ape_is_evos(frames: list[FrameScore], trajectories: tuple[PoseTrajectory3D, PoseTrajectory3D]) -> None:
    metric = APE(PoseRelation.translation_part)
    metric.process_data(trajectories)
    ours = summarize(Run("ours", "tracking", "", "", frames))["ape_m"]
    assert ours == close_to(metric.get_all_statistics())
    assert ours["max"] > 50.0


@pytest.mark.parametrize(
    ("step", "delta", "unit"), [("1 frame", 1, Unit.frames), ("10 m", 10.0, Unit.meters), ("100 m", 100.0, Unit.meters)]
)
def test_rpe_is_evos(
    frames: list[FrameScore],
    trajectories: tuple[PoseTrajectory3D, PoseTrajectory3D],
    step: str,
    delta: float,
    unit: Unit,
) -> None:
    metric = RPE(PoseRelation.translation_part, delta, unit, pairs_from_reference=True)
    metric.process_data(trajectories)
    ours = summarize(Run("ours", "tracking", "", "", frames))["rpe_m"][step]
    assert ours.pop("pairs") == len(metric.error)
    assert ours == close_to(metric.get_all_statistics())


def test_statistics_of_nothing_are_not_a_number() -> None:
    assert set(statistics(np.empty(0))) == set(statistics(np.ones(2)))
    assert np.isnan(list(statistics(np.empty(0)).values())).all()


def test_tum_of_a_file_without_fixes_is_empty(tmp_path: Path) -> None:
    write_tum(tmp_path / "fixes.tum", [])
    assert (tmp_path / "fixes.tum").read_text() == ""
