# SPDX-License-Identifier: Apache-2.0
"""Recordings through the localizer, scored against their true positions."""
