# SPDX-License-Identifier: Apache-2.0
"""Files that a run writes as it goes and reads when it is started again."""

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from geoloc_models.errors import GeolocError


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write beside and rename, so that a kill never leaves half a file."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """What `write_state` wrote; GeolocError if it is damaged or something else."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise GeolocError(f"{path} is damaged or no checkpoint: delete it, or name another --out") from error
    if not isinstance(state, dict):
        raise GeolocError(f"{path} is damaged or no checkpoint: delete it, or name another --out")
    return state
