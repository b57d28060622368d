# SPDX-License-Identifier: Apache-2.0
"""Small tensors on a busy machine: threads that wait for each other cost more than they bring."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tree(ul14_tree: Path, tmp_path: Path) -> Path:
    """A copy of the UL14 tree that a test may damage."""
    return shutil.copytree(ul14_tree, tmp_path / "ul14")
