# SPDX-License-Identifier: Apache-2.0
"""Measure engines, stages, graph, galleries and bridges."""

VERBS = ("engines", "stages", "graph", "gallery", "bridge")
