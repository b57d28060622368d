# SPDX-License-Identifier: Apache-2.0
"""Measure engines, graph, galleries, bridges, odometry."""

VERBS = ("engines", "stages", "graph", "gallery", "bridge", "odometry")
