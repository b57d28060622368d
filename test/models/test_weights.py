# SPDX-License-Identifier: Apache-2.0
"""Weights by name and file: no localizer is taken for a retriever or the other way round, no damaged one for whole."""

import json
from pathlib import Path

import pytest

from geoloc_models.ast.retriever_weights import load_retriever
from geoloc_models.errors import GeolocError
from geoloc_models.weights import load_weights, sha256, shipped


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
    told = (
        "no weights 'retrieval': this version ships no retriever, make one with `geoloc ast train` and give"
    )
    with pytest.raises(GeolocError, match=told):
        load_retriever()
    with pytest.raises(
        GeolocError, match=r"no weights 'x\.safetensors': give a file, or one of mix_compact$"
    ):
        load_weights("x.safetensors")
