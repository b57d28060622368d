# SPDX-License-Identifier: Apache-2.0
"""The retrieval network: sizes, vectors, files of weights, presets, and training on a small tree."""

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from geoloc_models.ast.presets import AST, PRESETS, AstPreset, preset
from geoloc_models.ast.retriever import PartHead, Retriever, SegmentTransformer, descriptor
from geoloc_models.ast.retriever_weights import RetrieverInfo, load_retriever, save_retriever, zero_shot
from geoloc_models.ast.trunk import AstTrunk, load_trunk
from geoloc_models.backbones.timm_backbone import import_timm
from geoloc_models.datasets.image_pairs import is_held_out, list_pairs
from geoloc_models.datasets.retrieval_sets import (
    CrossDatePlaces,
    RetrievalTask,
    TrainingSet,
    ViewSettings,
    cross_date_task,
    labelled_task,
    training_set,
)
from geoloc_models.drl.macs import count_cost
from geoloc_models.errors import GeolocError
from geoloc_models.evaluation.retrieval import evaluate_retrieval
from geoloc_models.training.processes import Processes
from geoloc_models.training.recipe import AST_PAPER, RetrieverRecipe
from geoloc_models.training.retriever_task import Check, Pair, RetrieverTask
from geoloc_models.training.trainer import train

SMALL = replace(AST, input_px=64, blocks=2, head_width=64, dropout=0.0)
QUICK = replace(
    AST_PAPER, epochs=6, per_place=4, optimiser="adamw", head_rate=2e-3, trunk_rate=2e-4, schedule="cosine", seed=3
)


def network(shape: AstPreset = SMALL, classes: int = 0) -> SegmentTransformer:
    torch.manual_seed(1)
    return SegmentTransformer(shape, classes).eval()


def some_pictures(count: int = 3, side_px: int = 64) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (count, side_px, side_px, 3), np.uint8)


def test_the_papers_sizes() -> None:
    """23.92 M parameters with four heads and 701 classes, 21.69 M and 5.53 GMACs of them the trunk's at 256 px."""
    with torch.device("meta"):
        built = SegmentTransformer(AST, 701)
    assert sum(p.numel() for p in built.parameters()) == 23_919_732
    assert sum(p.numel() for p in built.heads[0].parameters()) == 557_757
    assert sum(p.numel() for p in built.trunk.parameters()) == 21_688_704
    assert count_cost(built.trunk, torch.zeros(1, 3, 256, 256)).counted_macs / 1e9 == pytest.approx(5.53, abs=5e-3)
    assert built.dim == 2048


def test_heads_start_as_specified() -> None:
    torch.manual_seed(0)
    head = PartHead(384, 512, 0.5, 701)
    assert head.classify is not None
    assert head.project.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert head.classify.weight.std().item() == pytest.approx(0.001, rel=0.02)
    assert not head.project.bias.any() and not head.classify.bias.any()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_gives_unit_vectors(name: str) -> None:
    shape = replace(preset(name), input_px=32 if preset(name).trunk == "vits16" else 28, blocks=1)
    shape = replace(shape, groups=min(shape.groups, 4))
    retriever = Retriever(network(shape), "test", "cpu")
    vectors = retriever.embed(some_pictures(2, 40))
    assert vectors.shape == (2, retriever.dim)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_an_unknown_preset_names_the_others() -> None:
    with pytest.raises(GeolocError, match="No retrieval preset is called 'mars': take one of ast, "):
        preset("mars")


def test_a_product_is_the_mean_cosine_of_the_parts() -> None:
    features = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    joined = descriptor(features)
    cosines = [float(features[0, p] @ features[1, p] / features[0, p].norm() / features[1, p].norm()) for p in range(4)]
    assert float(joined[0] @ joined[1]) == pytest.approx(np.mean(cosines), abs=1e-6)


def test_batches_and_sizes_do_not_change_a_vector() -> None:
    retriever = Retriever(network(), "test", "cpu")
    images = some_pictures(5)
    together = retriever.embed(images)
    np.testing.assert_allclose(retriever.embed(images, batch=2), together, atol=2e-2)
    np.testing.assert_allclose(retriever.embed_stream(iter(images), batch=2), together, atol=2e-2)
    doubled = images.repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(retriever.embed(doubled), together, atol=2e-2)
    assert retriever.embed(images[:0]).shape == (0, retriever.dim)


def test_pictures_of_another_kind_are_refused() -> None:
    with pytest.raises(GeolocError, match=r"images are \(3, 64, 64, 3\) float64: expected"):
        Retriever(network(), "test", "cpu").embed(some_pictures().astype(np.float64))


def test_one_flat_colour_still_has_a_vector() -> None:
    """Every patch alike: scores tie or nearly so, and nothing becomes NaN."""
    vectors = Retriever(network(), "test", "cpu").embed(np.full((1, 64, 64, 3), 128, np.uint8))
    np.testing.assert_allclose(np.linalg.norm(vectors), 1, atol=1e-5)


def test_unshared_trunks_see_their_own_view() -> None:
    unshared = network(replace(SMALL, shared=False))
    images = torch.from_numpy(some_pictures()).permute(0, 3, 1, 2)
    with torch.no_grad():
        assert not torch.allclose(unshared(images, "drone")[0], unshared(images, "satellite")[0])
        shared = network()
        torch.testing.assert_close(shared(images, "drone")[0], shared(images, "satellite")[0])


@pytest.mark.parametrize("eight_bit", [False, True])
def test_weights_come_back(eight_bit: bool, tmp_path: Path) -> None:
    written, path = network(classes=5), tmp_path / "small.safetensors"
    digest = save_retriever(path, written, RetrieverInfo("small", SMALL, (50.0, 130.0)), eight_bit)
    loaded, info = load_retriever(path, "cpu")
    assert info == RetrieverInfo("small", SMALL, (50.0, 130.0))
    assert loaded.weights_id == f"small-{digest[:8]}"
    ours, theirs = (r.embed(some_pictures()) for r in (Retriever(written, "test", "cpu"), loaded))
    assert (ours * theirs).sum(1).min() > 0.999
    assert not any("classify" in key for key in load_file(path))


def test_eight_bits_halve_the_file(tmp_path: Path) -> None:
    info = RetrieverInfo("small", SMALL, None)
    sizes = []
    for eight_bit in (False, True):
        save_retriever(tmp_path / "a.safetensors", network(), info, eight_bit)
        sizes.append((tmp_path / "a.safetensors").stat().st_size)
    assert sizes[1] / sizes[0] == pytest.approx(0.5, abs=0.03)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(GeolocError, match=r"no weights '.*a\.safetensors'"):
        load_retriever(path)
    save_retriever(path, network(), RetrieverInfo("small", SMALL, None), False)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GeolocError, match="are damaged or no safetensors file"):
        load_retriever(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(GeolocError, match="were not written by `geoloc ast train`"):
        load_retriever(path)
    save_retriever(path, network(), RetrieverInfo("small", replace(SMALL, blocks=1), None), False)
    with pytest.raises(GeolocError, match="do not fit the network they name"):
        load_retriever(path)


def test_dinov2_starts_the_trunk(shared_data: Path, tmp_path: Path) -> None:
    """At the checkpoint's own size timm's network has the same tokens; at another the positions are resampled."""
    file = shared_data / "weights" / "dinov2_vits14_fp16.safetensors"
    trunk = AstTrunk("vits14", 518)
    load_trunk(trunk, file)
    timm = import_timm().create_model("vit_small_patch14_dinov2", num_classes=0)
    timm.load_state_dict({key: value.float() for key, value in load_file(file).items()})
    torch.testing.assert_close(trunk.vit.pos_embed, timm.pos_embed)
    torch.testing.assert_close(trunk.vit.blocks[11].mlp.fc1.weight, timm.blocks[11].mlp.fc1.weight)
    short = AstTrunk("vits14", 224, blocks=2)
    load_trunk(short, file)
    assert short.vit.pos_embed.shape == (1, 257, 384)
    torch.testing.assert_close(short.vit.pos_embed[:, 0], timm.pos_embed[:, 0])
    with pytest.raises(GeolocError, match="does not fit vit_small_patch16_224"):
        load_trunk(AstTrunk("vits16", 64), file)
    with pytest.raises(GeolocError, match="has heads that need training"):
        zero_shot("dinov2_ast", file)


def trained_on(
    model: SegmentTransformer, places: TrainingSet, out: Path, recipe: RetrieverRecipe, check: Check | None = None
) -> SegmentTransformer:
    alone = Processes(0, 1, torch.device("cpu"))
    trained = train(RetrieverTask("small", model, places, out, recipe, alone, check), out, alone).model
    return cast(Pair, trained).network


def test_training_learns_both_tasks(university_tree: Path, tmp_path: Path) -> None:
    """A small AST finds every building that it was trained on, in both directions and by a wide margin."""
    places = training_set("university1652", university_tree, 64)
    tree = _train_as_test(university_tree, tmp_path)
    tasks = [labelled_task("university1652", tree, task, 64) for task in _TASKS]
    # With fewer epochs the rounding of the processor decides one of the queries; after these, none in five seeds.
    recipe = replace(QUICK, epochs=14)
    start, trained = network(), trained_on(network(classes=places.classes), places, tmp_path / "run", recipe)
    for task in tasks:
        retriever = Retriever(trained, "trained", "cpu")
        assert evaluate_retrieval(retriever, task).recall_at(1) == 1.0
        # Buildings of different colours are told apart by random weights too, but not by a wide margin.
        assert _margin(retriever, task) > _margin(Retriever(start, "random", "cpu"), task) + 0.15
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(lines) == recipe.epochs
    assert lines[-1]["epoch_loss"] < 0.6 * lines[0]["epoch_loss"]


def _margin(retriever: Retriever, task: RetrievalTask) -> float:
    """By how much the right image is nearer than the nearest wrong one, mean over queries."""
    vectors = [
        retriever.embed_stream(map(side.read, range(side.count)), side.view) for side in (task.queries, task.gallery)
    ]
    similarity = vectors[0] @ vectors[1].T
    right = np.where(task.correct, similarity, -1.0).max(1)
    return float((right - np.where(task.correct, -1.0, similarity).max(1)).mean())


_TASKS = ("drone-to-satellite", "satellite-to-drone")


def _train_as_test(tree: Path, folder: Path) -> Path:
    """The tree's training buildings under the names of the test's roles."""
    test = folder / "tree" / "test"
    test.mkdir(parents=True)
    for role in ("query_drone", "gallery_drone"):
        (test / role).symlink_to(tree / "train" / "drone")
    for role in ("query_satellite", "gallery_satellite"):
        (test / role).symlink_to(tree / "train" / "satellite")
    return test.parent


@pytest.mark.parametrize("blocks", [None, 1, 0])
def test_an_interrupted_run_ends_like_a_whole_one(blocks: int | None, university_tree: Path, tmp_path: Path) -> None:
    """All of the trunk, its last block, or the heads alone; what is frozen stays to the last bit."""
    places = training_set("university1652", university_tree, 32)
    shape = replace(SMALL, input_px=32, dropout=0.2)
    recipe = replace(QUICK, epochs=3, per_place=2, trainable_blocks=blocks, optimiser="sgd", schedule="plateau")
    whole = trained_on(network(shape, 6), places, tmp_path / "whole", recipe)

    epochs = iter(range(2))

    def stop_after_first(_: SegmentTransformer) -> dict[str, float]:
        if next(epochs) == 1:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt):
        trained_on(network(shape, 6), places, tmp_path / "parts", recipe, stop_after_first)
    resumed = trained_on(network(shape, 6), places, tmp_path / "parts", recipe)
    start = network(shape, 6).state_dict()
    for (key, ours), theirs in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=key)
        frozen = (blocks == 0 and key.startswith("trunk.")) or (blocks == 1 and "blocks.0." in key)
        if frozen:
            assert torch.equal(ours, start[key]), key
        elif key.endswith(("weight", "bias")) and not (blocks == 1 and key.startswith("trunk.vit.patch")):
            assert not torch.equal(ours, start[key]), key


def test_a_checkpoint_of_another_network_is_refused(university_tree: Path, tmp_path: Path) -> None:
    places = training_set("university1652", university_tree, 32)
    recipe = replace(QUICK, epochs=1, per_place=2, trainable_blocks=0)
    shape = replace(SMALL, input_px=32)
    trained_on(network(shape, 6), places, tmp_path, recipe)
    (tmp_path / "parts.pt").unlink()
    with pytest.raises(GeolocError, match=r"checkpoint.pt is of another version of small"):
        trained_on(network(replace(shape, head_width=32), 6), places, tmp_path, recipe)
    (tmp_path / "parts.pt").write_bytes(b"cut")
    with pytest.raises(GeolocError, match=r"parts.pt is damaged or no checkpoint: delete it"):
        trained_on(network(shape, 6), places, tmp_path, recipe)


def test_impossible_recipes_are_refused(university_tree: Path, tmp_path: Path) -> None:
    places = training_set("university1652", university_tree, 32)
    for recipe, told in (
        (replace(QUICK, per_place=1, pairs_per_batch=8), "6 places, 1 draws each, do not fill a batch of 8 pairs"),
        (replace(QUICK, trainable_blocks=3), "3 trainable blocks of a trunk of 2: give 0 to 2"),
    ):
        with pytest.raises(GeolocError, match=told):
            trained_on(network(replace(SMALL, input_px=32), 6), places, tmp_path, recipe)


def test_labelled_tasks_know_right_from_wrong(university_tree: Path) -> None:
    to_satellite, to_drone = (labelled_task("university1652", university_tree, t, 32) for t in _TASKS)
    assert to_satellite.correct.shape == (24, 8) and (to_satellite.correct.sum(1) == 1).all()
    assert to_drone.correct.shape == (6, 32) and (to_drone.correct.sum(1) == 4).all()
    distances = {name: int(mask.sum()) for name, mask in to_satellite.subsets["distance"].items()}
    assert distances == {"long": 12, "middle": 6, "short": 6}
    assert {name: int(m.sum()) for name, m in to_satellite.subsets["angle"].items()} == {"0°": 18, "20°": 6}
    assert labelled_task("university1652", university_tree, _TASKS[0], 32, limit=6).queries.count == 6


def test_denseuav_serves_training_and_both_tasks(tmp_path: Path) -> None:
    """Places by their names; the reverse task needs the two folders that may be missing."""
    lines = []
    roles = {"train/drone": 3, "train/satellite": 3, "test/query_drone": 2, "test/gallery_satellite": 3}
    for role, count in roles.items():
        for place in range(count):
            file = tmp_path / role / f"{place:06d}" / "H80.png"
            file.parent.mkdir(parents=True)
            cv2.imwrite(str(file), np.full((40, 40, 3), 50 * place, np.uint8))
            lines.append(f"{role}/{place:06d}/H80.png E120.{place} N30.0 80")
    (tmp_path / "Dense_GPS_ALL.txt").write_text("\n".join(lines))
    places = training_set("denseuav", tmp_path, 32)
    assert places.classes == len(places) == 3
    drawn = places.draw(2, 0, np.random.default_rng(0))
    assert drawn.labels.tolist() == [2]
    assert (drawn.drone == 100).all()
    correct = labelled_task("denseuav", tmp_path, _TASKS[0], 32).correct
    np.testing.assert_array_equal(correct, np.eye(2, 3, dtype=bool))
    with pytest.raises(GeolocError, match="query_satellite is missing, which satellite-to-drone needs"):
        labelled_task("denseuav", tmp_path, _TASKS[1], 32)


@pytest.fixture
def ramps(tmp_path: Path) -> Path:
    """Two held-out pairs and one to train on whose colours say where a pixel is: red by column, green by row, blue by
    pair and date.
    """
    ramp = np.linspace(0, 255, 512).round().astype(np.uint8)
    names = [f"istrain_True_{n}_0" for n in range(300, 400)]
    chosen = [name for name in names if is_held_out(name)][:2] + [n for n in names if not is_held_out(n)][:1]
    for date, folder in enumerate("AB"):
        (tmp_path / "pairs" / "levir" / folder).mkdir(parents=True)
        for number, name in enumerate(chosen):
            blue = np.full((512, 512), 80 * number + 40 * date, np.uint8)
            image = np.dstack([blue, ramp[:, None].repeat(512, 1), ramp[None].repeat(512, 0)])
            cv2.imwrite(str(tmp_path / "pairs" / "levir" / folder / f"{name}.png"), image)
    return tmp_path


def _centre(image: np.ndarray) -> np.ndarray:
    """(x, y) in pixels of the ramps' image, and the blue of pair and date, of the middle of a view or tile."""
    middle = image.shape[0] // 2
    colour = image[middle - 1 : middle + 1, middle - 1 : middle + 1].reshape(-1, 3).astype(float).mean(0)
    return np.array([colour[0] * 512 / 255, colour[1] * 512 / 255, colour[2]])


def test_right_tiles_lie_around_the_view(ramps: Path) -> None:
    """Views see the other date than their tiles, and the tiles called right are those within half a side."""
    task = cross_date_task(ramps, 56, tile_m=60.0)
    views, tiles = (
        np.array([_centre(side.read(i)) for i in range(side.count)]) for side in (task.queries, task.gallery)
    )
    assert len(views) == 8 and len(tiles) == 2 * 7 * 7
    for view, correct in zip(views, task.correct, strict=True):
        apart = np.abs(tiles - view)
        same_pair = apart[:, 2] < 60
        assert np.allclose(apart[same_pair, 2], 40, atol=2), "the other date"
        surely = same_pair & (apart[:, :2] < 60 - 3).all(1)
        surely_not = ~same_pair | (apart[:, :2] > 60 + 3).any(1)
        assert correct[surely].all() and not correct[surely_not].any()
        assert 1 <= correct.sum() <= 4


def test_training_views_lie_within_their_tiles(ramps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four tiles of one date that do not overlap; each view looks at its own tile, of the other date."""
    monkeypatch.setattr("geoloc_models.datasets.retrieval_sets.degrade", lambda image, *_: image)
    monkeypatch.setattr("geoloc_models.datasets.retrieval_sets.occlude", lambda image, _: image)
    pairs = list_pairs(ramps, "levir", held_out=False)
    places = CrossDatePlaces(pairs, 56, ViewSettings(tile_m=(60.0, 60.0)))
    assert len(places) == 1
    off_centre = []
    for item in range(6):
        drawn = places.draw(0, item, np.random.default_rng(item))
        assert drawn.labels.tolist() == [4 * item + place for place in range(4)]
        views, tiles = (np.array([_centre(p) for p in side]) for side in (drawn.drone, drawn.satellite))
        assert np.allclose(np.abs(views - tiles)[:, 2], 40, atol=2)
        off_centre.append(np.abs(views - tiles)[:, :2])
        between = np.abs(tiles[:, None] - tiles[None])[..., :2].max(-1)
        assert between[~np.eye(4, dtype=bool)].min() > 120 - 3
    assert np.max(off_centre) < 0.25 * 120 + 3
    assert np.max(off_centre) > 0.2 * 120


def test_tiles_that_no_picture_holds_are_refused(ramps: Path) -> None:
    with pytest.raises(GeolocError, match="holds tiles of 900 m: give a smaller --tile-m"):
        cross_date_task(ramps, 56, tile_m=900)
    with pytest.raises(GeolocError, match="no image pair spans 800 m, two of the smallest tiles"):
        CrossDatePlaces(list_pairs(ramps, "levir"), 56, ViewSettings(tile_m=(400.0, 500.0)))


def test_held_out_pairs_make_a_task_that_repeats(shared_data: Path) -> None:
    task, again = (cross_date_task(shared_data, 56, limit=3) for _ in range(2))
    assert task.correct.shape == (task.queries.count, task.gallery.count) == (12, task.gallery.count)
    assert ((task.correct.sum(1) >= 1) & (task.correct.sum(1) <= 4)).all()
    np.testing.assert_array_equal(task.queries.read(5), again.queries.read(5))
