# SPDX-License-Identifier: Apache-2.0
"""Metrics against naive float64 loops and numbers known beforehand."""

import math

import numpy as np
import pytest

from geoloc_models import metrics


def test_one_degree_of_latitude() -> None:
    assert float(metrics.haversine_m(30.0, 120.0, 31.0, 120.0)) == pytest.approx(111_319.49, abs=0.01)
    assert float(metrics.haversine_m(0.0, 0.0, 0.0, 180.0)) == pytest.approx(math.pi * 6_378_137.0)


def test_haversine_equals_the_spherical_law_of_cosines() -> None:
    rng = np.random.default_rng(1)
    lat_a, lat_b = rng.uniform(-89, 89, (2, 50))
    lon_a, lon_b = rng.uniform(-180, 180, (2, 50))
    for i, distance_m in enumerate(metrics.haversine_m(lat_a, lon_a, lat_b, lon_b)):
        p, q = math.radians(lat_a[i]), math.radians(lat_b[i])
        cosine = math.sin(p) * math.sin(q) + math.cos(p) * math.cos(q) * math.cos(math.radians(lon_a[i] - lon_b[i]))
        assert distance_m == pytest.approx(6_378_137.0 * math.acos(cosine), rel=1e-9)


def test_ma_counts_the_limit_itself_and_missing_predictions() -> None:
    errors = [0.0, 4.999, 5.0, 5.001, float("nan"), float("inf")]
    assert metrics.ma_at_k(errors, 5) == pytest.approx(3 / 6)
    assert metrics.ma_at_k(errors, 1e9) == pytest.approx(4 / 6)
    assert math.isnan(metrics.ma_at_k([], 5))


def test_rds_oracles() -> None:
    assert metrics.rds([[100, 200]], [[100, 200]]) == 1.0
    # A tenth of the map off in both axes.
    assert metrics.rds([[0, 0]], [[40, 30]], map_size_px=(400, 300)) == pytest.approx(math.exp(-1))
    assert metrics.rds([[math.nan, 3.0]], [[3, 3]]) == 0.0


@pytest.mark.parametrize("truncate", [True, False])
def test_rds_equals_a_naive_loop(truncate: bool) -> None:
    rng = np.random.default_rng(2)
    predicted, label = rng.uniform(0, 384, (2, 40, 2))
    total = 0.0
    for (px, py), (lx, ly) in zip(predicted, label, strict=True):
        if truncate:
            lx, ly = int(lx), int(ly)
        total += math.exp(-10 * math.sqrt((((px - lx) / 384) ** 2 + ((py - ly) / 384) ** 2) / 2))
    assert metrics.rds(predicted, label, truncate_label=truncate) == pytest.approx(total / 40, rel=1e-12)


def test_sdm_of_a_ranking_weighs_early_ranks_more() -> None:
    lats, lons = [30.0003, 30.0, 30.1, 30.0], [120.0004, 120.0, 120.0, 120.0]
    first, second = math.exp(-5000 * 0.0005), 1.0
    assert metrics.sdm_at_k(30.0, 120.0, lats, lons, 1) == pytest.approx(first, rel=1e-6)
    expected = (3 * first + 2 * second + 1 * 0.0) / 6
    assert metrics.sdm_at_k(30.0, 120.0, lats, lons, 3) == pytest.approx(expected, rel=1e-6)
    # Fewer than K in the gallery: what there is.
    assert metrics.sdm_at_k(30.0, 120.0, lats[1:2], lons[1:2], 5) == 1.0


def test_sdm() -> None:
    assert metrics.sdm(30.0, 120.0, 30.0, 120.0) == 1.0
    assert metrics.sdm([30.0, math.nan], [120.0, 0.0], [30.0003, 0.0], [120.0004, 0.0]) == pytest.approx(
        math.exp(-5000 * 0.0005) / 2
    )


def test_nees_equals_the_solved_system_and_has_the_right_mean() -> None:
    rng = np.random.default_rng(3)
    factor = rng.normal(size=(4000, 2, 2))
    covariances = factor @ factor.transpose(0, 2, 1) + 0.1 * np.eye(2)
    errors = np.stack([rng.multivariate_normal([0, 0], covariance) for covariance in covariances])
    values = metrics.nees(errors, covariances)
    for i in range(20):
        assert values[i] == pytest.approx(errors[i] @ np.linalg.solve(covariances[i], errors[i]), rel=1e-9)
    assert values.mean() == pytest.approx(2.0, abs=0.15)
    assert metrics.sigma_coverage(values) == pytest.approx(1 - math.exp(-2), abs=0.02)


def test_nees_of_impossible_covariances() -> None:
    singular = [[1.0, 1.0], [1.0, 1.0]]
    assert metrics.nees([[1.0, 0.0]], [singular])[0] == np.inf
    assert np.isnan(metrics.nees([[math.nan, 0.0]], [np.eye(2)])[0])
    assert metrics.sigma_coverage([math.nan, 1.0, math.inf, 4.0]) == 0.5


def test_false_fix_needs_both_conditions() -> None:
    errors = [25.0, 25.0, 19.0, 20.0, math.nan]
    values = [10.0, 8.9, 100.0, 100.0, math.nan]
    assert metrics.is_false_fix(errors, values).tolist() == [True, False, False, False, False]
