# SPDX-License-Identifier: Apache-2.0
"""Every engine gives PyTorch's answers, keeps what it may keep, and is refused where it does not fit."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
import torch

from geoloc_models.backbones.cvt import CvtMix, Stage
from geoloc_models.drl.heads import GroupCorrelation, LinearChain
from geoloc_models.drl.mix_fusion import MixFusion
from geoloc_models.drl.necks import FeaturePyramid
from geoloc_models.drl.presets import build
from geoloc_models.engines import export as exporting
from geoloc_models.engines.choice import fastest, installed, make_engine, open_engine
from geoloc_models.engines.compiled_engine import CudaGraphEngine
from geoloc_models.engines.export import Sample, export
from geoloc_models.engines.export_records import RECORD, read_record
from geoloc_models.engines.folding import folded
from geoloc_models.engines.network_engine import PartsEngine
from geoloc_models.engines.onnx_engine import examples, write_onnx
from geoloc_models.engines.openvino_engine import OpenVinoEngine, write_openvino
from geoloc_models.engines.parts import MixParts, Tensors, parts_of
from geoloc_models.engines.plain_engine import PlainEngine
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.errors import GeolocError
from geoloc_models.weights import load_weights

EXPORTED = ("onnx-float32", "openvino-bf16", "openvino-int8")
WEIGHTS = "mix_compact"  # small, and its parts are of the kinds that the default's are


def ground(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Texture at several scales, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for cell in (40, 12, 4):
        coarse = rng.uniform(-45, 45, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + total, 0, 255).astype(np.uint8)


def sample(side: int, seed: int, view_px: int = 128) -> Sample:
    """A view cut from its map."""
    search_map = ground(side, side, seed)
    top, left = (side - view_px) // 2 + 12, (side - view_px) // 2 - 8
    view = search_map[top : top + view_px, left : left + view_px]
    return Sample(view.copy(), search_map, 0.5, (left + view_px / 2, top + view_px / 2))


SAMPLES = [sample(192, 1), sample(256, 2)]


@pytest.fixture(scope="module")
def exact() -> TorchEngine:
    return TorchEngine(WEIGHTS, "cpu", precision="float32")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the engines for processors of WEIGHTS."""
    folder = tmp_path_factory.mktemp("engines")
    for name in EXPORTED:
        export(name, WEIGHTS, folder, SAMPLES, "generated", "cpu", 1)
    return folder


class Counting(PartsEngine):
    """Notes which parts run."""

    def __init__(self, of: TorchEngine) -> None:
        self.__dict__ |= of.__dict__
        self.forget_maps()
        self.ran: list[str] = []
        self._of = of

    def run(self, part: str, inputs: Tensors) -> Tensors:
        self.ran.append(part)
        return self._of.run(part, inputs)


@pytest.mark.parametrize("name", ["mix_compact", "default"])
@torch.inference_mode()
def test_parts_together_are_the_network(name: str) -> None:
    engine, loaded = TorchEngine(name, "cpu", precision="float32"), load_weights(name)
    view, search = ground(engine.spec.query_px, engine.spec.query_px), ground(288, 336, 1)
    network = loaded.model(*(torch.from_numpy(image).permute(2, 0, 1)[None] for image in (view, search)))
    logits, stride_px = engine.logits(view[None], search[None])
    assert stride_px == 4.0
    np.testing.assert_allclose(logits[0], network[0, 0] / loaded.info.temperature, atol=1e-4)


def test_batches_are_their_single_pairs(exact: TorchEngine) -> None:
    views = np.stack([ground(128, 128, seed) for seed in range(4)])
    maps = np.stack([ground(192, 192, seed) for seed in (5, 6)])

    def alone(view: int, search: int) -> np.ndarray:
        return exact.logits(views[view][None], maps[search][None])[0][0]

    two_each, _ = exact.logits(views, maps)
    one_in_all, _ = exact.logits(views[:1], maps)
    for index, (view, search) in enumerate([(0, 0), (1, 0), (2, 1), (3, 1)]):
        np.testing.assert_allclose(two_each[index], alone(view, search), atol=1e-4)
    for index in range(2):
        np.testing.assert_allclose(one_in_all[index], alone(0, index), atol=1e-4)
    with pytest.raises(GeolocError, match="3 query views do not divide among 2 maps"):
        exact.logits(views[:3], maps)


def test_a_map_is_encoded_once_and_another_never_answered_for_it(exact: TorchEngine) -> None:
    engine = Counting(exact)
    view, search = ground(128, 128)[None], ground(192, 192, 1)[None]
    first, _ = engine.logits(view, search)
    again, _ = engine.logits(view, search.copy())
    assert np.array_equal(first, again)
    assert engine.ran == ["query", "map", "mix", "query", "mix"]
    for row, col in ((0, 0), (100, 77), (191, 191)):
        changed = search.copy()
        changed[0, row, col] += 90
        assert engine.logits(view, changed)[0].tobytes() == exact_again(exact, view, changed).tobytes()
    assert engine.ran.count("map") == 4
    # Another size of view needs another spectrum of the same map.
    smaller = ground(96, 96)[None]
    np.testing.assert_allclose(engine.logits(smaller, search)[0], exact_again(exact, smaller, search), atol=1e-4)
    assert engine.ran.count("map") == 5
    engine.forget_maps()
    engine.logits(view, search)
    assert engine.ran.count("map") == 6


def exact_again(engine: TorchEngine, view: np.ndarray, search: np.ndarray) -> np.ndarray:
    """Logits by an engine that has kept nothing."""
    engine.forget_maps()
    return engine.logits(view, search)[0]


def test_a_prepared_map_is_not_encoded_again(exact: TorchEngine) -> None:
    engine = Counting(exact)
    view, searched, coming = ground(128, 128)[None], ground(192, 192, 1)[None], ground(200, 184, 2)[None]
    engine.logits(view, searched)
    engine.prepare(coming[0])
    assert engine.ran == ["query", "map", "mix", "map"]
    prepared, _ = engine.logits(view, coming)
    assert engine.ran[4:] == ["query", "mix"]
    assert np.array_equal(prepared, exact_again(exact, view, coming))


def test_kept_maps_stay_within_their_memory(exact: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Counting(exact)
    monkeypatch.setattr(engine._maps, "_most_bytes", 4 << 20)
    maps = [ground(192, 192, seed)[None] for seed in range(8)]
    for search in maps:
        engine.logits(maps[0][:, :128, :128], search)
    kept = list(engine._maps._entries.values())
    held = sum(image.nbytes + sum(t.numel() * t.element_size() for t in own) for image, own in kept)
    assert 0 < len(kept) < 8
    assert held == engine._maps._bytes <= 4 << 20
    engine.logits(maps[0][:, :128, :128], maps[-1])
    assert engine.ran.count("map") == 8


@pytest.mark.parametrize("name", EXPORTED)
def test_exported_engines_answer_as_pytorch_does(name: str, exported: Path, exact: TorchEngine) -> None:
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
    place = engine.infer(SAMPLES[0].query, SAMPLES[0].search_map).peak_xy_px
    assert place == pytest.approx(SAMPLES[0].truth_xy_px, abs=1.0)


def test_the_default_runs_elsewhere_too(tmp_path: Path) -> None:
    """Its parts have inputs of their own: the resizing to the trunk's cells, and positions."""
    loaded = load_weights("default")
    parts = parts_of(loaded.model)
    view, search = ground(192, 192), ground(192, 240, 1)
    expected, _ = TorchEngine("default", "cpu", precision="float32").logits(view[None], search[None])
    write_openvino(write_onnx(parts, 192, tmp_path), tmp_path, half=False)
    parts.forget_modules()
    engine = OpenVinoEngine(loaded, parts, tmp_path, "float32", 1)
    np.testing.assert_allclose(engine.logits(view[None], search[None])[0], expected, atol=1e-3)


@pytest.mark.parametrize("correlates", [True, False])
@torch.inference_mode()
def test_parts_of_the_papers_networks_run_elsewhere_too(correlates: bool, tmp_path: Path) -> None:
    torch.manual_seed(2)
    backbone = CvtMix((Stage(64, 1, 1, 7, 4, 2), Stage(128, 2, 1, 3, 2, 1)))
    necks = [FeaturePyramid(backbone.channels, 16) for _ in range(2)]
    head = GroupCorrelation(16) if correlates else LinearChain((16, 8, 1))
    network = MixFusion(backbone, necks[0], head, necks[1] if correlates else None).eval()
    parts = MixParts(folded(network))
    files = write_onnx(parts, 32, tmp_path)
    for name, inputs in examples(parts, 32, 48, 40).items():
        if name not in files:
            continue  # nothing of a map stands alone
        session = onnxruntime.InferenceSession(str(files[name]), providers=["CPUExecutionProvider"])
        wanted = [one.name for one in session.get_inputs()]
        found = session.run(None, {n: t.numpy() for n, t in zip(wanted, inputs, strict=True)})
        for own, expected in zip(found, parts.parts[name].module(*inputs), strict=True):
            np.testing.assert_allclose(own, expected.numpy(), atol=1e-4)


def test_networks_that_only_pytorch_knows_say_so(tmp_path: Path) -> None:
    parts = parts_of(build("mix_vits14_ccn_linear"))
    with pytest.raises(GeolocError, match=r"only networks on the backbones .* torch-float32"):
        write_onnx(parts, 126, tmp_path)


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
    exported: Path, exact: TorchEngine, tmp_path: Path
) -> None:
    own = shutil.copytree(exported / exact.spec.weights_id / "openvino-bf16", tmp_path / "own")
    loaded = load_weights(WEIGHTS)
    answers = []
    for change in (lambda blob: None, lambda blob: blob.write_bytes(b"another"), lambda blob: blob.unlink()):
        for blob in own.glob("*.blob"):
            change(blob)
        engine = OpenVinoEngine(loaded, parts_of(loaded.model), own, "bf16", 1)
        answers.append(engine.logits(SAMPLES[0].query[None], SAMPLES[0].search_map[None])[0])
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


def edited(folder: Path, path: Path, **changes: object) -> Path:
    """A copy of the folder of engines whose record at `path` is changed; check's fields go by their own names."""
    copy = folder.parent / f"{folder.name}-{'-'.join(changes)}"
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    values = json.loads((copy / path).read_text())
    for key, value in changes.items():
        (values["check"] if key in values["check"] else values)[key] = value
    (copy / path).write_text(json.dumps(values))
    return copy


def test_engines_that_do_not_fit_are_refused(exported: Path, exact: TorchEngine) -> None:
    name, own = "openvino-bf16", exact.spec.weights_id
    path = Path(own) / name / RECORD

    def refused(folder: Path, words: str, weights: str = WEIGHTS) -> None:
        with pytest.raises(GeolocError, match=words):
            open_engine(weights, "cpu", 1, name, folder)

    refused(exported, rf"not exported for the weights mix_hybrid-\w+ to .*only for {own}", "default")
    refused(edited(exported, path, weights_id="mix_compact-0"), "is of openvino-bf16 for the weights mix_compact-0")
    refused(edited(exported, path, failure="it is wrong"), "failed its check: it is wrong")
    refused(edited(exported, path, check=None), "cannot be read")
    damaged = edited(exported, path, samples=2)
    (damaged / own / name / "map.bin").write_bytes(b"")
    refused(damaged, r"map\.bin is missing or damaged")
    with pytest.raises(GeolocError, match="no engine is called 'fast'"):
        open_engine(WEIGHTS, "cpu", 1, "fast", exported)


def test_auto_takes_the_fastest_that_may_be_used(exported: Path, exact: TorchEngine, tmp_path: Path) -> None:
    own = exact.spec.weights_id

    def at(name: str) -> Path:
        return Path(own) / name / RECORD

    folder = exported
    for name, took_ms in zip(EXPORTED, (12.0, 10.0, 11.0), strict=True):
        folder = edited(folder, at(name), median_ms=took_ms, torch_ms=25.0)
    assert open_engine(WEIGHTS, "cpu", 1, "auto", folder).spec.name == "openvino-bf16"
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    next((damaged / own / "openvino-bf16").glob("*.bin")).write_bytes(b"")
    assert fastest(own, "cpu", damaged) == "openvino-int8"
    folder = edited(folder, at("openvino-bf16"), failure="it is wrong")
    assert fastest(own, "cpu", folder) == "openvino-int8"
    folder = edited(folder, at("openvino-int8"), weights_id="mix_compact-0")
    assert fastest(own, "cpu", folder) == "onnx-float32"
    slower = edited(folder, at("onnx-float32"), median_ms=25.5)
    assert fastest(own, "cpu", slower) is None
    folder = edited(folder, at("onnx-float32"), processor="another")
    assert fastest(own, "cpu", folder) is None
    assert isinstance(open_engine(WEIGHTS, "cpu", 1, "auto", folder), TorchEngine)
    assert isinstance(open_engine(WEIGHTS, "cpu", 1, "auto", tmp_path / "none"), TorchEngine)
    assert isinstance(open_engine(WEIGHTS, "cpu", 1, "torch", exported), TorchEngine)


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("compile-bf16", "it moves fixes by 6.00 m at the median, the limit is 0.5 m"),
        ("compile-float32", "logits differ by up to .* from PyTorch's, the limit is 0.001"),
    ],
)
def test_a_wrong_engine_fails_its_check(
    name: str, failure: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wrong = TorchEngine(WEIGHTS, "cpu", precision="float32")
    finish = wrong._parts.finish
    monkeypatch.setattr(wrong._parts, "finish", lambda *inputs: finish(*inputs).roll(3, -1))
    monkeypatch.setattr(exporting, "make_engine", lambda *_: wrong)
    check = export(name, WEIGHTS, tmp_path, SAMPLES, "generated", "cpu", 1).check
    assert re.fullmatch(failure, check.failure)
    assert check.moved_median_m == pytest.approx(3 * 4 * 0.5, abs=0.1)
    with pytest.raises(GeolocError, match="failed its check"):
        open_engine(WEIGHTS, "cpu", 1, name, tmp_path)


def test_nothing_half_is_left_behind(exact: TorchEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def stopped(*_: object) -> Iterator[None]:
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "compare", stopped)
    with pytest.raises(KeyboardInterrupt):
        export("onnx-float32", WEIGHTS, tmp_path, SAMPLES, "generated", "cpu", 1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(GeolocError, match="'torch-bf16' is no engine to export"):
        export("torch-bf16", WEIGHTS, tmp_path, SAMPLES, "generated")
    with pytest.raises(GeolocError, match="0 views are too few"):
        export("onnx-float32", WEIGHTS, tmp_path, [], "generated")


def test_half_precision_moves_fixes_by_centimetres(exact: TorchEngine) -> None:
    half = TorchEngine(WEIGHTS, "cpu", precision="bf16")
    assert half.spec.label == "cpu (torch-bf16)"
    for one in SAMPLES:
        places = [engine.infer(one.query, one.search_map).peak_xy_px for engine in (half, exact)]
        assert np.hypot(*np.subtract(*places)) * one.gsd_m < 0.1


def test_the_plain_engine_gives_the_same_logits(exact: TorchEngine) -> None:
    plain = PlainEngine(WEIGHTS, "cpu")
    views, maps = np.stack([ground(128, 128, s) for s in (0, 1)]), ground(192, 208, 2)[None]
    np.testing.assert_allclose(plain.logits(views, maps)[0], exact.logits(views, maps)[0], atol=1e-4)


def test_warming_up_keeps_nothing(exact: TorchEngine) -> None:
    engine = Counting(exact)
    assert list(engine.usual_sides_px()) == list(range(144, 321, 16))
    engine.warm_up([144], maps=3)
    assert engine.ran == ["query", "map", "map", "map", "mix"]
    assert not engine._maps._entries


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_engines_on_a_gpu_answer_as_pytorch_does(exact: TorchEngine, tmp_path: Path) -> None:
    assert "cuda-graph-bf16" in installed("cuda")
    graphs = make_engine("cuda-graph-bf16", WEIGHTS, "cuda", None, tmp_path)
    usual = TorchEngine(WEIGHTS, "cuda", precision="bf16")
    for side in (192, 256, 192):
        one = sample(side, side)
        expected, _ = usual.logits(one.query[None], one.search_map[None])
        found, _ = graphs.logits(one.query[None], one.search_map[None])
        np.testing.assert_allclose(found, expected, atol=0.1)
    check = export("cuda-graph-bf16", WEIGHTS, tmp_path, SAMPLES, "generated", "cuda").check
    assert replace(check, failure="").moved_median_m < 0.5 and check.failure == ""


def test_engines_of_gpus_are_refused_without_one(tmp_path: Path) -> None:
    with pytest.raises(GeolocError, match="CUDA graphs need a GPU, the device is cpu"):
        CudaGraphEngine(WEIGHTS, "cpu", "bf16")
    assert not {"cuda-graph-bf16", "tensorrt-bf16"} & set(installed("cpu"))
