# SPDX-License-Identifier: Apache-2.0
"""Parts together are the network, in PyTorch and in other runtimes."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from geoloc_models.backbones.cvt import CvtMix, Stage
from geoloc_models.drl.heads import GroupCorrelation, LinearChain
from geoloc_models.drl.mix_fusion import MixFusion
from geoloc_models.drl.necks import FeaturePyramid
from geoloc_models.drl.presets import build
from geoloc_models.engines.folding import folded
from geoloc_models.engines.onnx_engine import examples, write_onnx
from geoloc_models.engines.openvino_engine import OpenVinoEngine, write_openvino
from geoloc_models.engines.parts import MixParts, parts_of
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.errors import GeolocError
from geoloc_models.weights import load_weights


@pytest.mark.parametrize("name", ["mix_compact", "default"])
@torch.inference_mode()
def test_parts_together_are_the_network(name: str, ground: Callable[..., np.ndarray]) -> None:
    engine, loaded = TorchEngine(name, "cpu", precision="float32"), load_weights(name)
    view, search = ground(engine.spec.query_px, engine.spec.query_px), ground(288, 336, 1)
    network = loaded.model(*(torch.from_numpy(image).permute(2, 0, 1)[None] for image in (view, search)))
    logits, stride_px = engine.logits(view[None], search[None])
    assert stride_px == 4.0
    np.testing.assert_allclose(logits[0], network[0, 0] / loaded.info.temperature, atol=1e-4)


def test_the_default_runs_elsewhere_too(tmp_path: Path, ground: Callable[..., np.ndarray]) -> None:
    """Its parts have inputs of their own: the resizing to the trunk's cells, and positions."""
    loaded = load_weights("default")
    parts = parts_of(loaded.model)
    view, search = ground(192, 192), ground(192, 240, 1)
    expected = TorchEngine("default", "cpu", precision="float32").answers(view[None], search[None])
    write_openvino(write_onnx(parts, 192, tmp_path), tmp_path, half=False)
    parts.forget_modules()
    engine = OpenVinoEngine(loaded, parts, tmp_path, "float32", 1)
    found = engine.answers(view[None], search[None])
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-3)
    assert found.aligner is not None
    assert expected.aligner is not None
    np.testing.assert_allclose(found.aligner.views, expected.aligner.views, atol=1e-3)
    np.testing.assert_allclose(found.aligner.maps, expected.aligner.maps, atol=1e-3)


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
