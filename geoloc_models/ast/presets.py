# SPDX-License-Identifier: Apache-2.0
"""Named retrieval networks: every AST row of the paper's tables 2 to 9 and figure 4, and ours; a line of data each."""

from dataclasses import dataclass, replace

from geoloc_models.ast.losses import Metric
from geoloc_models.ast.segment_tokens import Strategy
from geoloc_models.ast.trunk import TrunkName
from geoloc_models.errors import GeolocError


@dataclass(frozen=True)
class AstPreset:
    """A network and the loss that it is trained with.

    groups: segment tokens, 0 for the class token alone; weighted: in-group mean by attention (eq. 8) or plain;
    shared: one trunk for both views; head_width: features a part, 0 for the bare tokens, which need no training;
    classify: whether training has the cross-entropy over places; rows: where the paper reports it; paper: its R@1 and
    AP there, drone to satellite, then satellite to drone, in percent.
    """

    trunk: TrunkName = "vits16"
    input_px: int = 256
    blocks: int = 12
    groups: int = 3
    strategy: Strategy = "increasing"
    weighted: bool = True
    shared: bool = True
    head_width: int = 512
    dropout: float = 0.5
    classify: bool = True
    metric: Metric = "soft_margin"
    rows: tuple[str, ...] = ()
    paper: tuple[float, float, float, float] | None = None


AST = AstPreset(
    rows=(
        "Table 2 AST + Weighted Soft-margin Triplet Loss",
        "Table 3 Ours",
        "Table 4 Increasing",
        "Table 5 Weighted Mean",
        "Table 6 CE + WST",
        "Table 7 and 8 (evaluate --by distance, --by angle)",
        "Table 9 Sharing",
        "Figure 4, 3 groups",
    ),
    paper=(86.29, 88.20, 89.59, 85.06),
)
"""The paper's network; all others differ from it in what their line names."""

DINOV2 = AstPreset(
    trunk="vits14", input_px=224, head_width=128, dropout=0.1, classify=False, rows=("ours, from DINOv2",)
)

PRESETS: dict[str, AstPreset] = {
    "ast": AST,
    "ast_contrastive": replace(
        AST,
        metric="contrastive",
        rows=("Table 2 AST + Contrast Loss", "Table 6 CE + Contrast"),
        paper=(85.45, 87.52, 90.44, 84.81),
    ),
    "ast_vanilla": replace(
        AST, groups=0, rows=("Table 3 Vanilla", "Figure 4, dotted"), paper=(71.14, 75.03, 84.59, 71.10)
    ),
    "ast_decreasing": replace(
        AST, strategy="decreasing", rows=("Table 4 Decreasing",), paper=(83.51, 85.80, 88.30, 83.20)
    ),
    "ast_averaging": replace(
        AST, strategy="averaging", rows=("Table 4 Averaging",), paper=(85.19, 87.27, 89.73, 84.32)
    ),
    "ast_mean": replace(AST, weighted=False, rows=("Table 5 Mean",), paper=(84.91, 86.99, 89.87, 84.20)),
    "ast_ce": replace(AST, metric="none", rows=("Table 6 CE",), paper=(84.90, 87.04, 89.02, 84.40)),
    "ast_max_margin": replace(AST, metric="max_margin", rows=("Table 6 CE + MT",), paper=(85.64, 87.73, 89.16, 84.96)),
    "ast_unshared": replace(AST, shared=False, rows=("Table 9 W/o Sharing",), paper=(23.27, 29.20, 26.53, 23.08)),
    **{
        f"ast_groups{groups}": replace(AST, groups=groups, rows=(f"Figure 4, {groups} groups",), paper=None)
        for groups in (1, 2, 4, 5, 6)
    },
    "ast_adaptive": replace(AST, strategy="adaptive", rows=("ours: group sizes by the image",), paper=None),
    "dinov2_ast": DINOV2,
    "dinov2_adaptive": replace(DINOV2, strategy="adaptive", rows=("ours, from DINOv2, adaptive",)),
    "dinov2_class": replace(DINOV2, groups=0, head_width=512, rows=("ours, class token only",)),
    "zero_shot_class": replace(DINOV2, groups=0, head_width=0, metric="none", rows=("DINOv2 as it is, class token",)),
    "zero_shot_segments": replace(
        DINOV2, head_width=0, metric="none", rows=("DINOv2 as it is, class and segment tokens",)
    ),
    "zero_shot_adaptive": replace(
        DINOV2,
        head_width=0,
        metric="none",
        strategy="adaptive",
        rows=("DINOv2 as it is, class and adaptive segment tokens",),
    ),
}


def preset(name: str) -> AstPreset:
    """The preset of that name; GeolocError if there is none."""
    if name not in PRESETS:
        raise GeolocError(f"No retrieval preset is called {name!r}: take one of {', '.join(PRESETS)}.")
    return PRESETS[name]
