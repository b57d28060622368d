# SPDX-License-Identifier: Apache-2.0
"""Measure engines, graph, searches, bridges, odometry."""

VERBS = ("engines", "stages", "graph", "search", "gallery", "bridge", "odometry")
