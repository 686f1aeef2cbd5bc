"""A copy of a network that follows it slowly."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn


class MomentumCopy(nn.Module):
    """Exponential moving average of a network's weights, which makes the keys; it never learns itself.

    Its batch norms normalise by the batch of keys in training, and keep running statistics of their own for afterwards:
    those of the network would not fit weights that lag behind.

    Args:
        network: to follow; not held on to.
        decay: share of the copy that stays in a move, 0 to below 1.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.copy = deepcopy(network).requires_grad_(False)

    def align(self, network: nn.Module) -> None:
        """Becomes equal to the network, statistics included."""
        self.copy.load_state_dict(network.state_dict())

    @torch.no_grad()
    def move(self, network: nn.Module) -> None:
        """Moves the weights towards the network's; the statistics stay those of the keys."""
        for own, other in zip(self.copy.parameters(), network.parameters(), strict=True):
            own.lerp_(other, 1 - self.decay)

    @torch.no_grad()
    def forward(self, images: torch.Tensor, groups: int = 1) -> torch.Tensor:
        """Whatever the network makes of it, without gradients.

        In MoCo a key's batch statistics betray which queries were beside it, and a query finds its key by them. Keys
        made in smaller groups drawn at random do not share their statistics with the queries (MoCo shuffles them among
        GPUs to the same end).

        Args:
            images: (B, …).
            groups: how many to make in training; fewer where a group would have less than two images.

        Returns:
            (B, …), in the order of the images.
        """
        groups = min(groups, len(images) // 2)
        if groups < 2 or not self.training:
            return self.copy(images)
        order = torch.randperm(len(images), device=images.device)
        shuffled = torch.cat([self.copy(images[part]) for part in order.chunk(groups)])
        return shuffled[order.argsort()]
