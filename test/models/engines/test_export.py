# SPDX-License-Identifier: Apache-2.0
"""Exported engines answer as PyTorch does, and records state how they did."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from geoloc_models.engines import export as exporting
from geoloc_models.engines.choice import open_engine
from geoloc_models.engines.export import Sample, export
from geoloc_models.engines.export_records import read_record
from geoloc_models.engines.openvino_engine import OpenVinoEngine
from geoloc_models.engines.parts import parts_of
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.errors import GeolocError
from geoloc_models.weights import load_weights

WEIGHTS = "mix_compact"
EXPORTED = ("onnx-float32", "openvino-bf16", "openvino-int8")


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_engines_answer_as_pytorch_does(
    name: str, exported: Path, exact: TorchEngine, ground: Callable[..., np.ndarray], samples: list[Sample]
) -> None:
    engine = open_engine(WEIGHTS, "cpu", 1, name, exported)
    assert engine.spec == replace(exact.spec, name=name)
    assert engine.spec.label == f"cpu ({name})"
    views = np.stack([ground(128, 128, seed) for seed in range(3)])
    # Sizes that the export has not seen, not square, one that must be padded, and several of one size.
    for queries, maps in (
        (views[:1], ground(208, 320, 1)[None]),
        (views[:1], ground(139, 150, 2)[None]),
        (views, ground(176, 176, 3)[None]),
        (views[:1], np.stack([ground(176, 176, seed) for seed in (4, 5)])),
    ):
        expected, stride_px = exact.logits(queries, maps)
        found, own_stride_px = engine.logits(queries, maps)
        assert (found.shape, own_stride_px) == (expected.shape, stride_px)
        np.testing.assert_allclose(found, expected, atol=1e-4 if "float32" in name else 0.5)
    place = engine.infer(samples[0].query, samples[0].search_map).peak_xy_px
    assert place == pytest.approx(samples[0].truth_xy_px, abs=1.0)


def test_records_tell_what_was_found(exported: Path, exact: TorchEngine) -> None:
    record = read_record(exported, exact.spec.weights_id, "openvino-bf16")
    check = record.check
    assert (check.samples, check.source, check.ma20, check.torch_ma20) == (2, "generated", 1.0, 1.0)
    assert 0 < check.max_logit_error < 1 and 0 < check.moved_p95_m < 0.5
    assert check.median_ms > 0 and check.torch_ms > 0
    ends = ("xml", "bin", "blob")
    assert set(record.files) == {f"{part}.{end}" for part in ("query", "map", "mix") for end in ends}
    assert set(record.versions) == {"torch", "openvino"}


def test_what_another_openvino_has_compiled_is_compiled_anew(
    exported: Path, exact: TorchEngine, tmp_path: Path, samples: list[Sample]
) -> None:
    own = shutil.copytree(exported / exact.spec.weights_id / "openvino-bf16", tmp_path / "own")
    loaded = load_weights(WEIGHTS)
    answers = []
    for change in (lambda blob: None, lambda blob: blob.write_bytes(b"another"), lambda blob: blob.unlink()):
        for blob in own.glob("*.blob"):
            change(blob)
        engine = OpenVinoEngine(loaded, parts_of(loaded.model), own, "bf16", 1)
        answers.append(engine.logits(samples[0].query[None], samples[0].search_map[None])[0])
    assert np.array_equal(answers[0], answers[1]) and np.array_equal(answers[0], answers[2])


_RELEASED_ELSEWHERE = """
import gc, signal, sys, threading
from pathlib import Path
from geoloc_models.engines.choice import make_engine
engines = [make_engine("openvino-bf16", sys.argv[2], "cpu", 1, Path(sys.argv[1]))]
thread = threading.Thread(target=lambda: (engines.clear(), gc.collect()))
thread.start()
thread.join()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
signal.raise_signal(signal.SIGUSR1)
"""


def test_signals_are_handled_after_an_engine_has_gone_on_another_thread(exported: Path) -> None:
    """OpenVINO's plugin once took the stack of the signal handlers with it, and the next signal ended the process."""
    command = [sys.executable, "-X", "faulthandler", "-c", _RELEASED_ELSEWHERE, str(exported), WEIGHTS]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("compile-bf16", "it moves fixes by 6.00 m at the median, the limit is 0.5 m"),
        ("compile-float32", "logits differ by up to .* from PyTorch's, the limit is 0.001"),
    ],
)
def test_a_wrong_engine_fails_its_check(
    name: str, failure: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, samples: list[Sample]
) -> None:
    wrong = TorchEngine(WEIGHTS, "cpu", precision="float32")
    finish = wrong._parts.finish
    monkeypatch.setattr(wrong._parts, "finish", lambda *inputs: finish(*inputs).roll(3, -1))
    monkeypatch.setattr(exporting, "make_engine", lambda *_: wrong)
    check = export(name, WEIGHTS, tmp_path, samples, "generated", "cpu", 1).check
    assert re.fullmatch(failure, check.failure)
    assert check.moved_median_m == pytest.approx(3 * 4 * 0.5, abs=0.1)
    with pytest.raises(GeolocError, match="failed its check"):
        open_engine(WEIGHTS, "cpu", 1, name, tmp_path)


def test_nothing_half_is_left_behind(
    exact: TorchEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, samples: list[Sample]
) -> None:
    def stopped(*_: object) -> Iterator[None]:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "compare", stopped)
    with pytest.raises(KeyboardInterrupt):
        export("onnx-float32", WEIGHTS, tmp_path, samples, "generated", "cpu", 1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(GeolocError, match="'torch-bf16' is no engine to export"):
        export("torch-bf16", WEIGHTS, tmp_path, samples, "generated")
    with pytest.raises(GeolocError, match="0 views are too few"):
        export("onnx-float32", WEIGHTS, tmp_path, [], "generated")
