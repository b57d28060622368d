# SPDX-License-Identifier: Apache-2.0
"""The alignment head's targets and loss, its cached features, and a small training from images to weights."""

import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from geoloc_models.datasets.image_pairs import is_held_out
from geoloc_models.drl.alignment_head import AlignmentHead, block_matches
from geoloc_models.drl.hybrid_mix_fusion import HybridMixFusion
from geoloc_models.errors import GeolocError
from geoloc_models.training.alignment_data import AlignmentSource, AlignmentViews, PoseErrors
from geoloc_models.training.alignment_task import AlignmentTask, block_displacements, block_losses
from geoloc_models.training.plans import PLANS, AlignmentPlan
from geoloc_models.training.processes import Processes
from geoloc_models.training.recipe import AlignmentRecipe
from geoloc_models.training.trainer import train
from geoloc_models.weights import LoadedWeights, load_weights
from geoloc_ros.cli.main import main

ALONE = Processes(0, 1, torch.device("cpu"))
TINY = AlignmentRecipe(
    views=8, epochs=3, views_per_batch=4, other_maps=2, same_map=2, checkpoint_batches=2, check_batches=3
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs in LEVIR's layout, the second of a held-out scene."""
    root = tmp_path_factory.mktemp("data")
    names = [next(n for n in map(str, range(99)) if is_held_out(n) == held_out) for held_out in (False, True)]
    rng = np.random.default_rng(0)
    for folder in ("A", "B"):
        (root / "pairs" / "levir" / folder).mkdir(parents=True)
    for name in names:
        image = sum(cv2.resize(rng.uniform(0, 60, (n, n, 3)), (600, 600), interpolation=3) for n in (9, 40, 150, 600))
        for folder in ("A", "B"):
            cv2.imwrite(str(root / "pairs" / "levir" / folder / f"{name}.png"), np.clip(image, 0, 255))
    return root


@pytest.fixture(scope="module")
def network() -> LoadedWeights:
    return load_weights("default")


@pytest.fixture(scope="module")
def views(data: Path, network: LoadedWeights, tmp_path_factory: pytest.TempPathFactory) -> AlignmentViews:
    return source(data).views(8, network, tmp_path_factory.mktemp("views"), ALONE.device)


def source(data: Path) -> AlignmentSource:
    return AlignmentSource(data, ("levir",), held_out=False, seed=1)


def test_targets_are_where_the_homography_puts_the_blocks() -> None:
    homographies = np.array([[[1, 0, 32], [0, 1, 32], [0, 0, 1]], [[0.9, -0.2, 60], [0.25, 1.1, 5], [1e-4, -3e-4, 1]]])
    found = block_displacements(homographies).numpy()
    assert found.shape == (2, 11, 11, 2)
    np.testing.assert_allclose(found[0], 0, atol=1e-6)
    for row in range(11):
        for column in range(11):
            middle = np.array([[[16.0 * column + 16, 16.0 * row + 16]]])
            on_window = cv2.perspectiveTransform(middle, homographies[1])[0, 0]
            # In the window, 64 nodes, the view, 48 nodes, is expected 8 nodes from the edges.
            np.testing.assert_allclose(found[1, row, column], (on_window - middle[0, 0]) / 4 - 8, atol=1e-5)


def test_loss_against_a_loop() -> None:
    rng = torch.Generator().manual_seed(0)
    log_posterior = (3 * torch.randn(2, 290, 2, 3, generator=rng)).log_softmax(1)
    displacement = 18 * torch.rand(2, 2, 3, 2, generator=rng) - 9
    displacement[0, 0, 0] = torch.tensor([8.0, -8.0])
    displacement[0, 0, 1] = torch.tensor([8.01, 0.0])
    losses, inside = block_losses(log_posterior, displacement)
    assert inside[0, 0, 0] and not inside[0, 0, 1]
    for item, row, column in np.ndindex(2, 2, 3):
        p = log_posterior[item, :, row, column].exp().tolist()
        x, y = displacement[item, row, column].tolist()
        expected = -math.log(p[289])
        if abs(x) <= 8 and abs(y) <= 8:
            expected = 0.0
            for u, v in np.ndindex(17, 17):
                share = max(0.0, 1 - abs(u - 8 - x)) * max(0.0, 1 - abs(v - 8 - y))
                expected -= share * math.log(p[17 * v + u] + p[289] / 289)
        assert inside[item, row, column] == (abs(x) <= 8 and abs(y) <= 8)
        assert losses[item, row, column].item() == pytest.approx(expected, rel=1e-4)


def test_windows_show_the_map_around_the_view(data: Path, views: AlignmentViews) -> None:
    """The homography of a window, whose corner is a node of the map, is that of the map."""
    sample = PoseErrors(data, ("levir",), False, 1)[1]
    for k, row in enumerate(range(4, 8)):
        window_from_map = np.eye(3)
        window_from_map[:2, 2] = -4 * views.corner_xy[row]
        expected = window_from_map @ sample["map_from_query"][k].double().numpy()
        np.testing.assert_allclose(views.window_from_view[row], expected / expected[2, 2], rtol=1e-4, atol=1e-3)
        # A coarse fix is at most 2 nodes off, rounded to a node.
        middle = views.window_from_view[row] @ [96, 96, 1]
        assert np.abs(middle[:2] / middle[2] - 128).max() <= 10
    for row in range(8):
        for other in views.apart(row, 20):
            assert other // 4 == row // 4
            assert np.abs(views.corner_xy[other] - views.corner_xy[row]).max() > 20


def test_half_written_features_go_on(data: Path, network: LoadedWeights, views: AlignmentViews, tmp_path: Path) -> None:
    first = source(data).views(4, network, tmp_path, ALONE.device)
    assert len(first) == 4
    grown = source(data).views(8, network, tmp_path, ALONE.device)
    for name in ("view", "window", "window_from_view", "corner_xy"):
        np.testing.assert_array_equal(getattr(grown, name), getattr(views, name), err_msg=name)
    assert np.asarray(grown.view).any(axis=(1, 2, 3)).all()
    again = source(tmp_path / "not read again").views(8, network, tmp_path, ALONE.device)
    np.testing.assert_array_equal(again.view, views.view)
    with pytest.raises(GeolocError, match="holds views of"):
        replace(source(data), seed=2).views(4, network, tmp_path, ALONE.device)


class Stopped(AlignmentTask):
    """Is interrupted in its fifth batch."""

    def batches(self, start: int) -> Iterator[object]:
        for number, batch in enumerate(super().batches(start)):
            if number == 4:
                raise KeyboardInterrupt
            yield batch


def test_an_interrupted_run_ends_the_same(views: AlignmentViews, tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = AlignmentHead()

    def task(kind: type[AlignmentTask] = AlignmentTask) -> AlignmentTask:
        head = AlignmentHead()
        head.load_state_dict(start.state_dict())
        return kind("head", head, views, views, TINY, ALONE)

    whole = train(task(), tmp_path / "whole", ALONE).model.state_dict()
    with pytest.raises(KeyboardInterrupt):
        train(task(Stopped), tmp_path / "parts", ALONE)
    resumed = train(task(), tmp_path / "parts", ALONE).model.state_dict()
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
    assert not torch.equal(whole["skip.weight"], start.state_dict()["skip.weight"])
    with pytest.raises(GeolocError, match="one process"):
        AlignmentTask("head", start, views, views, TINY, Processes(0, 2, ALONE.device))


def test_a_plan_writes_weights_that_align(
    data: Path, network: LoadedWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The network stays as it was, bit by bit; the second run goes on from the first one's head."""
    short = replace(TINY, views=4, epochs=1)
    plan = AlignmentPlan("two short runs", "default", (short, replace(TINY, learning_rate=1e-9)), ("levir",), 4)
    monkeypatch.setitem(PLANS, "test/alignment", plan)
    command = ["train", str(data), "test/alignment", "--out", str(tmp_path), "--workers", "0", "--device", "cpu"]
    assert main(command) == 0
    first, second = (
        torch.load(tmp_path / f"{number}" / "checkpoint.pt", weights_only=True)["average"] for number in (1, 2)
    )
    written = load_weights(tmp_path / "mix_hybrid.safetensors")
    assert written.info == network.info
    assert isinstance(written.model, HybridMixFusion) and written.model.alignment is not None
    for key, value in network.model.state_dict().items():
        if not key.startswith("alignment."):
            assert torch.equal(written.model.state_dict()[key], value), key
    for key, value in written.model.alignment.state_dict().items():
        torch.testing.assert_close(first[f"module.{key}"], second[f"module.{key}"], rtol=0, atol=1e-6)
        torch.testing.assert_close(second[f"module.{key}"], value, rtol=1e-2, atol=2e-3)
    assert "by the plan test/alignment" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "views")
    assert main([*command[:1], str(tmp_path), *command[2:]]) == 2  # neither pairs/ nor tiles/
    assert main([*command, "--backbone-weights", "x"]) == 2

    image = cv2.imread(str(next((data / "pairs" / "levir" / "A").iterdir())))
    whole = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        search_map = written.model.encode(whole[..., :384, :384], 24.0).fine
        view = written.model.encode(whole[..., 100:292, 80:272], 24.0).fine
        descriptors = [written.model.alignment(features) for features in (view, search_map)]
    # The view's middle is at (176, 196); expected at (184, 188) it lies 2 nodes left and 2 down.
    matches = block_matches(written.model.alignment, *descriptors, (184.0, 188.0))
    best = matches.probability.reshape(len(matches.probability), -1).argmax(1)
    assert (np.median(best % 17) - 8, np.median(best // 17) - 8) == (-2, 2)
