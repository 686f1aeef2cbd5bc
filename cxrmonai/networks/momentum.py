"""A copy of a network that follows it slowly."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


class MomentumCopy(nn.Module):
    """Exponential moving average of a network's weights and of its batch norms' statistics; it never learns itself.

    It runs in evaluation mode always, so that what it makes of an image depends on no other image: batch statistics
    cannot tell which keys were made beside a query, on one rank or many, and MoCo's shuffling is not needed (Cai et
    al., Exponential Moving Average Normalization, CVPR 2021). The first moves are longer: the share that stays is
    `min(decay, (1 + n) / (10 + n))` at move n, 0 at the first, so that short runs do not end with a copy of their
    beginning.

    Args:
        network: to follow; not held on to.
        decay: share of the copy that stays in a move, 0 to below 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.copy = deepcopy(network).requires_grad_(False)
        self.register_buffer("moves", torch.zeros((), dtype=torch.long))
        self.train(False)

    def train(self, mode: bool = True) -> MomentumCopy:
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def align(self, network: nn.Module) -> None:
        """Becomes equal to the network."""
        self.copy.load_state_dict(network.state_dict())

    @torch.no_grad()
    def move(self, network: nn.Module) -> None:
        """Moves towards the network; counts, such as batch norms keep of their batches, are taken over."""
        count = self.moves.double()
        stays = torch.clamp((1 + count) / (10 + count), max=self.decay) * (count > 0)
        theirs = [*network.parameters(), *network.buffers()]
        for own, other in zip([*self.copy.parameters(), *self.copy.buffers()], theirs, strict=True):
            if own.is_floating_point():
                own.lerp_(other.detach(), (1 - stays).to(own.dtype))
            else:
                own.copy_(other)
        self.moves += 1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Whatever the network makes of it, without gradients."""
        with torch.no_grad():
            return self.copy(images)
