# SPDX-License-Identifier: Apache-2.0
"""Networks that find a drone's view on a satellite map; PyTorch only, no ROS.

    import geoloc_models as gm
    localizer = gm.load("default")
    heatmap = localizer(view, search_map)

All names of `__all__` load on first use: importing the package costs nothing.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geoloc_models.ast.retriever import Retriever as Retriever
    from geoloc_models.drl.heatmap import Heatmap as Heatmap
    from geoloc_models.engines import Engine as Engine
    from geoloc_models.engines import EngineSpec as EngineSpec
    from geoloc_models.engines.network_engine import NetworkEngine as NetworkEngine
    from geoloc_models.errors import GeolocError as GeolocError

_MODULES = {
    "Engine": "engines",
    "EngineSpec": "engines",
    "GeolocError": "errors",
    "Heatmap": "drl.heatmap",
    "NetworkEngine": "engines.network_engine",
    "Retriever": "ast.retriever",
}
__all__ = [*_MODULES, "load", "load_retriever"]

# Before torch loads its OpenMP: threads that wait must sleep, not spin. Where anything else wants the cores (a camera
# driver, DDS), spinning threads keep the very thread they wait for from running: seen with a real-time process on one
# of two cores, 7.3 s a frame against 0.28; on a quiet machine sleeping costs nothing that could be measured.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def load(
    weights: str | Path = "default", *, engine: str = "auto", device: str = "auto", threads: int | None = None
) -> NetworkEngine:
    """The network that finds a view in a map: `heatmap = load()(view, search_map)`.

    weights: a name that ships with the package, or a file. engine: "auto" takes the fastest that `geoloc export` has
    checked on this machine, and PyTorch without any; or a name of `geoloc_models.engines.choice.NAMES`. device: "auto"
    (CUDA where there is one), "cpu", "cuda", "cuda:1"... threads: of the CPU, None as PyTorch has them.
    GeolocError: no such weights, engine or device.
    """
    from geoloc_models.engines.choice import open_engine

    return open_engine(weights, device, threads, engine)


def load_retriever(weights: str | Path = "retrieval", *, device: str = "auto") -> Retriever:
    """The network that describes images for a search of the whole map; GeolocError: no such weights or device."""
    from geoloc_models.ast.retriever_weights import load_retriever

    return load_retriever(weights, device)[0]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
