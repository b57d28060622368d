# SPDX-License-Identifier: Apache-2.0
"""What `geoloc export` knows of an engine that it made: for which weights, and how it did beside PyTorch.

A folder of engines holds WEIGHTS_ID/ENGINE/engine.json, with the engine's files beside it.
"""

import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geoloc_models.errors import GeolocError
from geoloc_models.weights import sha256

RECORD = "engine.json"


@dataclass(frozen=True)
class Check:
    """An engine beside torch-float32 on the same views and maps.

    max_logit_error: largest difference of a logit; moved_median_m, moved_p95_m: how far its fixes lie from
    PyTorch's, by the heatmap's peak or aligned, whichever is farther; ma20, torch_ma20: share of fixes within 20 m of
    the truth, its own and PyTorch's; median_ms, torch_ms: milliseconds of a view and a map, its own and those of
    PyTorch as it runs without any export, in the same run. Of a retriever max_logit_error is the largest 1 - product of
    a vector with PyTorch's, the times are of an image, and the others are NaN.
    """

    samples: int
    source: str
    max_logit_error: float
    moved_median_m: float
    moved_p95_m: float
    ma20: float
    torch_ma20: float
    median_ms: float
    torch_ms: float
    failure: str
    """Why the engine must not be used; empty if it may."""


@dataclass(frozen=True)
class Record:
    """engine, weights_id: what it is and of what; processor: where it was made; files: name -> SHA-256."""

    engine: str
    weights_id: str
    processor: str
    versions: Mapping[str, str]
    files: Mapping[str, str]
    check: Check

    def write(self, folder: Path) -> None:
        """Write engine.json, at once or not at all."""
        part = folder / (RECORD + ".part")
        part.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        part.replace(folder / RECORD)


def put_engine(own: Path, record: Record, folder: Path) -> None:
    """Move an engine's new files with their record to their place in `folder`, instead of what is there."""
    record.write(own)
    final = engine_folder(folder, record.weights_id, record.engine)
    final.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(final, ignore_errors=True)
    own.rename(final)


def default_folder() -> Path:
    """The default folder of exported engines: $XDG_CACHE_HOME/geoloc/engines."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "geoloc" / "engines"


def engine_folder(folder: Path, weights_id: str, engine: str) -> Path:
    """Where one engine's files are."""
    return folder / weights_id / engine


def processor_name() -> str:
    """Name of the processor, as the system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    # Virtual machines give the same name to processors with and without matrix units.
    extra = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8") if f" {flag}" in flags]
    return " ".join([named[0] if named else platform.machine(), *extra])


def read_record(folder: Path, weights_id: str, engine: str) -> Record:
    """The record of an engine that may be used. GeolocError: not exported, of other weights, damaged, or failed."""
    record = find_record(folder, weights_id, engine)
    own = engine_folder(folder, weights_id, engine)
    for name, digest in record.files.items():
        if not (own / name).is_file() or sha256(own / name) != digest:
            raise GeolocError(f"{own / name} is missing or damaged; {_remedy(engine)}")
    return record


def _remedy(engine: str) -> str:
    return f"run: geoloc export --engine {engine}"


def find_record(folder: Path, weights_id: str, engine: str) -> Record:
    """As `read_record`, its files not looked at: to sum them up takes a seventh of a second an engine."""
    remedy = _remedy(engine)
    own = engine_folder(folder, weights_id, engine)
    path = own / RECORD
    if not path.is_file():
        others = sorted(found.parent.parent.name for found in folder.glob(f"*/{engine}/{RECORD}"))
        there = f", only for {', '.join(others)}" if others else ""
        raise GeolocError(f"{engine} was not exported for the weights {weights_id} to {folder}{there}; {remedy}")
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        record = Record(**{**values, "check": Check(**values["check"])})
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise GeolocError(f"{path} cannot be read ({error}); {remedy}") from error
    if (record.weights_id, record.engine) != (weights_id, engine):
        raise GeolocError(
            f"{path} is of {record.engine} for the weights {record.weights_id}, not of {engine} for {weights_id}; "
            f"{remedy}"
        )
    if record.check.failure:
        raise GeolocError(f"{engine} failed its check: {record.check.failure}; take engine:=torch")
    return record
