# SPDX-License-Identifier: Apache-2.0
"""What the commands that measure time share."""

import os

import cv2
import numpy as np


def keep_to_cores(cores: int) -> None:
    """Run on that many of the cores this process may use, as the vehicle would."""
    cv2.setNumThreads(cores)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def percentiles(values: np.ndarray | list[float]) -> dict[str, float]:
    """Median and 95th percentile, to a thousandth."""
    p50, p95 = np.percentile(values, (50, 95))
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3)}
