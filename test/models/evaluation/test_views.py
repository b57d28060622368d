# SPDX-License-Identifier: Apache-2.0
"""The pair protocol: labels are where the view really is, draws repeat, and nothing of training leaks in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from geoloc_models.datasets.image_pairs import ImagePair, calibrates, is_held_out, list_pairs
from geoloc_models.drl.alignment import Alignment
from geoloc_models.drl.heatmap import Heatmap
from geoloc_models.engines import Engine, EngineSpec, Placement
from geoloc_models.errors import GeolocError
from geoloc_models.evaluation.view_sets import HeldOutPairs, PairProtocol, PairSample, draw_sample
from geoloc_models.evaluation.views import PairScores, evaluate_set, fit_to_engine


class Finder(Engine):
    """An engine that finds the centroid of what is red, and notes what it was given."""

    spec = EngineSpec("red", "cpu", query_px=96, map_multiple_px=16, gsd_range_m=(0.2, 2.0))

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def infer(self, query: np.ndarray, search_map: np.ndarray) -> Heatmap:
        self.shapes.append((query.shape[0], search_map.shape[0]))
        x, y = red_centroid(search_map)
        flat = np.full((2, 2), 0.25, np.float32)
        return Heatmap(flat, float(search_map.shape[0]), (x, y), np.eye(2), 1.0, 2.0)


def red_centroid(image: np.ndarray) -> tuple[float, float]:
    """Pixel-edge (x, y) of the centre of mass of what is clearly red."""
    weight = np.clip(image[..., 0].astype(float) - image[..., 1] - 20, 0, None)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    return float((x * weight).sum() / weight.sum()), float((y * weight).sum() / weight.sum())


@pytest.fixture(scope="module")
def held_out_names() -> list[str]:
    names = [f"test1_1_istrain_True_{index}_0_0" for index in range(200, 260)]
    return [name for name in names if is_held_out(name)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, held_out_names: list[str]) -> Path:
    """Grey pairs of 512 px at 0.5 m with a red blob at the same place of both dates; and training pairs."""
    root = tmp_path_factory.mktemp("data")
    for index in range(200, 260):
        name = f"test1_1_istrain_True_{index}_0_0"
        image = np.full((512, 512, 3), 90, np.uint8)
        if name in held_out_names:
            cv2.circle(image, (256, 256), 7, (30, 30, 230), -1)  # BGR; centre at pixel-edge 256.5
        for date in "AB":
            folder = root / "pairs" / "levir" / date
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{name}.png"), image)
    return root


def drawn(data: Path, protocol: PairProtocol, source: str = "levir") -> list[PairSample]:
    """All samples of a set that could be drawn."""
    chosen = HeldOutPairs(data, source, protocol)
    return [sample for sample in map(chosen.draw, range(len(chosen))) if sample is not None]


def evaluate_pairs(data: Path, protocol: PairProtocol, engines: Any, **options: Any) -> list[PairScores]:
    return evaluate_set(HeldOutPairs(data, "levir", protocol), engines, **options)


def test_only_held_out_scenes_in_both_directions(data: Path, held_out_names: list[str]) -> None:
    chosen = HeldOutPairs(data, "levir", PairProtocol()).chosen
    assert sorted(pair.name for pair, _, _ in chosen) == sorted(2 * held_out_names)
    assert sum(swapped for _, swapped, _ in chosen) == len(held_out_names)


def test_limit_takes_the_same_samples_first(data: Path) -> None:
    full = HeldOutPairs(data, "levir", PairProtocol(seed=3), views=2)
    few = HeldOutPairs(data, "levir", PairProtocol(seed=3, limit=4), views=2)
    assert [pair.name for pair, *_ in few.chosen] == [pair.name for pair, *_ in full.chosen[:4]]
    assert len(full) == 2 * len(HeldOutPairs(data, "levir", PairProtocol(seed=3)))


def test_the_two_parts_share_no_scene_and_leave_none_out(data: Path) -> None:
    parts = {
        part: {pair.name for pair, *_ in HeldOutPairs(data, "levir", PairProtocol(part=part)).chosen}
        for part in ("all", "calibration", "judging")
    }
    assert parts["calibration"] and parts["judging"]
    assert not parts["calibration"] & parts["judging"]
    assert parts["calibration"] | parts["judging"] == parts["all"]
    assert {name for name in parts["all"] if calibrates(name)} == parts["calibration"]


def test_views_of_one_pair_lie_at_different_places(data: Path) -> None:
    both = HeldOutPairs(data, "levir", PairProtocol(), views=2)
    first, second = (both.draw(index) for index in (0, len(both) // 2))
    assert first is not None and second is not None
    assert second.name == f"{first.name} 1"
    assert first.target_xy_px != second.target_xy_px


def test_label_is_the_ground_point_at_the_views_centre(data: Path) -> None:
    """A view without errors shows the blob where the label and the blob's place in the map say."""
    protocol = PairProtocol(attitude_deg=0.0, height_percent=0.0, view_m=110.0)
    seen = 0
    for sample in drawn(data, protocol):
        assert sample.query.shape == (220, 220, 3)
        assert sample.search_map.shape == (400, 400, 3)
        in_map, in_view = red_centroid(sample.search_map), np.full(2, np.nan)
        if sample.query[..., 0].max() > 200:
            in_view = np.array(red_centroid(sample.query))
        offset = in_view - 110.0
        if np.abs(offset).max() < 95:  # the whole blob is in the view
            np.testing.assert_allclose(np.array(sample.target_xy_px) + offset, in_map, atol=0.1)
            seen += 1
    assert seen >= 3


def test_offsets_fill_the_allowed_range_and_maps_stay_inside(data: Path) -> None:
    offsets = []
    for seed in range(200, 260):
        (sample,) = drawn(data, PairProtocol(seed=seed, limit=1))
        offsets.append((np.array(sample.target_xy_px) - 200) / 400)
        # Nothing but the image's own grey and red: no fill from outside.
        assert np.unique(sample.search_map[..., 2]).max() <= 90
    assert 0.38 < np.abs(offsets).max() <= 0.425
    assert abs(np.mean(offsets)) < 0.08


def test_attitude_errors_stay_centred_on_the_label() -> None:
    """The principal ray hits the label whatever the attitude: the blob stays at the view's centre."""
    from geoloc_models.datasets.homography import render_view

    image = np.full((512, 512, 3), 90, np.uint8)
    cv2.circle(image, (256, 256), 6, (230, 30, 30), -1)
    view = render_view(image, (256.5, 256.5), 140, 140, *np.deg2rad([6.0, -6.0, 6.0]), scale=1.07)
    np.testing.assert_allclose(red_centroid(view), (70, 70), atol=0.3)


def test_fit_keeps_one_scale_and_one_centre() -> None:
    sample = PairSample("", np.zeros((140, 140, 3), np.uint8), np.zeros((400, 400, 3), np.uint8), 0.5, (1.0, 2.0))
    sample.query[:] = sample.search_map[0, 0]
    cv2.circle(sample.query, (90, 40), 8, (255, 0, 0), -1)
    cv2.circle(sample.search_map, (290, 340), 8, (255, 0, 0), -1)
    query, search_map, ratio = fit_to_engine(sample, Finder())
    assert query.shape == (96, 96, 3)
    assert search_map.shape == (272, 272, 3)
    assert ratio == 400 / 272
    np.testing.assert_allclose(np.array(red_centroid(search_map)) * ratio, (290.5, 340.5), atol=0.1)
    np.testing.assert_allclose((np.array(red_centroid(query)) - 48) * ratio + 70, (90.5, 40.5), atol=0.1)


def test_errors_are_in_metres_for_every_way_of_feeding(data: Path) -> None:
    protocol = PairProtocol(limit=8)
    small, full = Finder(), Finder()
    scores = evaluate_pairs(data, protocol, {"small": small, "full": full}, native=frozenset({"full"}))
    expected = []
    for sample in drawn(data, protocol):
        off = np.array(red_centroid(sample.search_map)) - sample.target_xy_px
        expected.append(0.5 * float(np.hypot(*off)))
    np.testing.assert_allclose(scores[1].column("error_m"), expected, rtol=1e-6)
    np.testing.assert_allclose(scores[0].column("error_m"), expected, atol=0.15)
    assert set(small.shapes) == {(96, 272)}
    assert set(full.shapes) == {(140, 400)}
    figures: dict[str, Any] = scores[1].summary()
    assert figures["samples"] == 8
    assert figures["ma"]["50"] == pytest.approx(np.mean(np.array(expected) <= 50))


def test_what_cannot_be_drawn_is_counted(data: Path) -> None:
    class Gaps(HeldOutPairs):
        def draw(self, index: int) -> PairSample | None:
            return None if index % 2 else super().draw(index)

    (score,) = evaluate_set(Gaps(data, "levir", PairProtocol(limit=5)), {"red": Finder()})
    figures = score.summary()
    assert (figures["samples"], figures["skipped"]) == (3, 2)


def test_draws_repeat(data: Path) -> None:
    runs = [evaluate_pairs(data, PairProtocol(limit=5, seed=9), {"red": Finder()}) for _ in range(2)]
    assert runs[0][0].column("error_m").tolist() == runs[1][0].column("error_m").tolist()
    other = evaluate_pairs(data, PairProtocol(limit=5, seed=10), {"red": Finder()})
    assert other[0].column("error_m").tolist() != runs[0][0].column("error_m").tolist()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"crop_m": 400.0}, "--crop-m"),
        ({"view_m": 300.0}, "--view-m"),
        ({"attitude_deg": 90.0}, "degrees"),
        ({"limit": 0}, "at least 1"),
    ],
)
def test_mistakes_are_said_in_words(data: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(GeolocError, match=words):
        HeldOutPairs(data, "levir", PairProtocol(**settings))
    with pytest.raises(GeolocError, match="mars"):
        HeldOutPairs(data, "mars", PairProtocol())


def test_real_pairs_of_both_kinds_draw(shared_data: Path) -> None:
    assert drawn(shared_data, PairProtocol(limit=6))
    assert drawn(shared_data, PairProtocol(crop_m=70.0, view_m=25.0, limit=6), "srif")
    assert len(list_pairs(shared_data, "levir", held_out=True)) > 50


@pytest.mark.parametrize("swapped", [False, True])
def test_true_heading_and_scale_bring_a_view_into_register(
    tmp_path: Path, swapped: bool, likeness: Callable[..., float]
) -> None:
    """Also where the images of the two dates differ in scale and direction."""
    rng = np.random.default_rng(3)
    coarse = rng.uniform(0, 255, (40, 40, 3)).astype(np.float32)
    first = np.clip(cv2.resize(coarse, (600, 600), interpolation=cv2.INTER_CUBIC), 0, 255).astype(np.uint8)
    turn = cv2.getRotationMatrix2D((300, 300), 4.0, 1.1)
    cv2.imwrite(str(tmp_path / "a.png"), first)
    cv2.imwrite(str(tmp_path / "b.png"), cv2.warpAffine(first, turn, (600, 600), borderMode=cv2.BORDER_REFLECT))
    pair = ImagePair("pair", "levir", tmp_path / "a.png", tmp_path / "b.png", 0.5, turn)
    signs = set()
    for seed in range(6):
        protocol = PairProtocol(crop_m=150.0, attitude_deg=0.0, seed=seed, stress="both")
        sample = draw_sample(pair, swapped, 0, protocol)
        assert sample is not None
        assert abs(sample.heading_deg) == pytest.approx(10.0)
        assert min(abs(sample.scale - 0.8), abs(sample.scale - 1.2)) < 1e-9
        true = likeness(sample, sample.heading_deg, sample.scale)
        assert true > 0.93
        others = [(-sample.heading_deg, sample.scale), (sample.heading_deg, 1 / sample.scale), (0.0, 1.0)]
        assert max(likeness(sample, *other) for other in others) < true - 0.1
        signs.add((sample.heading_deg > 0, sample.scale > 1))
    assert len(signs) > 1


class Aligner(Finder):
    """Knows the place, and states the pose, the confidence and the covariance that it is given."""

    def __init__(self, pose: tuple[float, float] | None, clear: tuple[float, float], sigma_px: float) -> None:
        super().__init__()
        self.pose, self.clear, self.sigma_px = pose, clear, sigma_px

    def place(self, query: np.ndarray, search_map: np.ndarray) -> Placement:
        found = self.infer(query, search_map)
        heatmap = Heatmap(found.probability, found.stride_px, (0.0, 0.0), self.sigma_px**2 * np.eye(2), *self.clear)
        if self.pose is None:
            return Placement(heatmap)
        covariance = np.diag([self.sigma_px**2] * 2 + [np.nan] * 4)
        turn_rad, log_scale = np.deg2rad(self.pose[0]), float(np.log(self.pose[1]))
        return Placement(
            heatmap, Alignment(found.peak_xy_px, turn_rad, log_scale, (0.0, 0.0), covariance, support=1.0, evidence=9.0)
        )


def test_placements_are_scored_by_their_own_place_covariance_and_pose(data: Path) -> None:
    protocol = PairProtocol(limit=6, stress="both")
    engines = {
        "right way": Aligner((10.0, 1.2), (0.9, 4.0), 2.0),
        "half a turn": Aligner((-179.0, 1.0), (0.79, 4.0), 200.0),
        "alone": Aligner(None, (0.9, 2.9), 2.0),
        "plain": Finder(),
    }
    scores = dict(zip(engines, evaluate_pairs(data, protocol, engines, native=frozenset(engines)), strict=True))
    samples = drawn(data, protocol)
    blobs = np.array([red_centroid(sample.search_map) for sample in samples])
    targets = np.array([sample.target_xy_px for sample in samples])
    off_px = np.hypot(*(blobs - targets).T)
    aligned, turned, alone = (scores[name] for name in ("right way", "half a turn", "alone"))
    np.testing.assert_allclose(aligned.column("error_m"), 0.5 * off_px)
    np.testing.assert_allclose(aligned.column("nees"), off_px**2 / 4.0)
    np.testing.assert_allclose(alone.column("error_m"), 0.5 * np.hypot(*targets.T))  # the heatmap's peak
    np.testing.assert_allclose(aligned.column("sigma_m"), 1.0)
    # By hand: the pose that is stated against each sample's.
    headings = [0.0 if sample.heading_deg > 0 else 20.0 for sample in samples]
    scales = [0.0 if sample.scale > 1 else 50.0 for sample in samples]
    np.testing.assert_allclose(aligned.column("heading_error_deg"), headings, atol=1e-9)
    np.testing.assert_allclose(aligned.column("scale_error_percent"), scales, atol=1e-9)
    wrapped = [171.0 if sample.heading_deg > 0 else 169.0 for sample in samples]
    np.testing.assert_allclose(turned.column("heading_error_deg"), wrapped)
    assert np.isnan(alone.column("heading_error_deg")).all() and np.isnan(alone.column("scale_error_percent")).all()
    # Gates: peak and ratio must both do.
    assert [scores[name].samples[0].valid for name in engines] == [1, 0, 0, 0]
    false = [error > 20 and nees > 9 for error, nees in zip(0.5 * off_px, off_px**2 / 4, strict=True)]
    assert aligned.column("false_fix").tolist() == false and any(false)
    assert turned.column("false_fix").sum() == 0
    figures = aligned.summary()
    assert figures["false_fixes"] == sum(false)
    assert figures["valid"] == 1.0
    assert figures["heading_error_median_deg"] == pytest.approx(np.median(headings), abs=1e-6)
    assert figures["nees_per_dof_valid"]["mean"] == pytest.approx(np.mean(off_px**2 / 8), rel=1e-6)
    assert figures["nees_per_dof_valid"]["median"] == pytest.approx(np.median(off_px**2 / 8), rel=1e-6)
    assert figures["coverage_2sigma_valid"] == pytest.approx(np.mean(off_px**2 / 4 <= 4), abs=1e-6)
    figures = alone.summary()
    assert figures["heading_error_median_deg"] is None and figures["nees_per_dof_valid"]["mean"] is None


def test_a_far_answer_without_covariance_is_a_false_fix(data: Path) -> None:
    (score,) = evaluate_pairs(data, PairProtocol(limit=6), {"sure": Aligner((0.0, 1.0), (1.0, 9.0), np.nan)})
    far = score.column("error_m") > 20.0
    assert far.any() and score.column("false_fix").tolist() == far.tolist()
    figures = score.summary()
    assert figures["nees_median"] is None and figures["coverage_2sigma_valid"] is None
