# SPDX-License-Identifier: Apache-2.0
"""AST's losses and retrieval figures against loops written out in float64, and rankings made by hand."""

import math

import numpy as np
import pytest
import torch

from geoloc_models.ast.losses import ast_loss, contrastive, max_margin_triplet, soft_margin_triplet
from geoloc_models.evaluation.retrieval import rank_queries
from geoloc_models.training.retriever_task import epoch_order

LABELS = [0, 1, 1, 2, 0, 3]


def _features() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    drone, satellite = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return drone, satellite


def _cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))


def _naive_triplets(drone: torch.Tensor, satellite: torch.Tensor, labels: list[int], penalty) -> float:
    directions = []
    for queries, others in ((drone, satellite), (satellite, drone)):
        means = []
        for i, label in enumerate(labels):
            combinations = [
                penalty(_cosine(queries[i], others[p]), _cosine(queries[i], others[n]))
                for p in range(len(labels))
                for n in range(len(labels))
                if labels[p] == label and labels[n] != label
            ]
            if combinations:
                means.append(sum(combinations) / len(combinations))
        directions.append(sum(means) / len(means))
    return sum(directions) / 2


def test_soft_margin_equals_the_double_loop_in_both_of_its_forms() -> None:
    drone, satellite = _features()
    found = soft_margin_triplet(drone, satellite, torch.tensor(LABELS)).item()
    on_cosines = _naive_triplets(drone, satellite, LABELS, lambda p, n: math.log1p(math.exp(20 * (n - p))))
    # The paper's: squared distances of unit vectors, alpha 10.
    on_distances = _naive_triplets(
        drone, satellite, LABELS, lambda p, n: math.log1p(math.exp(10 * ((2 - 2 * p) - (2 - 2 * n))))
    )
    assert found == pytest.approx(on_cosines, rel=1e-5)
    assert found == pytest.approx(on_distances, rel=1e-5)


def test_max_margin_equals_the_double_loop() -> None:
    drone, satellite = _features()
    found = max_margin_triplet(drone, satellite, torch.tensor(LABELS)).item()
    expected = _naive_triplets(drone, satellite, LABELS, lambda p, n: max(0.0, (2 - 2 * p) - (2 - 2 * n) + 0.3))
    assert found == pytest.approx(expected, rel=1e-5)


def test_contrastive_equals_the_double_loop() -> None:
    drone, satellite = _features()
    near, far = [], []
    for i, a in enumerate(LABELS):
        for j, b in enumerate(LABELS):
            distance = 2 - 2 * _cosine(drone[i], satellite[j])
            (near if a == b else far).append(distance if a == b else max(0.0, 1 - distance))
    expected = sum(near) / len(near) + sum(far) / len(far)
    assert contrastive(drone, satellite, torch.tensor(LABELS)).item() == pytest.approx(expected, rel=1e-5)


def test_far_apart_pairs_do_not_overflow() -> None:
    opposite = torch.eye(2, 3) * 1e3
    loss = soft_margin_triplet(opposite, opposite.flip(0), torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(20.0, abs=1e-3)


def test_a_batch_of_one_place_has_nothing_to_tell_apart() -> None:
    drone, satellite = (features.requires_grad_() for features in _features())
    for loss in (soft_margin_triplet, max_margin_triplet):
        value = loss(drone, satellite, torch.zeros(6, dtype=torch.int64))
        assert value.item() == 0.0
        value.backward()
    assert torch.isfinite(contrastive(drone, satellite, torch.zeros(6, dtype=torch.int64)))


def test_the_loss_is_the_mean_over_parts_of_both_cross_entropies_and_the_metric() -> None:
    generator = torch.Generator().manual_seed(9)
    features = [torch.randn(4, 3, 5, generator=generator) for _ in range(2)]
    logits = [torch.randn(4, 3, 7, generator=generator) for _ in range(2)]
    labels = torch.tensor([6, 2, 0, 2])
    expected = 0.0
    for part in range(3):
        for view in range(2):
            for row, label in enumerate(labels.tolist()):
                exponentials = [math.exp(value) for value in logits[view][row, part].tolist()]
                expected -= math.log(exponentials[label] / sum(exponentials)) / 4
        expected += soft_margin_triplet(features[0][:, part], features[1][:, part], labels).item()
    found = ast_loss((features[0], logits[0]), (features[1], logits[1]), labels)
    assert found.item() == pytest.approx(expected / 3, rel=1e-5)
    plain = ast_loss((features[0], None), (features[1], None), labels)
    without = ast_loss((features[0], logits[0]), (features[1], logits[1]), labels, "none")
    assert plain.item() + without.item() == pytest.approx(expected / 3, rel=1e-5)


def test_rankings_made_by_hand() -> None:
    """Ranks 0 and 2 of five; rank 4; none at all."""
    similarity = np.array([[9, 8, 7, 6, 5], [5, 6, 7, 8, 9], [1, 2, 3, 4, 5]], np.float32)
    correct = np.array([[1, 0, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], bool)
    ranked = rank_queries(similarity, correct)
    assert ranked.first_rank.tolist() == [0, 4, 5]
    # First: (1/1 + 1) / 2 = 1 and (2/3 + 1/2) / 2 = 7/12. Second: (1/5 + 0/4) / 2.
    np.testing.assert_allclose(ranked.average_precision, [(1 + 7 / 12) / 2, 0.1, 0.0])
    assert [ranked.recall_at(k) for k in (1, 4, 5, 99)] == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert ranked.of(np.array([False, True, False])).mean_ap() == pytest.approx(0.1)


def test_equal_similarities_keep_the_gallerys_order() -> None:
    correct = np.array([[False, True, False]])
    assert rank_queries(np.ones((1, 3), np.float32), correct).first_rank.tolist() == [1]


def test_one_percent_by_gallery_and_by_queries() -> None:
    """Of 951 satellite images the first 11 by University-1652, and of 37,855 queries 378 by AST's tables."""
    queries = 37855
    ranked = rank_queries(np.zeros((1, 951), np.float32), np.arange(951)[None] == 10)
    many = type(ranked)(np.arange(queries) % 951, np.zeros(queries), 951)
    assert ranked.recall_at_1_percent() == 1.0
    late = rank_queries(np.zeros((1, 951), np.float32), np.arange(951)[None] == 11)
    assert late.recall_at_1_percent() == 0.0
    assert many.recall_at_1_percent_of_queries() == many.recall_at(378)
    assert many.recall_at(378) != many.recall_at(379)
    big = type(ranked)(np.array([514, 515]), np.zeros(2), 51355)
    assert big.recall_at_1_percent() == 0.5


def test_ap_is_the_area_under_the_precision_curve() -> None:
    """The trapezoid rule along the recall axis, step by step."""
    rng = np.random.default_rng(3)
    similarity, correct = rng.normal(size=(20, 50)).astype(np.float32), rng.random((20, 50)) < 0.2
    ranked = rank_queries(similarity, correct)
    for query in range(20):
        order = sorted(range(50), key=lambda j, q=query: -similarity[q, j])
        area, old_precision, found = 0.0, 1.0, 0
        total = int(correct[query].sum())
        for place, index in enumerate(order, start=1):
            found += bool(correct[query, index])
            precision = found / place
            if correct[query, index]:
                area += (precision + old_precision) / 2 / total
            old_precision = precision
        assert ranked.average_precision[query] == pytest.approx(area)


def test_an_epoch_draws_each_place_as_often_and_anew() -> None:
    order = epoch_order(701, 8, seed=42, epoch=0)
    assert len(order) == 5608
    assert np.bincount(order).tolist() == [8] * 701
    assert not np.array_equal(order, epoch_order(701, 8, 42, 1))
    assert np.array_equal(order, epoch_order(701, 8, 42, 0))
    # Fully shuffled: the draws of one place do not follow each other.
    assert np.mean(order[1:] == order[:-1]) < 0.01
