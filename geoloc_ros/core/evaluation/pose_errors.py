# SPDX-License-Identifier: Apache-2.0
"""Absolute and relative position errors (APE, RPE) in metres without alignment, in the words of `evo`.

Sturm et al. 2012, "A benchmark for the evaluation of RGB-D SLAM systems", section IV, for positions without attitude.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RPE_FRAMES = (1,)
RPE_DISTANCES_M = (10, 100)
"""Steps of the relative error: fixes, and metres along the truth."""


def statistics(errors_m: Floats) -> dict[str, float]:
    """rmse, mean, median, std (of the population), min, max and sse of (N,) errors; all NaN without any."""
    if not errors_m.size:
        return dict.fromkeys(("rmse", "mean", "median", "std", "min", "max", "sse"), float("nan"))
    squared = float(np.sum(errors_m**2))
    return {
        "rmse": float(np.sqrt(squared / errors_m.size)),
        "mean": float(errors_m.mean()),
        "median": float(np.median(errors_m)),
        "std": float(errors_m.std()),
        "min": float(errors_m.min()),
        "max": float(errors_m.max()),
        "sse": squared,
    }


def absolute_errors_m(truth_enu_m: Floats, fixes_enu_m: Floats) -> Floats:
    """(N,) distances of fixes from the truth, both (N, 2) in one east-north frame."""
    return np.asarray(np.linalg.norm(fixes_enu_m - truth_enu_m, axis=1))


def relative_errors_m(truth_enu_m: Floats, fixes_enu_m: Floats, ends: Sequence[int]) -> Floats:
    """(len(ends) - 1,) lengths of what the displacement between the fixes `ends` differs from the truth's by."""
    off = (fixes_enu_m - truth_enu_m)[np.asarray(ends, dtype=int)]
    return np.asarray(np.linalg.norm(np.diff(off, axis=0), axis=1))


def step_ends(truth_enu_m: Floats, distance_m: float) -> list[int]:
    """Where consecutive steps of at least `distance_m` along the (N, 2) truth end, the first place included."""
    if not len(truth_enu_m):
        return []
    ends, travelled_m = [0], 0.0
    for index, step_m in enumerate(np.linalg.norm(np.diff(truth_enu_m, axis=0), axis=1), start=1):
        travelled_m += float(step_m)
        if travelled_m >= distance_m:
            ends.append(index)
            travelled_m = 0.0
    return ends


def relative_statistics(truth_enu_m: Floats, fixes_enu_m: Floats) -> dict[str, dict[str, float]]:
    """`statistics` with the number of "pairs", by step: "1 frame", "10 m", ..."""
    steps: dict[str, Sequence[int]] = {
        f"{count} frame{'s' if count > 1 else ''}": range(0, len(truth_enu_m), count) for count in RPE_FRAMES
    }
    steps |= {f"{distance} m": step_ends(truth_enu_m, distance) for distance in RPE_DISTANCES_M}
    result = {}
    for name, ends in steps.items():
        errors = relative_errors_m(truth_enu_m, fixes_enu_m, ends) if len(ends) > 1 else np.empty(0)
        result[name] = {"pairs": float(errors.size), **statistics(errors)}
    return result
