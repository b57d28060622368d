# SPDX-License-Identifier: Apache-2.0
"""Weights between a fine-tuned hybrid and the compact network that it started from (Wortsman et al., Robust
fine-tuning of zero-shot models, CVPR 2022)."""

import torch

from geoloc_models.drl.hybrid_mix_fusion import HybridMixFusion
from geoloc_models.weights import load_weights

_AS_TUNED = ("trunk.", "semantic_norm.", "semantic.")


def blend(tuned: HybridMixFusion, share: float) -> None:
    """Move `tuned` towards the compact network that ships, in place; share: 1 leaves it as it is.

    Parameters that the start had become SHARE tuned + (1 - SHARE) start; those that it had not, in the trunk's norm and
    correlation, stay as tuned. The layers that feed the trunk into the compact network start at zero, so they are
    scaled.
    """
    start = HybridMixFusion()
    start.start_from(load_weights("mix_compact").model)  # type: ignore[arg-type]
    with torch.no_grad():
        for (name, ours), theirs in zip(tuned.named_parameters(), start.parameters(), strict=True):
            if not name.startswith(_AS_TUNED):
                ours.copy_(torch.lerp(theirs, ours, share))
