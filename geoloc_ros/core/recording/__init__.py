# SPDX-License-Identifier: Apache-2.0
"""Frames, and the folders and files they are recorded in."""
