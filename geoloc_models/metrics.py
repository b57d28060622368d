# SPDX-License-Identifier: Apache-2.0
"""How good positions are: distances, MA@K, RDS, SDM (DRL paper, section IV), and covariance consistency.

All functions take arrays or scalars, compute in float64 and know nothing of images or networks. A prediction
that does not exist is NaN; it counts as a miss, never as "not there".
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

EARTH_RADIUS_M = 6_378_137.0
"""The radius behind published UL14 numbers: the equator's, so 1 degree of latitude is 111,319.49 m."""

MA_DISTANCES_M = (3, 5, 10, 20, 50)
"""The distances of short tables."""
MA_ALL_DISTANCES_M = (1, 3, 5, 10, 20, 30, 50, 100)
"""All distances that the paper's tables use."""

FALSE_FIX_SIGMA = 3.0
FALSE_FIX_DISTANCE_M = 20.0

Floats = NDArray[np.float64]


def haversine_m(lat_a_deg: ArrayLike, lon_a_deg: ArrayLike, lat_b_deg: ArrayLike, lon_b_deg: ArrayLike) -> Floats:
    """Great-circle distance in metres between points a and b (degrees; shapes broadcast)."""
    lat_a, lon_a, lat_b, lon_b = (
        np.radians(np.asarray(value, dtype=np.float64)) for value in (lat_a_deg, lon_a_deg, lat_b_deg, lon_b_deg)
    )
    chord = np.sin((lat_b - lat_a) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_b - lon_a) / 2) ** 2
    # Rounding can push the chord of two antipodes over 1.
    return 2 * EARTH_RADIUS_M * np.arcsin(np.sqrt(np.clip(chord, 0.0, 1.0)))


def ma_at_k(errors_m: ArrayLike, k_m: float) -> float:
    """Metre-level accuracy: share of all samples with an error of at most `k_m` metres; NaN is a miss."""
    errors = np.asarray(errors_m, dtype=np.float64).ravel()
    return float(np.mean(errors <= k_m)) if errors.size else float("nan")


def relative_distance_scores(
    predicted_px: ArrayLike,
    label_px: ArrayLike,
    map_size_px: tuple[float, float] = (384.0, 384.0),
    truncate_label: bool = True,
) -> Floats:
    """RDS of each sample, (N,) in 0..1, from (N, 2) map pixels (x, y) and the map's (width, height).

    exp(-10 sqrt(((dx/w)^2 + (dy/h)^2) / 2)). The published evaluation cuts labels to whole pixels, which is
    the default here; `truncate_label=False` scores the exact label. A NaN prediction scores 0.
    """
    predicted = np.asarray(predicted_px, dtype=np.float64).reshape(-1, 2)
    label = np.asarray(label_px, dtype=np.float64).reshape(-1, 2)
    if truncate_label:
        label = np.trunc(label)
    relative = (predicted - label) / np.asarray(map_size_px, dtype=np.float64)
    return np.nan_to_num(np.exp(-10.0 * np.sqrt(np.mean(relative**2, axis=1))), nan=0.0)


def rds(
    predicted_px: ArrayLike,
    label_px: ArrayLike,
    map_size_px: tuple[float, float] = (384.0, 384.0),
    truncate_label: bool = True,
) -> float:
    """Relative distance score of a set: the mean of `relative_distance_scores`."""
    scores = relative_distance_scores(predicted_px, label_px, map_size_px, truncate_label)
    return float(np.mean(scores)) if scores.size else float("nan")


def sdm(lat_a_deg: ArrayLike, lon_a_deg: ArrayLike, lat_b_deg: ArrayLike, lon_b_deg: ArrayLike) -> float:
    """SDM@1 of DenseUAV: mean of exp(-5000 d), d the plain euclidean distance in degrees; NaN scores 0."""
    d_lat = np.asarray(lat_a_deg, dtype=np.float64) - np.asarray(lat_b_deg, dtype=np.float64)
    d_lon = np.asarray(lon_a_deg, dtype=np.float64) - np.asarray(lon_b_deg, dtype=np.float64)
    scores = np.nan_to_num(np.exp(-5000.0 * np.hypot(d_lat, d_lon)), nan=0.0)
    return float(np.mean(scores)) if scores.size else float("nan")


def sdm_at_k(lat_deg: float, lon_deg: float, ranked_lat_deg: ArrayLike, ranked_lon_deg: ArrayLike, k: int) -> float:
    """SDM@K of one query, as DenseUAV defines it: the best k of a ranked gallery, earlier ranks weighing more.

    ranked: (N,) degrees, best first; with fewer than k the list is as long as it is.
    """
    lats, lons = (np.asarray(values, dtype=np.float64)[:k] for values in (ranked_lat_deg, ranked_lon_deg))
    weights = np.arange(len(lats), 0, -1, dtype=np.float64)
    scores = np.exp(-5000.0 * np.hypot(lats - lat_deg, lons - lon_deg))
    return float(weights @ scores / weights.sum())


def nees(errors_m: ArrayLike, covariances_m2: ArrayLike) -> Floats:
    """Normalised estimation error squared e' P^-1 e, (N,), of (N, 2) errors and (N, 2, 2) covariances.

    A calibrated 2-D covariance has a mean NEES of 2. A covariance that cannot be inverted gives infinity: it
    claims certainty in some direction. NaN errors stay NaN.
    """
    errors = np.asarray(errors_m, dtype=np.float64).reshape(-1, 2)
    covariances = np.asarray(covariances_m2, dtype=np.float64).reshape(-1, 2, 2)
    a, b, d = covariances[:, 0, 0], (covariances[:, 0, 1] + covariances[:, 1, 0]) / 2, covariances[:, 1, 1]
    determinant = a * d - b * b
    with np.errstate(divide="ignore", invalid="ignore"):
        squared = (d * errors[:, 0] ** 2 - 2 * b * errors[:, 0] * errors[:, 1] + a * errors[:, 1] ** 2) / determinant
    return np.where((determinant <= 0) | (a <= 0), np.where(np.isnan(errors).any(axis=1), np.nan, np.inf), squared)


def sigma_coverage(nees_values: ArrayLike, sigma: float = 2.0) -> float:
    """Share of truths inside the `sigma` ellipse (NEES <= sigma^2); in 2-D a Gaussian has 0.865 at 2."""
    values = np.asarray(nees_values, dtype=np.float64).ravel()
    return float(np.mean(values <= sigma**2)) if values.size else float("nan")


def is_false_fix(errors_m: ArrayLike, nees_values: ArrayLike) -> NDArray[np.bool_]:
    """Which fixes mislead: truth outside the 3 sigma ellipse and more than 20 m off, elementwise."""
    errors = np.asarray(errors_m, dtype=np.float64)
    return (errors > FALSE_FIX_DISTANCE_M) & (np.asarray(nees_values, dtype=np.float64) > FALSE_FIX_SIGMA**2)
