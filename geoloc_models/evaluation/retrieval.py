# SPDX-License-Identifier: Apache-2.0
"""Retrieval figures as University-1652 defines them: R@K, R@1 % in two definitions, AP (AST paper, section 4.1)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoloc_models.ast.retriever import Retriever
from geoloc_models.datasets.retrieval_sets import Images, RetrievalTask


@dataclass(frozen=True)
class RankedQueries:
    """How each query fared against one gallery.

    first_rank: (Q,) zero-based rank of the first correct image, the gallery's size if there is none;
    average_precision: (Q,), 0 if there is none; gallery: number of images ranked.
    """

    first_rank: NDArray[np.int64]
    average_precision: NDArray[np.float64]
    gallery: int

    def recall_at(self, k: int) -> float:
        """R@K: share of queries with a correct image among the first k."""
        return float(np.mean(self.first_rank < min(k, self.gallery))) if self.first_rank.size else float("nan")

    def recall_at_1_percent(self) -> float:
        """R@1 % of the gallery: University-1652's, the first round(gallery / 100) + 1 images."""
        return self.recall_at(round(0.01 * self.gallery) + 1)

    def recall_at_1_percent_of_queries(self) -> float:
        """R@1 % as AST's tables give it: the first int(queries / 100) images, but at least one."""
        return self.recall_at(max(1, int(0.01 * self.first_rank.size)))

    def mean_ap(self) -> float:
        """Mean average precision."""
        return float(np.mean(self.average_precision)) if self.first_rank.size else float("nan")

    def of(self, chosen: NDArray[np.bool_]) -> "RankedQueries":
        """The same for some of the queries, a mask (Q,)."""
        return RankedQueries(self.first_rank[chosen], self.average_precision[chosen], self.gallery)

    def summary(self) -> dict[str, float]:
        """Figures for a table, as shares."""
        return {
            "queries": self.first_rank.size,
            "gallery": self.gallery,
            **{f"R@{k}": round(self.recall_at(k), 4) for k in (1, 5, 10)},
            "R@1%": round(self.recall_at_1_percent(), 4),
            "R@1% of queries": round(self.recall_at_1_percent_of_queries(), 4),
            "AP": round(self.mean_ap(), 4),
        }


def rank_queries(similarity: NDArray[np.float32], correct: NDArray[np.bool_]) -> RankedQueries:
    """Rank the gallery by falling similarity (Q, N) for each query; correct (Q, N) marks the right images.

    Equal similarities keep the gallery's order. AP is the area under the precision curve by the trapezoid rule:
    the mean over correct images i = 1.. at ranks r of (i / (r + 1) + (i - 1) / r) / 2, the second term 1 at r = 0.
    """
    queries, gallery = similarity.shape
    first = np.full(queries, gallery, dtype=np.int64)
    precision = np.zeros(queries)
    for query in range(queries):
        order = np.argsort(-similarity[query], kind="stable")
        ranks = np.flatnonzero(correct[query][order])
        if ranks.size:
            first[query] = ranks[0]
            found = np.arange(1, ranks.size + 1)
            before = np.where(ranks == 0, 1.0, (found - 1) / np.maximum(ranks, 1))
            precision[query] = np.mean((found / (ranks + 1) + before) / 2)
    return RankedQueries(first, precision, gallery)


def evaluate_retrieval(
    retriever: Retriever, task: RetrievalTask, advance: Callable[[int], None] = lambda count: None
) -> RankedQueries:
    """Embed both sides and rank the gallery for every query; `advance(count)` after each batch of images."""

    def embed(images: Images) -> Any:
        stream = (images.read(index) for index in range(images.count))
        return retriever.embed_stream(stream, images.view, advance=advance)

    similarity = embed(task.queries) @ embed(task.gallery).T
    return rank_queries(similarity, task.correct)
