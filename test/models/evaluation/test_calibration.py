# SPDX-License-Identifier: Apache-2.0
"""Figures of calibration against loops over samples and against what is known of made-up engines."""

import numpy as np
import pytest

from geoloc_models.errors import GeolocError
from geoloc_models.evaluation.calibration import (
    BINS,
    Answer,
    calibration_of,
    expected_calibration_error,
    fit_temperature,
    peak_calibration,
    reliability,
    risk_coverage,
    wilson_interval,
)


@pytest.fixture(scope="module")
def draws() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    stated = rng.uniform(0, 1, 4000)
    return stated, rng.uniform(0, 1, 4000) < stated


def test_calibration_error_equals_the_loop(draws: tuple[np.ndarray, np.ndarray]) -> None:
    stated, right = draws[0][:300] ** 2, draws[1][:300]
    total = 0.0
    for number in range(BINS):
        low, high = number / BINS, (number + 1) / BINS
        inside = [i for i in range(300) if low <= stated[i] < high or (number == BINS - 1 and stated[i] == 1)]
        if inside:
            mean_stated = sum(stated[i] for i in inside) / len(inside)
            mean_right = sum(bool(right[i]) for i in inside) / len(inside)
            total += len(inside) / 300 * abs(mean_stated - mean_right)
    assert expected_calibration_error(stated, right) == pytest.approx(total, abs=1e-12)


def test_an_honest_engine_and_a_boaster(draws: tuple[np.ndarray, np.ndarray]) -> None:
    stated, right = draws
    assert expected_calibration_error(stated, right) < 0.03
    assert expected_calibration_error(np.full(4000, 0.95), right) == pytest.approx(0.95 - right.mean(), abs=1e-9)
    rows = reliability(stated, right)
    assert len(rows) == BINS and sum(row["samples"] for row in rows) == 4000
    assert all(abs(row["stated"] - row["true"]) < 0.08 for row in rows)


def test_risk_coverage_equals_sorting_by_hand() -> None:
    kept, accuracy = risk_coverage([0.9, 0.2, 0.9, 0.5], [True, True, False, True])
    np.testing.assert_allclose(kept, [0.25, 0.5, 0.75, 1.0])
    # The wrong one of the two equally certain ones comes first.
    np.testing.assert_allclose(accuracy, [0.0, 0.5, 2 / 3, 0.75])


@pytest.mark.parametrize("share", [0.5, 0.9, 0.95])
def test_interval_holds_the_true_share_as_often_as_it_says(share: float) -> None:
    hits = np.random.default_rng(1).binomial(120, share, 3000)
    held = [low <= share <= high for low, high in (wilson_interval(int(n), 120) for n in hits)]
    assert np.mean(held) == pytest.approx(0.95, abs=0.025)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(50, 50)[1] == 1.0


def test_summary_counts_what_it_says() -> None:
    figures = calibration_of([0.9, 0.8, 0.1, 0.3], [1.0, 9.9, 10.1, 400.0], [0.5, 4.0, 4.1, np.inf])
    assert figures["coverage_2sigma"] == 0.5
    low, high = figures["coverage_2sigma_95"]
    assert low < 0.5 < high
    by_share = {row["share"]: row for row in figures["kept"]}
    assert by_share[0.5]["right"] == 1.0
    assert by_share[0.5]["min_peak"] == 0.8
    assert by_share[1.0]["right"] == 0.5
    assert figures["mean_peak"] == pytest.approx(0.525)


def _answers(sharpness: float, count: int = 400) -> list[Answer]:
    """Posteriors over four far places that are true as drawn, with their logits multiplied by `sharpness`."""
    rng = np.random.default_rng(6)
    places = [(4, 4), (4, 24), (24, 4), (24, 24)]
    answers = []
    for _ in range(count):
        shares = rng.dirichlet(np.full(4, 0.6))
        probability = np.full((29, 29), 1e-9)
        for (row, col), share in zip(places, shares, strict=True):
            probability[row, col] += share
        row, col = places[rng.choice(4, p=shares)]
        logits = (np.log(probability) * sharpness).astype(np.float32)
        answers.append(Answer(logits, 4.0, (4.0 * col, 4.0 * row), 0.5))
    return answers


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.0])
def test_temperature_undoes_what_made_the_posterior_dishonest(sharpness: float) -> None:
    answers = _answers(sharpness)
    assert fit_temperature(answers) == pytest.approx(sharpness, rel=0.15)
    error, coverage = peak_calibration(answers, sharpness)
    assert error < 0.06
    assert coverage > 0.9
    if sharpness != 1.0:
        assert peak_calibration(answers, 1.0)[0] > 1.5 * error


def test_nothing_to_calibrate_on_is_said() -> None:
    with pytest.raises(GeolocError, match="no answers"):
        fit_temperature([])
