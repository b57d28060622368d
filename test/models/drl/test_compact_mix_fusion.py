# SPDX-License-Identifier: Apache-2.0
"""The compact Mix-Fusion: asymmetry, caching, shapes, training, weights."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from geoloc_models import weights as weights_module
from geoloc_models.datasets.image_pairs import ImagePair
from geoloc_models.datasets.pair_samples import PairSamples, SampleSettings
from geoloc_models.drl.compact_mix_fusion import CompactMixFusion, cells_to_nodes
from geoloc_models.engines.torch_engine import TorchEngine
from geoloc_models.errors import GeolocError
from geoloc_models.training.held_out import HeldOut
from geoloc_models.training.localizer_task import LocalizerTask
from geoloc_models.training.processes import Processes
from geoloc_models.training.recipe import LocalizerRecipe
from geoloc_models.training.trainer import train
from geoloc_models.weights import WeightsInfo, load_weights, save_weights

INFO = WeightsInfo("mix_compact", 96, 0.25, 1.2, 1.0)


@pytest.fixture(scope="module")
def model() -> CompactMixFusion:
    torch.manual_seed(0)
    model = CompactMixFusion().eval()
    torch.nn.init.normal_(model.context.weight, std=0.1)  # starts at zero, which would hide the mixing
    return model


def images(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 255


@torch.inference_mode()
def test_queries_of_one_map_equal_each_alone(model: CompactMixFusion) -> None:
    query, search_map = images(6, 64), images(2, 160, 1)
    together = model(query, search_map)
    assert together.shape == (6, 1, 41, 41)
    for i in range(6):
        alone = model(query[i : i + 1], search_map[i // 3 : i // 3 + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_query_does_not_see_the_map_but_the_map_sees_the_query(model: CompactMixFusion) -> None:
    search_map = model.encode_map(images(1, 160, 1))
    keys_a = model.encode_query(images(1, 64, 2))
    keys_b = model.encode_query(images(1, 64, 3))
    again = model.encode_query(images(1, 64, 2))
    assert torch.equal(keys_a.kernel, again.kernel)
    mixed_a = model.backbone.mix_search(search_map.coarse, keys_a.keys)
    mixed_b = model.backbone.mix_search(search_map.coarse, keys_b.keys)
    assert (mixed_a - mixed_b).abs().max() > 1e-3


@torch.inference_mode()
def test_any_grid_that_is_a_multiple_of_16(model: CompactMixFusion) -> None:
    assert model(images(1, 80), torch.rand(1, 3, 144, 208) * 255).shape == (1, 1, 37, 53)


@torch.inference_mode()
def test_exposure_and_white_balance_do_not_matter(model: CompactMixFusion) -> None:
    query, search_map = images(1, 64), images(1, 160, 1)
    other = query * torch.tensor([0.5, 0.7, 0.6])[None, :, None, None] + 20
    # Not exact: a small constant keeps flat images finite.
    torch.testing.assert_close(model(query, search_map), model(other, search_map), atol=0.15, rtol=0.1)


def test_cells_to_nodes_is_linear_interpolation() -> None:
    """A plane given at cell centres has the plane's values at the nodes, away from the border."""
    rows, cols = torch.meshgrid(torch.arange(6.0), torch.arange(8.0), indexing="ij")
    plane = 3 * (rows + 0.5) + 5 * (cols + 0.5)
    nodes = cells_to_nodes(plane[None, None], torch.Size((25, 33)))[0, 0]
    r, c = torch.meshgrid(torch.arange(25.0) / 4, torch.arange(33.0) / 4, indexing="ij")
    inner = (slice(4, -4), slice(4, -4))
    torch.testing.assert_close(nodes[inner], (3 * r + 5 * c)[inner])


@pytest.fixture(scope="module")
def textured_pair(tmp_path_factory: pytest.TempPathFactory) -> ImagePair:
    folder = tmp_path_factory.mktemp("pair")
    rng = np.random.default_rng(0)
    image = np.zeros((420, 420, 3), np.float32)
    for octave in (7, 14, 28, 60, 140):
        image += cv2.resize(rng.normal(size=(octave, octave, 3)).astype(np.float32), (420, 420)) * 28
    cv2.imwrite(str(folder / "a.png"), np.clip(image + 120, 0, 255))
    return ImagePair("a", "test", folder / "a.png", folder / "a.png", 0.5, np.array([[1.0, 0, 0], [0, 1.0, 0]]))


def test_training_learns_and_resumes(textured_pair: ImagePair, tmp_path: Path) -> None:
    """A few batches lower the loss; a run cut in two continues where it stopped; other widths are refused."""
    drawn = SampleSettings(map_px=128, query_px=48, queries=4, tilt_deg=2, heading_deg=2, height_share=0.02)
    samples, held_out = PairSamples([textured_pair], drawn), PairSamples([textured_pair], drawn, seed=1)
    alone = Processes(0, 1, torch.device("cpu"))

    def run(network: CompactMixFusion, total: int) -> dict[str, float]:
        settings = LocalizerRecipe(
            samples=total * 8,
            maps_per_batch=2,
            warmup_batches=5,
            checkpoint_batches=10,
            check_batches=1000,
            average_decay=0.9,
        )
        check = HeldOut(held_out, 8, settings, alone.device)
        train(LocalizerTask("mix_compact", network, samples, check, settings, alone), tmp_path, alone)
        lines = (tmp_path / "log.jsonl").read_text().splitlines()
        return json.loads(lines[-1])

    assert run(CompactMixFusion(), 10)["batch"] == 10
    last = run(CompactMixFusion(), 50)
    assert last["batch"] == 50
    # Knowing nothing costs log(33 * 33) = 7.0.
    assert last["held_out_loss"] < 5.8
    with pytest.raises(GeolocError, match="is of another version of mix_compact"):
        run(CompactMixFusion(width=32), 10)


def test_weights_round_trip_in_half_precision(model: CompactMixFusion, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_weights(path, model, INFO)
    loaded = load_weights(path)
    assert loaded.info == INFO
    for key, value in model.state_dict().items():
        torch.testing.assert_close(loaded.model.state_dict()[key], value, atol=1e-3, rtol=1e-3)


def test_damaged_and_unfit_weights_are_refused(model: CompactMixFusion, tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    save_weights(path, model, INFO)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GeolocError, match="damaged"):
        load_weights(path)
    path.write_bytes(b"not a weights file")
    with pytest.raises(GeolocError, match="damaged"):
        load_weights(path)
    with pytest.raises(GeolocError, match="no weights 'nowhere'"):
        load_weights("nowhere")
    save_weights(path, CompactMixFusion(width=32), INFO)
    with pytest.raises(GeolocError, match="do not fit the network mix_compact"):
        load_weights(path)
    save_weights(path, torch.nn.Linear(2, 2), INFO)
    with pytest.raises(GeolocError, match="do not fit"):
        load_weights(path)


def test_one_flipped_bit_in_shipped_weights_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = weights_module.shipped("localizer")["default"]
    data = bytearray((weights_module.FOLDER / entry["file"]).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / entry["file"]).write_bytes(data)
    (tmp_path / "index.json").write_text((weights_module.FOLDER / "index.json").read_text())
    monkeypatch.setattr(weights_module, "FOLDER", tmp_path)
    with pytest.raises(GeolocError, match="are damaged: SHA-256"):
        load_weights("default")


def test_shipped_weights_are_small_and_have_a_card() -> None:
    entries = [*weights_module.shipped("localizer").values(), *weights_module.shipped("retriever").values()]
    assert len(entries) == len(json.loads((weights_module.FOLDER / "index.json").read_text()))
    for entry in entries:
        path = weights_module.FOLDER / entry["file"]
        assert path.stat().st_size < 25e6
        assert path.with_suffix(".md").is_file()


def test_engine_pads_maps_and_keeps_coordinates() -> None:
    """A map whose sides are no multiple of 16 gives the place it gives inside a larger one."""
    rng = np.random.default_rng(2)
    image = cv2.resize(rng.integers(0, 255, (40, 40, 3), np.uint8), (330, 330), interpolation=cv2.INTER_CUBIC)
    engine = TorchEngine(device="cpu")
    x, y = 137, 171
    query = image[y - 48 : y + 48, x - 48 : x + 48]
    for side in (330, 301):
        heatmap = engine.infer(query, np.ascontiguousarray(image[:side, :side]))
        assert heatmap.probability.shape == (side // 4 + 1, side // 4 + 1)
        np.testing.assert_allclose(heatmap.peak_xy_px, (x, y), atol=3)


def test_engine_refuses_what_it_cannot_use() -> None:
    engine = TorchEngine(device="cpu")
    good = np.zeros((96, 96, 3), np.uint8)
    with pytest.raises(GeolocError, match="query is"):
        engine.infer(good[..., 0], good)
    with pytest.raises(GeolocError, match="smaller than the query"):
        engine.infer(good, good[:64])
    with pytest.raises(GeolocError, match="unknown device 'abacus'"):
        TorchEngine(device="abacus")
