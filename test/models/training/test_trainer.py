# SPDX-License-Identifier: Apache-2.0
"""Training goes on as if nothing had happened after a kill, and is the same with two processes as with one."""

import importlib
import json
import math
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from geoloc_models.datasets.image_pairs import ImagePair
from geoloc_models.datasets.pair_samples import PairSamples, SampleSettings
from geoloc_models.devices import choose_device
from geoloc_models.errors import GeolocError
from geoloc_models.training.held_out import HeldOut, calibrate
from geoloc_models.training.localizer_task import LocalizerTask
from geoloc_models.training.processes import Processes
from geoloc_models.training.recipe import DRL_PAPER, LocalizerRecipe, cosine
from geoloc_models.training.trainer import Trained, train

SCRIPT = Path(__file__).with_name("small_training.py")
ALONE = Processes(0, 1, torch.device("cpu"))
QUICK = LocalizerRecipe(samples=48, maps_per_batch=4, warmup_batches=2, half=False, check_batches=4)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pair") / "a.png"
    coarse = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    cv2.imwrite(str(path), cv2.resize(coarse, (240, 240), interpolation=cv2.INTER_CUBIC))
    return path


@pytest.fixture(scope="module")
def samples(image: Path) -> PairSamples:
    pair = ImagePair("a", "test", image, image, 0.5, np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    return PairSamples([pair], SampleSettings(map_px=48, query_px=16, queries=2))


@pytest.fixture(scope="module")
def whole(image: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of 30 batches by one process without interruption."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("plain", "random")}
    for kind, folder in folders.items():
        runpy.run_path(str(SCRIPT))["main"](image, folder, kind, 30)
    return folders


class Lookup(nn.Module):
    """Logits that depend on one parameter and no image."""

    def __init__(self, cells: Tensor) -> None:
        super().__init__()
        self.cells = nn.Parameter(cells)

    def forward(self, query: Tensor, search_map: Tensor) -> Tensor:
        return self.cells.expand(len(query), 1, -1, -1)


def trained(
    name: str, model: nn.Module, samples: PairSamples, held_out: HeldOut | None, out: Path, recipe: LocalizerRecipe
) -> Trained:
    return train(LocalizerTask(name, model, samples, held_out, recipe, ALONE), out, ALONE)


def weights(folder: Path, rank: int = 0) -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(folder / f"rank{rank}.pt", weights_only=True)
    return state


def log(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    for line in lines:
        del line["pairs_per_s"]
    return lines


def test_killed_and_resumed_training_ends_the_same(image: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    """SIGKILL somewhere in the middle, then the same command again: same weights, same figures."""
    command = [sys.executable, str(SCRIPT), str(image), str(tmp_path), "random", "30"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 150
    while not (tmp_path / "checkpoint.pt").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait(30)
    done = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["done"]
    assert 0 < done < 30
    assert not (tmp_path / "rank0.pt").exists()
    subprocess.run(command, check=True, timeout=200, stdout=subprocess.DEVNULL)
    expected, resumed = weights(whole["random"]), weights(tmp_path)
    assert expected.keys() == resumed.keys()
    for key, value in expected.items():
        assert torch.equal(resumed[key], value), key
    assert log(tmp_path) == log(whole["random"])


def test_two_processes_train_as_one(image: Path, whole: dict[str, Path], tmp_path: Path) -> None:
    """torchrun with two processes, half of each batch each: one set of weights, that of the run with one process."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [str(SCRIPT), str(image), str(tmp_path), "plain", "30"]
    subprocess.run([*launcher, *arguments], check=True, timeout=250, capture_output=True)
    expected, first, second = weights(whole["plain"]), weights(tmp_path, 0), weights(tmp_path, 1)
    for key, value in expected.items():
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0, msg=key)
        torch.testing.assert_close(first[key], value, rtol=1e-3, atol=2e-5, msg=key)
    for one, two in zip(log(whole["plain"]), log(tmp_path), strict=True):
        assert one["batch"] == two["batch"]
        assert two["loss"] == pytest.approx(one["loss"], abs=2e-4)


def test_weights_moved_in_those_runs(whole: dict[str, Path], samples: PairSamples) -> None:
    """So that agreement above means something: the loss has fallen."""
    losses = [line["loss"] for line in log(whole["plain"])]
    assert losses[-1] < 0.9 * losses[0]


def test_a_batch_that_does_not_divide_is_refused() -> None:
    assert [Processes(r, 2, torch.device("cpu")).own_share(8) for r in (0, 1)] == [range(4), range(4, 8)]
    with pytest.raises(GeolocError, match="a batch of 8 does not divide among 3 processes"):
        Processes(0, 3, torch.device("cpu")).own_share(8)


def test_devices_that_are_not_there_are_refused() -> None:
    with pytest.raises(GeolocError, match="unknown device 'gpu'"):
        choose_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(GeolocError, match="PyTorch sees no GPU"):
            choose_device("cuda")


def test_schedule_of_the_paper() -> None:
    """Warm-up from a hundredth over 500 batches, cosine, floor of a hundredth (DRL paper, section V-A)."""
    total, warmup = 12 * 846, DRL_PAPER.warmup_batches
    assert cosine(0, total, warmup) == pytest.approx(0.01)
    assert cosine(250, total, warmup) == pytest.approx(0.505)
    assert cosine(500, total, warmup) == pytest.approx(1.0)
    assert cosine((500 + total) // 2, total, warmup) == pytest.approx(0.5, abs=1e-3)
    assert cosine(total - 1, total, warmup) == 0.01


def test_samples_depend_on_their_number_alone(samples: PairSamples) -> None:
    again = PairSamples(samples.pairs, samples.settings)
    assert torch.equal(samples[7]["map"], again[7]["map"])
    assert not torch.equal(samples[7]["map"], samples[8]["map"])


def test_checkpoint_of_another_preset_is_refused(samples: PairSamples, tmp_path: Path) -> None:
    settings = replace(QUICK, samples=16)
    trained("one", Lookup(torch.zeros(1, 7, 7)), samples, None, tmp_path, settings)
    with pytest.raises(GeolocError, match=r"checkpoint.pt is of one, not of two: name another --out"):
        trained("two", Lookup(torch.zeros(1, 7, 7)), samples, None, tmp_path, settings)
    with pytest.raises(GeolocError, match=r"is of another version of one"):
        trained("one", Lookup(torch.zeros(1, 9, 9)), samples, None, tmp_path, settings)
    (tmp_path / "checkpoint.pt").write_bytes(b"PK no")
    with pytest.raises(GeolocError, match="damaged or no checkpoint"):
        trained("one", Lookup(torch.zeros(1, 7, 7)), samples, None, tmp_path, settings)


def test_a_loss_that_is_no_number_stops_the_run(samples: PairSamples, tmp_path: Path) -> None:
    with pytest.raises(GeolocError, match="the loss became nan at batch 0: lower --learning-rate"):
        trained("one", Lookup(torch.full((1, 7, 7), math.nan)), samples, None, tmp_path, QUICK)


def test_best_weights_are_those_of_the_best_check(
    samples: PairSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of checks after half the run, the best by RDS; the last weights come beside them."""
    scores = iter([0.9, 0.2, 0.5, 0.4])
    seen = []

    def score(self: HeldOut, model: nn.Module) -> dict[str, float]:
        seen.append(model.state_dict()["cells"].clone())
        return {"rds": next(scores)}

    monkeypatch.setattr(HeldOut, "__call__", score)
    settings = replace(QUICK, samples=8 * 8, check_batches=2, best_from=0.5, average_decay=0.0)
    held_out = HeldOut(samples, 4, settings, ALONE.device)
    run = trained("one", Lookup(torch.zeros(1, 7, 7)), samples, held_out, tmp_path, settings)
    assert run.batch == 6
    assert torch.equal(run.model.state_dict()["cells"], seen[2])
    assert run.last is not None
    assert torch.equal(run.last.state_dict()["cells"], seen[3])


def test_held_out_figures_against_a_network_that_knows_one_place(samples: PairSamples) -> None:
    """Its node is (2, 3) of 7, so (16, 24) px of 48; figures computed here again from the samples."""
    cells = torch.zeros(1, 7, 7)
    cells[0, 2, 3] = 9.0
    figures = HeldOut(samples, 6, QUICK, ALONE.device)(Lookup(cells))
    drawn = [samples[index] for index in range(6)]
    off = torch.cat([d["target"] for d in drawn]).numpy() - np.array([16.0, 24.0])
    error_m = np.hypot(*off.T) * torch.cat([d["gsd_m"] for d in drawn]).numpy()
    assert figures["median_m"] == pytest.approx(np.median(error_m), abs=0.01)
    assert figures["ma5"] == pytest.approx((error_m <= 5).mean(), abs=1e-4)
    assert figures["rds"] == pytest.approx(np.exp(-10 * np.sqrt(((off / 48) ** 2).mean(1))).mean(), abs=1e-4)


def test_temperature_of_logits_that_are_too_sure(samples: PairSamples) -> None:
    """A Gaussian about the middle, where all targets lie: twice as sure needs twice the temperature."""
    axis = torch.arange(7.0) - 3
    cells = -(axis[:, None] ** 2 + axis**2)[None] / 2
    once, twice = (calibrate(Lookup(k * cells), samples, 16, ALONE.device, half=False) for k in (0.5, 1.0))
    assert 0.5 < once < 1.9
    assert twice == pytest.approx(2 * once, rel=0.06)


def test_curves_reach_tensorboard(whole: dict[str, Path]) -> None:
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(whole["plain"] / "tensorboard"))
    events.Reload()
    loss = events.Scalars("train/loss")
    assert [point.step for point in loss] == [10, 20, 30]
    rds = {point.step: point.value for point in events.Scalars("held_out/rds")}
    assert rds == pytest.approx({line["batch"]: line["rds"] for line in log(whole["plain"])})


def test_without_tensorboard_one_line_says_so(
    samples: PairSamples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    trained("one", Lookup(torch.zeros(1, 7, 7)), samples, None, tmp_path, replace(QUICK, samples=8))
    assert "pip install tensorboard" in capsys.readouterr().out
    assert not (tmp_path / "tensorboard").exists()
