# SPDX-License-Identifier: Apache-2.0
"""Camera, rectification, rotations, positions on the Earth."""
