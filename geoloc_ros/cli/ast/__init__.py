# SPDX-License-Identifier: Apache-2.0
"""Train, score and inspect the retrieval network.

AST (Attention-guided Segment Transformer) turns an image into a vector, so that a drone's view finds its place among
the tiles of a map.
"""

VERBS = ("models", "train", "evaluate", "show")
