# SPDX-License-Identifier: Apache-2.0
"""Calibration: how well an engine's confidence matches its errors.

Two claims are checked against the truth. The covariance claims that the truth lies within its 2 sigma ellipse. The
peak claims a probability that the answer is right, which here means within RIGHT_WITHIN_M of the truth.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geoloc_models import metrics
from geoloc_models.drl.heatmap import Heatmap, heatmap_from_logits
from geoloc_models.errors import GeolocError

RIGHT_WITHIN_M = 10.0
"""An answer this near the truth is right: the peak's probability is calibrated to that."""

BINS = 10
"""Bins of equal width over the stated probability, the usual number for an expected calibration error."""

KEPT_SHARES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)


def wilson_interval(hits: int, total: int) -> tuple[float, float]:
    """95 % confidence interval of a share of which `hits` of `total` were seen (Wilson, 1927)."""
    if total == 0:
        return 0.0, 1.0
    z2 = 1.959963984540054**2
    share = hits / total
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    reach = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * total)) / total) / (1 + z2 / total)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def reliability(stated: ArrayLike, right: ArrayLike) -> list[dict[str, float]]:
    """What was stated and what was true in each bin that holds samples: `stated`, `true` (means) and `samples`.

    stated: (N,) probabilities 0..1; right: (N,) booleans. A probability on a border belongs to the bin above it.
    """
    probabilities = np.asarray(stated, dtype=np.float64).ravel()
    truths = np.asarray(right, dtype=bool).ravel()
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    return [
        {
            "stated": float(probabilities[bins == number].mean()),
            "true": float(truths[bins == number].mean()),
            "samples": int((bins == number).sum()),
        }
        for number in np.unique(bins)
    ]


def expected_calibration_error(stated: ArrayLike, right: ArrayLike) -> float:
    """Mean distance of stated from true shares over the bins, weighted by their samples; 0 is calibrated."""
    bins = reliability(stated, right)
    total = sum(row["samples"] for row in bins)
    return sum(row["samples"] * abs(row["stated"] - row["true"]) for row in bins) / total


def risk_coverage(stated: ArrayLike, right: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(kept, accuracy), each (N,): share of right answers among the most certain 1/N, 2/N, ... 1 of all.

    Of equally certain answers the wrong ones count as kept first, so that the curve is never optimistic.
    """
    probabilities = np.asarray(stated, dtype=np.float64).ravel()
    truths = np.asarray(right, dtype=bool).ravel()
    order = np.lexsort((truths, -probabilities))
    counts = np.arange(1, truths.size + 1)
    return counts / truths.size, np.cumsum(truths[order]) / counts


def calibration_of(peaks: ArrayLike, errors_m: ArrayLike, nees: ArrayLike) -> dict[str, Any]:
    """2 sigma coverage with its 95 % interval, calibration error, and accuracy of the most certain answers."""
    inside = np.asarray(nees, dtype=np.float64) <= 4.0
    right = np.asarray(errors_m, dtype=np.float64) <= RIGHT_WITHIN_M
    kept, accuracy = risk_coverage(peaks, right)
    shares = {share: max(1, round(share * right.size)) - 1 for share in KEPT_SHARES}
    sorted_peaks = np.sort(np.asarray(peaks, dtype=np.float64))[::-1]
    return {
        "coverage_2sigma": round(metrics.sigma_coverage(nees), 6),
        "coverage_2sigma_95": [round(v, 6) for v in wilson_interval(int(inside.sum()), inside.size)],
        "right_within_m": RIGHT_WITHIN_M,
        "calibration_error": round(expected_calibration_error(peaks, right), 6),
        "mean_peak": round(float(np.mean(sorted_peaks)), 6),
        "kept": [
            {
                "share": round(float(kept[last]), 6),
                "min_peak": round(float(sorted_peaks[last]), 6),
                "right": round(float(accuracy[last]), 6),
            }
            for last in shares.values()
        ],
        "reliability": reliability(peaks, right),
    }


@dataclass(frozen=True)
class Answer:
    """A network's logits (R, C) over a map with stride_px between nodes, the true (x, y) on it and its m per pixel."""

    logits: NDArray[np.float32]
    stride_px: float
    target_xy_px: tuple[float, float]
    gsd_m: float

    def heatmap(self, temperature: float) -> Heatmap:
        """The network's posterior under a temperature."""
        return heatmap_from_logits(self.logits, self.stride_px, temperature)

    def off_px(self, heatmap: Heatmap) -> NDArray[np.float64]:
        """(x, y) of the heatmap's place relative to the truth."""
        return np.asarray(heatmap.peak_xy_px, np.float64) - self.target_xy_px


TEMPERATURES = np.geomspace(0.3, 3.0, 47)


def fit_temperature(answers: Sequence[Answer]) -> float:
    """The temperature under which the peaks are likeliest, as probabilities of being right within RIGHT_WITHIN_M.

    GeolocError without answers.
    """
    if not answers:
        raise GeolocError("no answers to calibrate on: give held-out places, or a larger --limit")
    losses = []
    for temperature in TEMPERATURES:
        stated, right = _stated_and_right(answers, float(temperature))
        kept = np.clip(stated, 1e-3, 1 - 1e-3)
        losses.append(-float(np.mean(np.log(np.where(right, kept, 1 - kept)))))
    return float(TEMPERATURES[int(np.argmin(losses))])


def peak_calibration(answers: Sequence[Answer], temperature: float) -> tuple[float, float]:
    """(expected calibration error, share of truths within 2 sigma) under a temperature."""
    stated, right = _stated_and_right(answers, temperature)
    inside = []
    for answer in answers:
        heatmap = answer.heatmap(temperature)
        off = answer.off_px(heatmap)
        inside.append(metrics.nees(off[None], heatmap.covariance_px[None])[0])
    return expected_calibration_error(stated, right), metrics.sigma_coverage(inside)


def _stated_and_right(answers: Sequence[Answer], temperature: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    heatmaps = [answer.heatmap(temperature) for answer in answers]
    errors_m = [
        float(np.hypot(*answer.off_px(heatmap))) * answer.gsd_m
        for answer, heatmap in zip(answers, heatmaps, strict=True)
    ]
    return np.array([heatmap.peak for heatmap in heatmaps]), np.array(errors_m) <= RIGHT_WITHIN_M
