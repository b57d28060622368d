# SPDX-License-Identifier: Apache-2.0
"""Making engines and holding them against PyTorch: same views, same maps, how far do the fixes move?"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from geoloc_models.drl.heatmap import Heatmap, heatmap_from_logits
from geoloc_models.engines.choice import KINDS, make_engine, processor_of
from geoloc_models.engines.export_records import Check, Record, engine_folder, put_engine
from geoloc_models.engines.network_engine import Answers, NetworkEngine
from geoloc_models.engines.onnx_engine import require_module, write_onnx
from geoloc_models.engines.openvino_engine import OpenVinoEngine, write_openvino
from geoloc_models.engines.parts import Tensors, parts_of
from geoloc_models.engines.tensorrt_engine import write_tensorrt
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.errors import GeolocError
from geoloc_models.metrics import ma_at_k
from geoloc_models.weights import load_weights, sha256

MOST_MOVED_M = 0.5
"""Median by which an engine in few bits may move fixes."""
MOST_LOST = 0.01
"""Share of fixes within 20 m that it may lose."""
MOST_LOGIT_ERROR = 1e-3
"""Largest difference of a logit of an engine in float32; logits span tens, so that is float32's rounding."""
ROUNDS = 2
"""Each view is timed so often, alternating, and the better one counts: other work on the machine comes in bursts."""


@dataclass(frozen=True)
class Sample:
    """A view and a map at the same gsd_m, as an engine takes them, and where on the map the view's centre truly is."""

    query: np.ndarray
    search_map: np.ndarray
    gsd_m: float
    truth_xy_px: tuple[float, float]


def export(
    name: str,
    weights: str | Path,
    folder: Path,
    samples: Sequence[Sample],
    source: str,
    device: str = "auto",
    threads: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Record:
    """Write an engine, check it on the samples, and put it with its record into `folder`, whatever the check says.

    source: where the samples are from, as a label. `advance()` is called after each sample. GeolocError: no such
    engine, no samples, or weights or machine that this engine cannot be made for.
    """
    if name not in KINDS or name.startswith("torch-"):
        exported = ", ".join(kind for kind in KINDS if not kind.startswith("torch-"))
        raise GeolocError(f"{name!r} is no engine to export: use one of {exported}")
    if len(samples) < 2:
        raise GeolocError(
            f"{len(samples)} views are too few to check an engine with: give a flight with more true positions"
        )
    loaded = load_weights(weights)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as scratch:
        own = engine_folder(Path(scratch), loaded.id, name)
        own.mkdir(parents=True)
        # What int8 takes its ranges from says nothing about how well it does elsewhere.
        calibrating = samples[::2] if name.endswith("-int8") else []
        samples = samples[1::2] if calibrating else samples
        _write(name, weights, own, calibrating)
        engine = make_engine(name, weights, device, threads, Path(scratch))
        if isinstance(engine, OpenVinoEngine):
            engine.write_compiled(own)
        check = compare(engine, weights, samples, source, KINDS[name].same_output, advance)
        files = {path.name: sha256(path) for path in sorted(own.iterdir())}
        record = Record(name, loaded.id, processor_of(device), _versions(name), files, check)
        put_engine(own, record, folder)
    return record


def _write(name: str, weights: str | Path, own: Path, samples: Sequence[Sample]) -> None:
    kind, _, precision = name.rpartition("-")
    if kind not in ("onnx", "openvino", "tensorrt"):
        return
    loaded = load_weights(weights)
    parts = parts_of(loaded.model)
    if kind == "onnx":
        write_onnx(parts, loaded.info.query_px, own)
        return
    with tempfile.TemporaryDirectory() as scratch:
        files = write_onnx(parts, loaded.info.query_px, Path(scratch))
        if kind == "tensorrt":
            write_tensorrt(parts, files, loaded.info.query_px, own)
        else:
            inputs = _part_inputs(weights, samples) if samples else None
            write_openvino(files, own, precision != "float32", inputs)


@torch.inference_mode()
def _part_inputs(weights: str | Path, samples: Sequence[Sample]) -> dict[str, list[Tensors]]:
    """What each part is given for each sample."""
    recorder = _Recorder(weights)
    for sample in samples:
        recorder.infer(sample.query, sample.search_map)
    return recorder.inputs


class _Recorder(TorchEngine):
    """PyTorch that records the inputs of its parts."""

    def __init__(self, weights: str | Path) -> None:
        super().__init__(weights, "cpu", precision="float32")
        self.inputs: dict[str, list[Tensors]] = {}

    def run(self, part: str, inputs: Tensors) -> Tensors:
        """As PartsEngine."""
        self.inputs.setdefault(part, []).append(tuple(tensor.clone() for tensor in inputs))
        return super().run(part, inputs)


def compare(
    engine: NetworkEngine,
    weights: str | Path,
    samples: Sequence[Sample],
    source: str,
    same_output: bool,
    advance: Callable[[], None] = lambda: None,
) -> Check:
    """Hold an engine against torch-float32, and its time against PyTorch as it runs without any export."""
    exact = TorchEngine(weights, engine.spec.device, precision="float32")
    usual = TorchEngine(weights, engine.spec.device)
    error = 0.0
    moved, own_m, torch_m, own_ms, torch_ms = [], [], [], [], []
    for sample in samples:
        expected, found = (one.answers(sample.query[None], sample.search_map[None]) for one in (exact, engine))
        error = max(error, float(np.abs(found.logits - expected.logits).max()))
        ours, theirs = (heatmap_from_logits(one.logits[0], one.stride_px) for one in (found, expected))
        moved.append(
            max(_apart_m(ours.peak_xy_px, theirs.peak_xy_px, sample), _alignment_moved_m(found, expected, sample))
        )
        own_m.append(_apart_m(ours.peak_xy_px, sample.truth_xy_px, sample))
        torch_m.append(_apart_m(theirs.peak_xy_px, sample.truth_xy_px, sample))
        times = [(_milliseconds(engine, sample), _milliseconds(usual, sample)) for _ in range(ROUNDS)]
        own_ms.append(min(own for own, _ in times))
        torch_ms.append(min(plain for _, plain in times))
        advance()
    ma20, torch_ma20 = ma_at_k(own_m, 20), ma_at_k(torch_m, 20)
    median_m = float(np.median(moved))
    return Check(
        samples=len(samples),
        source=source,
        max_logit_error=round(error, 6),
        moved_median_m=round(median_m, 4),
        moved_p95_m=round(float(np.percentile(moved, 95)), 4),
        ma20=round(ma20, 4),
        torch_ma20=round(torch_ma20, 4),
        median_ms=round(float(np.median(own_ms)), 2),
        torch_ms=round(float(np.median(torch_ms)), 2),
        failure=_failure(error if same_output else 0.0, median_m, torch_ma20 - ma20),
    )


def _alignment_moved_m(found: Answers, expected: Answers, sample: Sample) -> float:
    """How far apart two engines align the view around its true place; 0 without a head for alignment."""
    if found.aligner is None or expected.aligner is None:
        return 0.0
    ours, theirs = (one.align(0, sample.truth_xy_px).centre_xy_px for one in (found.aligner, expected.aligner))
    return _apart_m(ours, theirs, sample)


def _failure(error: float, moved_m: float, lost: float) -> str:
    if error > MOST_LOGIT_ERROR:
        return f"logits differ by up to {error:.2g} from PyTorch's, the limit is {MOST_LOGIT_ERROR:g}"
    if not moved_m < MOST_MOVED_M:
        return f"it moves fixes by {moved_m:.2f} m at the median, the limit is {MOST_MOVED_M:g} m"
    if lost > MOST_LOST:
        return f"it loses {lost:.3f} of the fixes within 20 m, the limit is {MOST_LOST:g}"
    return ""


def _apart_m(one: tuple[float, float], other: tuple[float, float], sample: Sample) -> float:
    return float(np.hypot(one[0] - other[0], one[1] - other[1])) * sample.gsd_m


def _milliseconds(engine: NetworkEngine, sample: Sample) -> float:
    """Of a view on a map that the engine has not cached."""
    engine.forget_maps()
    start = time.perf_counter()
    found: Heatmap = engine.infer(sample.query, sample.search_map)
    assert np.isfinite(found.peak)
    return (time.perf_counter() - start) * 1e3


def _versions(name: str) -> dict[str, str]:
    module = KINDS[name].module
    versions = {"torch": str(torch.__version__)}
    if module is not None:
        versions[module] = str(require_module(module).__version__)
    return versions
