# SPDX-License-Identifier: Apache-2.0
"""The localizer: from frames to a track."""
