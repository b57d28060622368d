# SPDX-License-Identifier: Apache-2.0
"""Cores, percentiles, processor time and memory, for the commands that measure."""

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np


def keep_to_cores(cores: int) -> None:
    """Restrict this process to that many of its cores, as on a vehicle."""
    cv2.setNumThreads(cores)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])


def percentiles(values: np.ndarray | Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile of the values that are not NaN, to a thousandth."""
    return {f"p{share}": round(float(np.nanpercentile(values, share)), 3) for share in (50, 95, 99)}


def verdict(figure: float, target: float, unit: str) -> str:
    """Whether a figure stays under its target, for people."""
    return f"{'within' if figure < target else 'over'} the target of {target:g} {unit}"


def cpu_seconds(process: int) -> float:
    """Processor time of all threads of a process, s."""
    # The command in brackets may hold spaces; user and system time are the 14th and 15th field of all.
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(process: int) -> float:
    """Memory of a process that is in RAM, MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1)


def peak_resident_mb() -> float:
    """The most memory that this process has had in RAM since it began, MB."""
    # Not getrusage: its peak begins with that of the process that started this one.
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
