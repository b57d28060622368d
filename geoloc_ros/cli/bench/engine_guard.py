# SPDX-License-Identifier: Apache-2.0
"""Ratios of engines to the plain network that must not drop, from the engines.json of an earlier run."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from geoloc_models.errors import GeolocError

TOLERANCE = 0.25
"""Share by which a ratio may drop unless the file gives another tolerance."""


@dataclass(frozen=True)
class Guard:
    """Ratios that must not drop."""

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Guard":
        """GeolocError for a file that is no engines.json."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not (content["engines"] and isinstance(content["processors"], dict)):
                raise ValueError("it holds no engines")
            for row in content["engines"]:
                cls._key(row)
                float(row["ratio_to_plain"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GeolocError(f"{path} is no engines.json of `geoloc bench engines`: {error}") from None
        return cls(path, content)

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple[str, str, int, str]:
        return row["engine"], row["device"], row["batch"], row["map"]

    def check_processors(self, here: dict[str, str]) -> None:
        """GeolocError unless they are the file's: the gain of half precision, say, differs between processors."""
        for device, name in here.items():
            known = self.content["processors"].get(device)
            if known != name:
                raise GeolocError(
                    f"{self.path} holds ratios of {known or 'no ' + device}, this is {name}: write one here with "
                    "`geoloc bench engines`"
                )

    def worse(self, rows: list[dict[str, Any]]) -> "list[Worse]":
        """The ratios that have dropped too far; an engine that was not measured has not."""
        found = {self._key(row): row["ratio_to_plain"] for row in rows}
        share = 1.0 - self.content.get("tolerance", TOLERANCE)
        return [
            Worse(*key, found[key], row["ratio_to_plain"], row["ratio_to_plain"] * share)
            for row in self.content["engines"]
            if found.get(key := self._key(row), math.inf) < row["ratio_to_plain"] * share
        ]

    def better(self, rows: list[dict[str, Any]], again: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Of each row the measurement with the higher ratio: other processes slow one engine for a while."""
        second = {self._key(row): row for row in again}
        return [max(row, second.get(self._key(row), row), key=_ratio) for row in rows]


class Worse(NamedTuple):
    """An engine's ratio in one mode, the earlier one, and the limit."""

    engine: str
    device: str
    batch: int
    map: str
    ratio: float
    before: float
    limit: float

    def __str__(self) -> str:
        maps = f"{self.batch} {self.map} map{'s' * (self.batch > 1)}"
        return (
            f"worse: {self.engine} on {self.device}, {maps}: {self.ratio:.2f} times as fast as the plain network, "
            f"it was {self.before:.2f}, the limit is {self.limit:.2f}"
        )


def _ratio(row: dict[str, Any]) -> float:
    return float(row["ratio_to_plain"])
