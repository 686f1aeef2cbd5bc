"""One network on many ranks, and the precision a device is good at."""

from __future__ import annotations

import torch
from torch import nn


def data_parallel(network: nn.Module, device: str | torch.device) -> nn.Module:
    """Wraps a network for data-parallel training; on GPUs its batch norms see the batch of all ranks.

    Args:
        network: on `device`.
        device: of this rank, after `distributed.start`.
    """
    device = torch.device(device)
    if device.type != "cuda":
        return nn.parallel.DistributedDataParallel(network)
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    return nn.parallel.DistributedDataParallel(network, device_ids=[torch.cuda.current_device()])


def amp_options() -> dict[str, torch.dtype]:
    """Options of autocast: bfloat16 where the GPU has it, else float16."""
    wide = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return {"dtype": torch.bfloat16 if wide else torch.float16}
