# SPDX-License-Identifier: Apache-2.0
"""Crops of any raster as north-up squares of true metres."""
