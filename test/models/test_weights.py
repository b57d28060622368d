# SPDX-License-Identifier: Apache-2.0
"""Weights by name and file: no localizer is taken for a retriever or the other way round, no damaged one for whole.

And their int8 form: what comes back, and that an incomplete file is refused.
"""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import pad

from geoloc_models.ast.retriever_weights import load_retriever
from geoloc_models.drl.compact_mix_fusion import CompactMixFusion
from geoloc_models.errors import GeolocError
from geoloc_models.weights import WeightsInfo, load_weights, save_weights, sha256, shipped

INFO = WeightsInfo("mix_compact", 128, 0.25, 1.2, 0.7)


@pytest.fixture
def network() -> CompactMixFusion:
    torch.manual_seed(3)
    return CompactMixFusion()


@pytest.fixture
def stored(network: CompactMixFusion, tmp_path: Path) -> dict[str, torch.Tensor]:
    """The tensors of an int8 file, which may be changed and written again."""
    save_weights(tmp_path / "own.safetensors", network, INFO, eight_bit=True)
    return load_file(tmp_path / "own.safetensors")


def written(stored: dict[str, torch.Tensor], folder: Path) -> Path:
    path = folder / "changed.safetensors"
    save_file(stored, path, {"geoloc": json.dumps(asdict(INFO))})
    return path


def test_the_retriever_that_ships_is_loaded_by_name(shipping: Path) -> None:
    retriever, info = load_retriever(device="cpu")
    assert (info.name, retriever.dim) == ("small", 24)
    assert list(shipped("retriever")) == ["retrieval"] and list(shipped("localizer")) == ["mix_compact"]


def test_the_id_is_of_the_content(shipping: Path, small_retriever: Path) -> None:
    """A renamed file has made the same galleries."""
    by_name, by_path = (load_retriever(weights, "cpu")[0] for weights in ("retrieval", small_retriever))
    assert by_name.weights_id == by_path.weights_id == f"small-{sha256(small_retriever)[:8]}"


def test_each_kind_is_refused_where_the_other_is_needed(shipping: Path) -> None:
    a_localizer = "of a localizer, here a retriever is needed: give a file, or one of retrieval$"
    a_retriever = "of a retriever, here a localizer is needed: give a file, or one of mix_compact$"
    for weights in ("mix_compact", shipping / "mix_compact.safetensors"):
        with pytest.raises(GeolocError, match=a_localizer):
            load_retriever(weights)
    for weights in ("retrieval", shipping / "net.safetensors"):
        with pytest.raises(GeolocError, match=a_retriever):
            load_weights(weights)


def test_a_flipped_bit_is_seen(shipping: Path) -> None:
    data = bytearray((shipping / "net.safetensors").read_bytes())
    data[-1] ^= 1
    (shipping / "net.safetensors").write_bytes(data)
    with pytest.raises(GeolocError, match=r"net\.safetensors are damaged: SHA-256 is"):
        load_retriever()
    (shipping / "net.safetensors").unlink()
    with pytest.raises(GeolocError, match=r"cannot read weights .*net\.safetensors: No such file"):
        load_retriever()


def test_without_a_retriever_the_remedy_is_told(shipping: Path) -> None:
    index = json.loads((shipping / "index.json").read_text())
    (shipping / "index.json").write_text(json.dumps({"mix_compact": index["mix_compact"]}))
    told = "no weights 'retrieval': this version ships no retriever, make one with `geoloc ast train` and give"
    with pytest.raises(GeolocError, match=told):
        load_retriever()
    with pytest.raises(GeolocError, match=r"no weights 'x\.safetensors': give a file, or one of mix_compact$"):
        load_weights("x.safetensors")


def test_int8_weights_come_back_within_half_a_step(
    network: CompactMixFusion, stored: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    loaded = load_weights(tmp_path / "own.safetensors")
    assert loaded.info == INFO
    state = loaded.model.state_dict()
    assert {value.dtype for value in state.values()} <= {torch.float32, torch.int64}
    for key, value in network.state_dict().items():
        if stored[key].dtype == torch.int8:
            off, size = ((tensor.flatten(1).abs()) for tensor in (state[key] - value, value))
            off, size = (pad(tensor, (0, -tensor.shape[1] % 64)).unflatten(1, (-1, 64)) for tensor in (off, size))
            assert (off.amax(2) <= 0.51 / 127 * size.amax(2) + 1e-8).all(), key
        else:
            torch.testing.assert_close(state[key], value, atol=1e-3, rtol=1e-3)


def test_int8_halves_the_file(network: CompactMixFusion, stored: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_weights(tmp_path / "half.safetensors", network, INFO)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("own", "half")]
    assert sizes[0] / sizes[1] == pytest.approx(0.5, abs=0.02)
    assert all(value.dtype != torch.int8 for value in stored.values() if value.numel() <= 4096)


def test_writing_the_same_weights_again_changes_nothing(stored: dict[str, torch.Tensor], tmp_path: Path) -> None:
    """So calibrating an int8 file costs nothing more."""
    save_weights(tmp_path / "again.safetensors", load_weights(tmp_path / "own.safetensors").model, INFO, True)
    again = load_file(tmp_path / "again.safetensors")
    for key, value in stored.items():
        if value.dtype == torch.int8:
            assert torch.equal(again[key], value)


def test_an_int8_matrix_without_its_scales_is_refused(stored: dict[str, torch.Tensor], tmp_path: Path) -> None:
    key = next(key for key, value in stored.items() if value.dtype == torch.int8)
    scale = stored.pop(f"{key}.scale")
    with pytest.raises(GeolocError, match=rf"changed.* are incomplete: {key} is int8 and .*scale is missing; get"):
        load_weights(written(stored, tmp_path))
    for wrong in (scale[:-1], scale[:, 1:], scale[0]):
        stored[f"{key}.scale"] = wrong.clone()
        with pytest.raises(GeolocError, match=r"incomplete: .*\.scale is of another shape"):
            load_weights(written(stored, tmp_path))


def test_scales_without_their_matrix_and_wrong_shapes_are_refused(
    stored: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    key = next(key for key, value in stored.items() if value.dtype == torch.int8)
    matrix = stored[key]
    for wrong in (None, matrix.float(), matrix.flatten(1)):
        if wrong is None:
            del stored[key]
        else:
            stored[key] = wrong
        with pytest.raises(GeolocError, match="do not fit the network mix_compact"):
            load_weights(written(stored, tmp_path))
