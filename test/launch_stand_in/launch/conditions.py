# SPDX-License-Identifier: Apache-2.0
"""Stand-in for `launch.conditions`."""

from typing import Any

from launch import LaunchContext


class IfCondition:
    """True for the texts true and 1, false for false and 0; anything else is a mistake."""

    def __init__(self, predicate_expression: Any) -> None:
        self._predicate = predicate_expression

    def evaluate(self, context: LaunchContext) -> bool:
        text = context.text(self._predicate).strip().lower()
        if text not in ("true", "1", "false", "0"):
            raise RuntimeError(f"'{text}' is no condition; give true or false")
        return text in ("true", "1")
