# SPDX-License-Identifier: Apache-2.0
"""Attention, segments and matches drawn for people, as in AST's figures 6 to 8."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from geoloc_models.ast.retriever import Retriever, resize
from geoloc_models.ast.segment_tokens import score_spread

CELL_PX = 224
GAP_PX = 6
CAPTION_PX = 22
LINE_PX = 3
SEGMENTS_RGB = (
    (230, 60, 40), (250, 190, 40), (50, 120, 220), (60, 180, 110), (160, 90, 200), (120, 120, 120),
)  # fmt: skip
"""Of the groups, the most attended first."""

RIGHT_RGB, WRONG_RGB = (40, 190, 70), (220, 50, 40)


def attention_over(image: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The image (H, W, 3) uint8 under its attention (grid, grid): smooth, and bright where it is high (figure 6)."""
    height, width = image.shape[:2]
    low, high = np.percentile(scores, (1, 99))
    # What is scaled is the logit: its exponential would show two or three patches and nothing else.
    shown = np.clip((scores - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    shown = np.clip(cv2.resize(shown, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    # Turbo's very end is dark; the most attended is to be bright red.
    colours = cv2.applyColorMap(np.rint(shown * 225).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    return np.rint(0.5 * image + 0.5 * colours).astype(np.uint8)


def segments_over(image: np.ndarray, assigned: np.ndarray) -> np.ndarray:
    """The image tinted by group, (grid, grid), with a line where two groups meet."""
    height, width = image.shape[:2]
    cells = cv2.resize(assigned.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    tint = np.array(SEGMENTS_RGB, np.float32)[cells % len(SEGMENTS_RGB)]
    # Grey keeps the ground readable and the tints comparable.
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    drawn = np.rint(0.6 * grey + 0.4 * tint).astype(np.uint8)
    edge = np.zeros((height, width), bool)
    edge[:, 1:] |= cells[:, 1:] != cells[:, :-1]
    edge[1:] |= cells[1:] != cells[:-1]
    drawn[edge] = 255
    return drawn


@dataclass(frozen=True)
class Cell:
    """One image of a sheet with its caption; a frame in `frame_rgb` if there is one."""

    image: np.ndarray
    caption: str
    frame_rgb: tuple[int, int, int] | None = None


def image_row(
    image: np.ndarray, name: str, retrievers: Sequence[Retriever], matches: Sequence[Cell] = ()
) -> list[Cell]:
    """A row of the sheet: the image, attention and segments by each retriever, then its matches."""
    square = resize(image, CELL_PX)
    row = [Cell(square, name)]
    for retriever in retrievers:
        scores, assigned = retriever.attention(image[None])
        row.append(Cell(attention_over(square, scores[0]), f"attention, {retriever.weights_id}"))
        if retriever.groups:
            sizes = "/".join(str(np.count_nonzero(assigned == group)) for group in range(retriever.groups))
            flat = [torch.from_numpy(array.reshape(1, -1)) for array in (scores, assigned)]
            spread = score_spread(flat[0], flat[1], retriever.groups).item()
            row.append(Cell(segments_over(square, assigned[0]), f"segments {sizes}, spread {spread:.2f}"))
    return [*row, *matches]


def sheet(rows: Sequence[Sequence[Cell]]) -> np.ndarray:
    """All rows on white, (H, W, 3) uint8 RGB; rows may differ in length."""
    pitch = CELL_PX + GAP_PX
    width = GAP_PX + pitch * max(len(row) for row in rows)
    height = GAP_PX + (pitch + CAPTION_PX) * len(rows)
    page = np.full((height, width, 3), 255, np.uint8)
    for number, row in enumerate(rows):
        for place, cell in enumerate(row):
            top, left = GAP_PX + number * (pitch + CAPTION_PX), GAP_PX + place * pitch
            image = resize(cell.image, CELL_PX).copy()
            if cell.frame_rgb is not None:
                cv2.rectangle(image, (0, 0), (CELL_PX - 1, CELL_PX - 1), cell.frame_rgb, 2 * LINE_PX)
            page[top : top + CELL_PX, left : left + CELL_PX] = image
            _write(page, cell.caption, left, top + CELL_PX + CAPTION_PX - 7)
    return page


def _write(page: np.ndarray, text: str, left: int, baseline: int) -> None:
    """One line of text, cut to the width of a cell."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    plain = text.encode("ascii", "replace").decode()
    while plain and cv2.getTextSize(plain, font, scale, 1)[0][0] > CELL_PX:
        plain = plain[:-1]
    cv2.putText(page, plain, (left, baseline), font, scale, (30, 30, 30), 1, cv2.LINE_AA)
