# SPDX-License-Identifier: Apache-2.0
"""`geoloc gallery` from a map to a ranking, and its bench, on small data."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from geoloc_ros.cli.bench import gallery as command
from geoloc_ros.cli.bench import gallery_vectors, measuring
from geoloc_ros.cli.main import main
from geoloc_ros.core.maps.raster import RasterMap
from geoloc_ros.core.relocalization.gallery import Gallery


@pytest.fixture(scope="module")
def map_path(tmp_path_factory: pytest.TempPathFactory, write_patchwork: Callable[..., Path]) -> Path:
    return write_patchwork(tmp_path_factory.mktemp("city") / "city.tif")


@pytest.fixture(scope="module")
def gallery(map_path: Path, small_retriever: Path) -> Path:
    assert main(["gallery", "build", str(map_path), "--weights", str(small_retriever), "--tile-m", "100"]) == 0
    return map_path.with_name("city.tif.gallery")


def test_a_gallery_lies_beside_its_map(
    gallery: Path, map_path: Path, small_retriever: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["gallery", "info", str(gallery), "--map", str(map_path)]) == 0
    printed = capsys.readouterr().out
    assert f"tiles     {len(Gallery(gallery))}: {len(Gallery(gallery))} of 100 m\n" in printed
    assert "map       city.tif, looks " in printed and ", the one given\n" in printed
    assert main(["gallery", "build", str(map_path), "--weights", str(small_retriever)]) == 2
    assert "city.tif.gallery is there already: delete it" in capsys.readouterr().err


def test_a_picture_of_a_tile_finds_it(
    gallery: Path, map_path: Path, small_retriever: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Gallery(gallery)
    row = len(opened) // 2
    place = float(opened.lat_deg[row]), float(opened.lon_deg[row])
    with RasterMap(map_path) as source:
        crop = source.crop(*place, 100.0, 64).image
    cv2.imwrite(str(tmp_path / "view.png"), cv2.copyMakeBorder(crop, 0, 0, 16, 16, cv2.BORDER_REPLICATE)[..., ::-1])
    cv2.imwrite(str(tmp_path / "sea.png"), np.full((64, 64, 3), 90, np.uint8))
    search = ["gallery", "search", str(gallery)]
    with_weights = ["--weights", str(small_retriever), "--top", "3"]
    assert main([*search, str(tmp_path / "view.png"), *with_weights]) == 0
    first = next(line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("1 "))
    assert first.split()[2:] == [f"{place[0]:.6f}", f"{place[1]:.6f}", "100"]
    assert main([*search, str(tmp_path / "sea.png"), *with_weights]) == 0
    assert "is of one colour: this ranking says nothing about its place" in capsys.readouterr().err
    assert main([*search, str(tmp_path / "view.png"), *with_weights, "--near", "0", "0"]) == 2
    assert "no tile lies within 1000 m of 0.0, 0.0: the gallery spans" in capsys.readouterr().err
    assert main([*search, str(tmp_path / "none.png"), *with_weights]) == 2
    assert "none.png: No such file or directory; give an image" in capsys.readouterr().err


def test_the_weights_that_ship_are_the_default(
    gallery: Path, map_path: Path, shipping: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And they know a gallery that was made with the same weights under another name."""
    other = tmp_path / "other.gallery"
    assert main(["gallery", "build", str(map_path), "--tile-m", "100", "--out", str(other)]) == 0
    assert other.read_bytes() == gallery.read_bytes()
    cv2.imwrite(str(tmp_path / "view.png"), np.eye(64, dtype=np.uint8)[..., None].repeat(3, 2) * 255)
    assert main(["gallery", "search", str(gallery), str(tmp_path / "view.png"), "--top", "1"]) == 0
    assert main(["gallery", "build", str(map_path), "--weights", "mix_compact"]) == 2
    assert "of a localizer, here a retriever is needed" in capsys.readouterr().err


def test_mistakes_are_one_line(
    gallery: Path,
    map_path: Path,
    small_retriever: Path,
    tmp_path: Path,
    write_patchwork: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = ["--weights", str(small_retriever)]
    cv2.imwrite(str(tmp_path / "view.png"), np.eye(64, dtype=np.uint8)[..., None].repeat(3, 2) * 255)
    view = [str(tmp_path / "view.png"), *weights]
    (tmp_path / "cut.gallery").write_bytes(gallery.read_bytes()[:-100])
    (tmp_path / "empty.gallery").touch()
    other = write_patchwork(tmp_path / "other.tif", seed=4)
    for arguments, told in (
        (["search", str(tmp_path / "cut.gallery"), *view], "cut.gallery is truncated: it has"),
        (["search", str(tmp_path / "empty.gallery"), *view], "empty.gallery is an empty file"),
        (["info", str(gallery), "--map", str(other)], "is of another map than this one, city.tif"),
        (["build", str(other), *weights], "the map spans 480 x 360 m, less than"),
        (["search", str(gallery), *view, "--top", "0"], "0 tiles are asked for"),
    ):
        tile_m = ["--tile-m", "400"] if arguments[0] == "build" else []
        assert main(["gallery", *arguments, *tile_m]) == 2
        error = capsys.readouterr().err
        assert told in error and len(error.strip().splitlines()) == 1
    assert main(["gallery", "search", str(gallery), *view, "--top", "5000"]) == 0
    assert f" {len(Gallery(gallery))} " in capsys.readouterr().out.splitlines()[-2]


@pytest.mark.parametrize("codes", [False, True])
def test_bench_prints_time_and_recall(
    codes: bool, shipping: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "keep_to_cores", lambda cores: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(command, "TARGETS", {3000: (1e4, 5.0)})
    arguments = ["--queries", "5", "--json", str(tmp_path / "f.json"), *(["--codes"] if codes else [])]
    assert main(["bench", "gallery", *arguments, "--tiles", "3000", "500"]) == 0
    report = json.loads((tmp_path / "f.json").read_text())
    assert report["weights"].startswith("small-") and report["embedding_ms"]["p50"] > 0
    assert [row["tiles"] for row in report["rows"]] == [3000, 3000, 500, 500]
    ours, numpy_ = report["rows"][:2]
    assert (ours["search"], numpy_["search"]) == ("by codes" if codes else "exact", "NumPy")
    assert ours["recall"] >= (0.5 if codes else 0.99) and min(ours["ms"]["p50"], numpy_["ms"]["p50"]) > 0
    assert ours["file_mb"] == pytest.approx(3000 * 24 * 2e-6) and numpy_["index_mb"] == 2 * ours["file_mb"]
    codes_mb = ours["index_mb"] - 3000 * 20e-6
    assert codes_mb > 3000 * 24e-6 if codes else codes_mb == pytest.approx(0)
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("recall@10", "index MB", "file MB", "build s"))
    assert printed.count("3,000 tiles: within the targets of 10000 ms p50 and a recall of 0.95, 5 MB") == (
        ours["recall"] >= 0.95
    )
    assert main(["bench", "gallery", "--tiles", "3"]) == 2


def test_generated_vectors_are_alike_as_real_ones_are(tmp_path: Path) -> None:
    """Unit vectors; the mean, neighbours, parts of a town and views have the stated products."""
    vectors, asked = gallery_vectors.generate(40_000, 128, 300, tmp_path / "v")
    rows = vectors.astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=2e-3)
    assert np.square(rows.mean(0)).sum() == pytest.approx(0.19, abs=0.05)
    near, wide, far = ((rows[:-step:7] * rows[step::7]).sum(1).mean() for step in (1, 100, 20_000))
    assert near == pytest.approx(0.19 + 0.81 * (0.3 + 0.38 * 19 / 20), abs=0.03)
    assert wide == pytest.approx(0.19 + 0.81 * 0.3 / 2, abs=0.03), "half of these pairs are of one part of town"
    assert far == pytest.approx(0.19, abs=0.03)
    # A view of a tile: its best match among all is at least as good.
    assert (asked @ rows.T).max(1).mean() > 0.19 + 0.81 * 0.57
