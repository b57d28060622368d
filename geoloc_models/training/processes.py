# SPDX-License-Identifier: Apache-2.0
"""Training by several processes that `torchrun` started, one a GPU (or on CPUs): who is who, and what they share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from geoloc_models.devices import choose_device
from geoloc_models.errors import GeolocError


@dataclass(frozen=True)
class Processes:
    """This process among all that train one network; rank 0 alone writes and prints."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def own_share(self, batch: int) -> range:
        """Which of a batch's items this process draws; GeolocError unless all get as many."""
        if batch % self.count:
            raise GeolocError(
                f"a batch of {batch} does not divide among {self.count} processes: give a multiple of {self.count}"
            )
        each = batch // self.count
        return range(self.rank * each, (self.rank + 1) * each)

    def replicate(self, model: nn.Module) -> nn.Module:
        """`model` such that a backward pass leaves the mean of all processes' gradients in each.

        On GPUs batch norms take their statistics over all processes; PyTorch has no such norm for CPUs.
        """
        if self.count == 1:
            return model
        if self.device.type == "cuda":
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            return DistributedDataParallel(model, device_ids=[self.device.index])
        return DistributedDataParallel(model)

    def whole_batch(self, own: Tensor) -> Tensor:
        """(B, ...) of every process, in the order of ranks, as one batch; only the own part carries a gradient."""
        if self.count == 1:
            return own
        parts = [torch.empty_like(own) for _ in range(self.count)]
        distributed.all_gather(parts, own.detach().contiguous())
        parts[self.rank] = own
        return torch.cat(parts)

    def wait_for_all(self) -> None:
        """Go on once every process has come here; for short waits, a group gives up after minutes."""
        if self.count > 1:
            distributed.barrier()


@contextmanager
def join_processes(device: str = "auto") -> Iterator[Processes]:
    """Meet the other processes of `torchrun` (nccl between GPUs, gloo between CPUs); alone without it."""
    chosen = choose_device(device)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(0, 1, chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if chosen.index >= torch.cuda.device_count():
            raise GeolocError(
                f"process {chosen.index} has no GPU of its own, PyTorch sees {torch.cuda.device_count()}: "
                "give --nproc-per-node as many, or --device cpu"
            )
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(distributed.get_rank(), count, chosen)
    finally:
        distributed.destroy_process_group()
