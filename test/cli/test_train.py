# SPDX-License-Identifier: Apache-2.0
"""`geoloc train`: a short run on a tree in the UL14 layout, and one line for each of the user's mistakes."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from geoloc_models.training.checkpoints import write_state
from geoloc_models.weights import load_weights
from geoloc_ros.cli.main import main


@pytest.fixture(scope="module")
def two_places(ul14_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generated tree with its one training place a second time under another name."""
    root = tmp_path_factory.mktemp("two") / "ul14"
    shutil.copytree(ul14_tree / "train", root / "train")
    for item in list((root / "train").iterdir()):
        shutil.copytree(item, item.with_name(item.name.replace("Place1", "Other")))
    return root


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of an error."""
    assert main(["train", *map(str, arguments), "--device", "cpu"]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


def test_a_run_ends_in_weights_that_load(two_places: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--epochs", "1", "--maps-per-batch", "1", "--workers", "0", "--device", "cpu"]
    out = tmp_path / "run"
    assert main(["train", str(two_places), "mix_compact", "--out", str(out), *arguments]) == 0
    assert "wrote" in capsys.readouterr().out
    info = load_weights(out / "mix_compact.safetensors").info
    assert info.network == "mix_compact"
    assert (info.gsd_min_m, info.gsd_max_m) == pytest.approx((0.46 * 512 / 288, 0.46 * 1000 / 288))
    (line,) = (json.loads(text) for text in (out / "log.jsonl").read_text().splitlines())
    assert line["batch"] == 3
    assert {"rds", "ma5", "ma20", "median_m", "loss"} <= line.keys()


def test_data_of_no_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds neither train/ (the UL14 layout) nor pairs/" in refused(capsys, tmp_path / "nothing")


def test_an_unknown_preset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no preset is called 'mix_resnet'" in refused(capsys, tmp_path, "mix_resnet")


def test_arguments_of_the_other_layout(ul14_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--heading-deg is for image pairs" in refused(capsys, ul14_tree, "--heading-deg", 20)
    (tmp_path / "pairs").mkdir()
    assert "--epochs is for the UL14 layout" in refused(capsys, tmp_path, "--epochs", 2)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--epochs", "0"), "--epochs is 0: give a positive number"),
        (("--learning-rate", "nan"), "--learning-rate is nan: give a positive number"),
        (("--workers", "-1"), "--workers is -1"),
        (("--rsc", "big"), "'big' names no crop sides"),
        (("--held-out-place", "Mars"), "no training item is of the place 'Mars': choose of Place1"),
        (("--held-out-place", "Place1"), "are held out: leave at least one for training"),
        (("--maps-per-batch", "40"), "3 training items do not fill a batch of 40"),
        (("--device", "gpu"), "unknown device 'gpu'"),
    ],
)
def test_impossible_arguments(
    arguments: tuple[str, ...], text: str, ul14_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(ul14_tree), "--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert text in error
    assert len(error.splitlines()) == 1


def test_a_checkpoint_of_another_preset(ul14_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_state(tmp_path / "checkpoint.pt", {"network": "mix_cvt13_ccn_gc"})
    error = refused(capsys, ul14_tree, "mix_compact", "--out", tmp_path, "--maps-per-batch", 1)
    assert "checkpoint.pt is of mix_cvt13_ccn_gc, not of mix_compact" in error


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("size", "text"),
    [
        ((300, 400), "is 400x300 px: a training map must be square"),
        ((200, 200), "is 200x200 px, smaller than a crop of"),
        (None, "cannot read image"),
    ],
)
def test_training_maps_that_cannot_be(
    size: tuple[int, int] | None,
    text: str,
    workers: int,
    ul14_tree: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(ul14_tree / "train", tmp_path / "train")
    for satellite in (tmp_path / "train").glob("*/Satellite/*"):
        if size is None:
            satellite.write_bytes(b"no image")
        else:
            cv2.imwrite(str(satellite), np.zeros((*size, 3), np.uint8))
    arguments = ("--out", tmp_path / "out", "--workers", workers, "--maps-per-batch", 1)
    error = refused(capsys, tmp_path, "mix_compact", *arguments)
    assert text in error
    assert "Satellite" in error


def test_sources_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pairs").mkdir()
    assert "no levir pairs under" in refused(capsys, tmp_path, "--out", tmp_path / "out")
