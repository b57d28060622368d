# SPDX-License-Identifier: Apache-2.0
"""`geoloc models` lists what ships and what can be trained."""

import sys
from pathlib import Path

import pytest

from geoloc_models.backbones.timm_backbone import import_timm
from geoloc_models.drl import presets
from geoloc_models.weights import FOLDER, shipped
from geoloc_ros.cli.main import main


def test_lists_weights_and_networks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    names = ("mix_compact", "mix_hybrid", "mix_cvt13_ccn_linear", "mix_cvt13_ccn_linear_rsc_512to768")
    few = {name: presets.PRESETS[name] for name in names}
    monkeypatch.setattr(presets, "PRESETS", few)
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    for name, entry in {**shipped("localizer"), **shipped("retriever")}.items():
        assert name in text
        assert f"{(FOLDER / entry['file']).stat().st_size / 1e6:.1f}" in text
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if "table V" in line}
    assert list(rows) == list(names[2:])
    # Parameters, both counts of MACs and what the paper reports.
    for figure in ("19.65 M", "13.23", "18.14", "0.681", "0.721", "table V, X"):
        assert figure in rows["mix_cvt13_ccn_linear"]
    assert "0.606" in rows["mix_cvt13_ccn_linear_rsc_512to768"]


def test_localizers_and_retrievers_have_tables_of_their_own(
    shipping: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(presets, "PRESETS", {"mix_compact": presets.PRESETS["mix_compact"]})
    assert main(["models"]) == 0
    localizers, retrievers = capsys.readouterr().out.split("retriever", 1)
    assert "mix_compact" in localizers and "retrieval" not in localizers
    row = next(line for line in retrievers.splitlines() if "retrieval" in line)
    digest = shipped("retriever")["retrieval"]["sha256"][:8]
    assert [cell.strip() for cell in row.split("│")[1:5]] == ["retrieval", "small", "32 px", "50 to 130 m"]
    assert "24 numbers" in row and digest in row


def test_words_choose_networks(capsys: pytest.CaptureFixture[str]):
    assert main(["models", "gem", "table", "V"]) == 0
    text = capsys.readouterr().out
    assert "mix_cvt13_ccn_gem" in text
    assert text.count("mix_") == 1
    assert "SHA-256" not in text


def test_unknown_words_are_told(capsys: pytest.CaptureFixture[str]):
    assert main(["models", "resnet18"]) == 2
    assert "no network has 'resnet18'" in capsys.readouterr().err


def test_networks_of_timm_are_listed_without_it(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """As after `pip install .`: timm is an extra."""
    import_timm.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    names = ("post_resnet50_ccn_gc", "mix_compact")
    monkeypatch.setattr(presets, "PRESETS", {name: presets.PRESETS[name] for name in names})
    assert main(["models", "_"]) == 0
    text = capsys.readouterr().out
    import_timm.cache_clear()
    row = next(line for line in text.splitlines() if names[0] in line and "│" in line)
    assert [cell.strip() for cell in row.split("│")[2:8]] == ["", "", "", "0.208", "0.059", "table VIII"]
    assert f"Not counted: {names[0]}. This network needs timm" in text
    assert "pip install" in text
