# SPDX-License-Identifier: Apache-2.0
"""What fine alignment costs a frame: the default weights with their head and without it, alternating in one run."""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from geoloc_models.devices import fix_threads
from geoloc_models.drl.alignment import PoseSpread
from geoloc_models.engines.placer import Placer
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.weights import load_weights, save_weights
from geoloc_models.world.generate import generate_world

LEARNED = PoseSpread(np.deg2rad(1.5), 0.015, 1e-4)
"""What a track knows of its pose."""


def main() -> None:
    """Print medians of a frame on a cached crop, and of one on a new crop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=24, help="frames of each kind (default: 24)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    args = parser.parse_args()
    fix_threads(args.threads)
    ground = generate_world(450.0, 0.5).date1
    search_map, view = np.ascontiguousarray(ground[100:532, 100:532]), np.ascontiguousarray(ground[204:396, 234:426])
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_weights()
        loaded.model.alignment = None
        save_weights(Path(folder) / "bare.safetensors", loaded.model, loaded.info, eight_bit=True)
        bare, whole = TorchEngine(Path(folder) / "bare.safetensors", "cpu"), TorchEngine("default", "cpu")
    placer = Placer(whole)
    calls: dict[str, Callable[[], object]] = {
        "network alone": lambda: bare.infer(view, search_map),
        "with alignment": lambda: placer.place(view, search_map, LEARNED),
    }
    times: dict[tuple[str, str], list[float]] = {(name, crop): [] for crop in ("cached", "new") for name in calls}
    for _ in range(args.rounds):
        for name, call in calls.items():
            call()
            times[name, "cached"].append(_ms(call))
            for engine in (bare, whole):
                engine.forget_maps()
            times[name, "new"].append(_ms(call))
    for crop in ("cached", "new"):
        alone, aligned = (np.array(times[name, crop]) for name in calls)
        print(
            f"{crop} crop: {np.median(alone):.0f} ms alone, {np.median(aligned):.0f} ms with alignment, "
            f"ratio {np.median(aligned / alone):.2f}"
        )


def _ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


if __name__ == "__main__":
    main()
