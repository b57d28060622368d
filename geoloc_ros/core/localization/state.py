# SPDX-License-Identifier: Apache-2.0
"""The states of the localizer, for those who act on them without running it."""

import enum


class State(enum.IntEnum):
    """What the localizer is doing; the numbers are those of msg/LocalizerStatus.msg."""

    UNINITIALIZED = 0
    RELOCALIZING = 1
    TRACKING = 2
    LOST = 3
    DEAD_RECKONING = 4
