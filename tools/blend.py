# SPDX-License-Identifier: Apache-2.0
"""Weights between a fine-tuned hybrid and the compact network that it started from.

python tools/blend.py TUNED SHARE OUT: parameters that the start had become SHARE tuned + (1 - SHARE) start (Wortsman et
al., Robust fine-tuning of zero-shot models, CVPR 2022); where the start had none, in the trunk's norm and correlation,
they stay as tuned. The layers that feed the trunk into the compact network start at zero, so they are scaled.
"""

import argparse
import sys
from pathlib import Path

import torch

from geoloc_models.drl.hybrid_mix_fusion import HybridMixFusion
from geoloc_models.errors import GeolocError
from geoloc_models.weights import load_weights, save_weights

AS_TUNED = ("trunk.", "semantic_norm.", "semantic.")


def blend(tuned: HybridMixFusion, share: float) -> None:
    """Move `tuned` towards the shipped compact network, in place; share: 1 leaves it as it is."""
    start = HybridMixFusion()
    start.start_from(load_weights("mix_compact").model)  # type: ignore[arg-type]
    with torch.no_grad():
        for (name, ours), theirs in zip(tuned.named_parameters(), start.parameters(), strict=True):
            if not name.startswith(AS_TUNED):
                ours.copy_(torch.lerp(theirs, ours, share))


def main() -> int:
    """Read, blend, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tuned", type=Path, metavar="TUNED", help="weights of mix_hybrid")
    parser.add_argument("share", type=float, metavar="SHARE", help="of the tuned weights, 0 to 1")
    parser.add_argument("out", type=Path, metavar="OUT", help=".safetensors to write")
    args = parser.parse_args()
    try:
        loaded = load_weights(args.tuned)
        if not isinstance(loaded.model, HybridMixFusion) or not 0 <= args.share <= 1:
            raise GeolocError(
                f"{args.tuned} is of {loaded.info.network} and SHARE is {args.share}: give mix_hybrid weights "
                "and 0 to 1"
            )
        blend(loaded.model, args.share)
        print(f"wrote {args.out}, SHA-256 {save_weights(args.out, loaded.model, loaded.info)}")
    except GeolocError as error:
        print(f"blend: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
