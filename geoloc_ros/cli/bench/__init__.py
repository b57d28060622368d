# SPDX-License-Identifier: Apache-2.0
"""Measure engines, stages, graph, searches, galleries, bridges and odometry."""

VERBS = ("engines", "stages", "graph", "search", "gallery", "bridge", "odometry")
