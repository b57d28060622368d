# SPDX-License-Identifier: Apache-2.0
"""Build and search the gallery of a map.

A gallery holds a vector for each of many overlapping tiles of a map, so that a camera image finds its place on the
whole map (docs/gallery.md).
"""

VERBS = ("build", "info", "search")
