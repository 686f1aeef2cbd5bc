"""What the ranks of a run share. Every function works, and does nothing special, without a process group."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist


def is_active() -> bool:
    """Whether this process belongs to a process group."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Rank of this process; before the group exists, the rank that torchrun announced."""
    return dist.get_rank() if is_active() else int(os.environ.get("RANK", 0))


def world_size() -> int:
    """Number of processes in the group."""
    return dist.get_world_size() if is_active() else 1


def local_device() -> torch.device:
    """The device of this rank: its own GPU where there are GPUs, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def start(device: str | torch.device) -> None:
    """Joins the process group that torchrun set up, nccl for GPUs and gloo otherwise; nothing without torchrun."""
    if "WORLD_SIZE" not in os.environ:
        return
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(local_device() if device.index is None else device)
    if not is_active():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def stop() -> None:
    """Leaves the process group, where there is one."""
    if is_active():
        dist.destroy_process_group()


def broadcast_number(value: float) -> float:
    """The value of rank 0, on every rank."""
    if world_size() == 1:
        return value
    device = local_device() if dist.get_backend() == "nccl" else torch.device("cpu")
    tensor = torch.tensor([value], dtype=torch.float64, device=device)
    dist.broadcast(tensor, 0)
    return tensor.item()


def collect(item: Any) -> list[Any] | None:
    """An object of every rank, of any size, in the order of the ranks: on rank 0; `None` on the others."""
    if world_size() == 1:
        return [item]
    items = [None] * world_size() if rank() == 0 else None
    dist.gather_object(item, items)
    return items


def note(text: str) -> None:
    """Prints `note: …` once, on rank 0."""
    if rank() == 0:
        print(f"note: {text}", flush=True)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tensor: torch.Tensor) -> torch.Tensor:
        parts = [torch.empty_like(tensor) for _ in range(world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> torch.Tensor:
        grad = grad.contiguous()
        dist.all_reduce(grad)
        return grad[dist.get_rank()]


def gather(tensor: torch.Tensor) -> torch.Tensor:
    """Stacks a tensor of every rank, with gradients that flow back to the rank each part came from.

    Args:
        tensor: (…), the same shape on every rank.

    Returns:
        (R, …) for R ranks.
    """
    return _Gather.apply(tensor) if world_size() > 1 else tensor[None]
