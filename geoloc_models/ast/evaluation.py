# SPDX-License-Identifier: Apache-2.0
"""How well a retriever finds queries in a gallery (AST paper, section 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from geoloc_models.ast.metrics import RankedQueries, rank_queries
from geoloc_models.ast.retriever import Retriever
from geoloc_models.ast.sets import Pictures, RetrievalTask


def evaluate(
    retriever: Retriever, task: RetrievalTask, advance: Callable[[int], None] = lambda count: None
) -> RankedQueries:
    """Embed both sides and rank the gallery for every query; `advance(count)` after each batch of pictures."""

    def embed(pictures: Pictures) -> Any:
        stream = (pictures.read(index) for index in range(pictures.count))
        return retriever.embed_stream(stream, pictures.view, advance=advance)

    similarity = embed(task.queries) @ embed(task.gallery).T
    return rank_queries(similarity, task.correct)
