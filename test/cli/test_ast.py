# SPDX-License-Identifier: Apache-2.0
"""`geoloc ast` from training to figures and images, on a small tree."""

import json
from pathlib import Path

import cv2
import pytest

from geoloc_ros.cli.main import main


@pytest.fixture(scope="module")
def weights(university_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of full size whose heads alone were trained for a moment."""
    out = tmp_path_factory.mktemp("ast")
    arguments = [str(university_tree), "--set", "university1652", "--out", str(out), "--preset", "dinov2_ast"]
    arguments += ["--trainable-blocks", "0", "--epochs", "2", "--pairs-per-batch", "3", "--eight-bit"]
    assert main(["ast", "train", *arguments]) == 0
    return out / "dinov2_ast.safetensors"


def test_training_writes_weights_that_ship(weights: Path) -> None:
    assert weights.stat().st_size < 25e6


def test_both_tasks_and_their_breakdowns(
    weights: Path, university_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--set", "university1652", "--weights", str(weights), "--json", str(tmp_path / "f.json")]
    command = ["ast", "evaluate", str(university_tree), *arguments, "--by", "distance", "--by", "angle"]
    assert main(command) == 0
    figures = json.loads((tmp_path / "f.json").read_text())
    assert list(figures) == ["drone-to-satellite", "satellite-to-drone"]
    ((name, of_task),) = figures["drone-to-satellite"].items()
    assert name.startswith("dinov2_ast-")
    assert {subset: row["queries"] for subset, row in of_task.items()} == {
        "all": 24, "long": 12, "middle": 6, "short": 6, "0°": 18, "20°": 6,
    }  # fmt: skip
    assert list(figures["satellite-to-drone"][name]) == ["all"]
    assert 0 < of_task["all"]["AP"] <= 1
    assert of_task["all"]["R@10"] == 1.0, "all eight images of the gallery"
    printed = capsys.readouterr().out
    assert "satellite-to-drone: gallery of 32" in printed


def test_the_weights_that_ship_are_the_default(
    shipping: Path, university_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ast", "evaluate", str(university_tree), "--set", "university1652"]) == 0
    assert "small-" in capsys.readouterr().out
    image = university_tree / "test" / "query_satellite" / "0101" / "0101.jpg"
    assert main(["ast", "show", str(image), "--out", str(tmp_path / "s.png")]) == 0


def test_a_sheet_of_attention_and_matches(weights: Path, university_tree: Path, tmp_path: Path) -> None:
    image = university_tree / "test" / "query_satellite" / "0101" / "0101.jpg"
    gallery = university_tree / "test" / "gallery_satellite"
    arguments = ["--weights", str(weights), "--gallery", str(gallery), "--top", "2", "--out", str(tmp_path / "s.png")]
    assert main(["ast", "show", str(image), str(image), *arguments]) == 0
    sheet = cv2.imread(str(tmp_path / "s.png"))
    # Two rows of the image, attention, segments and two matches.
    assert sheet.shape == (2 * 252 + 6, 5 * 230 + 6, 3)
    # The same image lies in the gallery: the first match is framed green, not the second.
    best, next_best = sheet[8, 6 + 3 * 230 + 100], sheet[8, 6 + 4 * 230 + 100]
    assert best[1] > best[2]
    assert next_best[2] > next_best[1]


def test_every_network_is_listed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["ast", "models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    papers = [line.split() for line in lines if line.split()[:1] == ["ast"]]
    assert papers[0] == ["ast", "256", "3", "increasing", "2048", "23.92", "21.69", "5.53", "6.14"]
    for rows in ("Table 4 Decreasing", "Table 5 Mean", "Table 6 CE + MT", "Table 9 W/o Sharing", "Table 3 Vanilla"):
        assert any(rows in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("evaluate x --weights none.safetensors", "no weights 'none.safetensors': "),
        ("evaluate x --weights mix_compact", "of a localizer, here a retriever is needed"),
        ("train x --preset zero_shot_class", "has nothing to train"),
        ("train x --epochs 0", "0 epochs train nothing: give at least 1"),
        ("train nowhere --set university1652 --out {}/o", "nowhere has no folder train"),
        ("show x.png --weights w --top 0", "--top is 0: give at least 1"),
    ],
)
def test_mistakes_are_one_line(arguments: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ast", *arguments.format(tmp_path).split()]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("verb", ["models", "train", "evaluate", "show"])
def test_every_verb_is_explained(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["ast", verb, "--help"])
    assert stop.value.code == 0
    assert "show this help message" in capsys.readouterr().out
