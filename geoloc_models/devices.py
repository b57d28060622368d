# SPDX-License-Identifier: Apache-2.0
"""Where networks run, and with how many threads."""

import cv2
import torch

from geoloc_models.errors import GeolocError


def choose_device(name: str = "auto") -> torch.device:
    """ "auto" (CUDA where there is one), "cpu", "cuda", "cuda:1"; GeolocError if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise GeolocError(f"unknown device {name!r}: use 'auto', 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise GeolocError(f"device {name!r} is not there: PyTorch sees no GPU; use 'cpu' or 'auto'")
    return device


def fix_threads(threads: int) -> None:
    """Use so many CPU threads and nothing that depends on chance, so that figures repeat to the last digit."""
    if not 1 <= threads <= 256:
        raise GeolocError(f"{threads} threads cannot compute anything; give 1 to 256")
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    # cuDNN's benchmark mode picks algorithms by their timing, and they round differently.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    # OpenCV's RANSAC draws from its own generator.
    cv2.setRNGSeed(0)
