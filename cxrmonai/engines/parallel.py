"""One network on many ranks, and the precision a device is good at."""

from __future__ import annotations

import torch
import torch.distributed as dist
from ignite.engine import Engine, Events
from timm.layers import convert_sync_batchnorm
from torch import nn

from cxrmonai import distributed


def data_parallel(network: nn.Module, device: str | torch.device) -> nn.Module:
    """Wraps a network for data-parallel training where there are several ranks, else returns it as it is.

    On GPUs its batch norms then see the batch of all ranks. The conversion is timm's, since PyTorch's own drops the
    activation that timm's encoders fuse with their norms.

    Args:
        network: on `device`.
        device: of this rank, after `distributed.start`.
    """
    if distributed.world_size() == 1:
        return network
    if torch.device(device).type != "cuda":
        return nn.parallel.DistributedDataParallel(network)
    network = convert_sync_batchnorm(network)
    return nn.parallel.DistributedDataParallel(network, device_ids=[torch.cuda.current_device()])


class SameBuffers:
    """Gives every rank rank 0's buffers of the network that is validated, so that all ranks validate what is saved.

    On GPUs they are the same anyway, since batch norms see the batch of all ranks; on CPUs each rank has seen its own.
    """

    def attach(self, engine: Engine) -> None:
        """Attaches to the start of a validation."""
        if distributed.world_size() > 1:
            engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Sends the buffers."""
        for buffer in engine.network.buffers():
            dist.broadcast(buffer, 0)


def amp_options() -> dict[str, torch.dtype]:
    """Options of autocast: bfloat16 where the GPU has it, else float16."""
    wide = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return {"dtype": torch.bfloat16 if wide else torch.float16}
