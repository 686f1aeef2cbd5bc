"""Spreading of maps by a random walk that edges hold back (Ahn, Cho and Kwak, IRN, CVPR 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from cxrmonai.errors import CxrError
from cxrmonai.losses.affinity import neighbour_affinity


@dataclass(frozen=True)
class WalkSettings:
    """Of a random walk; a short one by default, since long ones flood the image past edges that are weak.

    IRN has 5, 10, 8 and 0.25, CheXseg 3, 5, 3 and 0.6.

    Attributes:
        radius: a step goes less far than this, in pixels of the map of edges.
        beta: power that affinities are raised to.
        doublings: the walk takes 2 to this power steps.
        threshold: share of a spread map's maximum above which a pixel belongs to the finding.

    Raises:
        CxrError: a number out of range.
    """

    radius: int = 3
    beta: float = 5.0
    doublings: int = 2
    threshold: float = 0.25

    def __post_init__(self) -> None:
        if self.radius < 2 or self.beta <= 0 or self.doublings < 0 or not 0 < self.threshold < 1:
            raise CxrError("a random walk needs radius ≥ 2, beta > 0, doublings ≥ 0 and a threshold between 0 and 1")


def propagate(maps: torch.Tensor, edge: torch.Tensor, settings: WalkSettings | None = None) -> torch.Tensor:
    """Walks from the maps' pixels to others of the same region.

    A step from i to j has the weight affinity(i, j)^beta, divided by the sum over all i. Each pixel's next value is
    thus a weighted mean of its neighbours', for all images and findings at once; nothing of the size (h·w)² is made.

    Args:
        maps: (B, K, h, w), 0 or above; what lies on an edge starts with less.
        edge: (B, h, w) probabilities of an edge.
        settings: of the walk.

    Returns:
        (B, K, h, w) float32.
    """
    settings = settings or WalkSettings()
    count, findings, height, width = maps.shape
    affinity, offsets = neighbour_affinity(edge.float(), settings.radius)
    weights = affinity.pow_(settings.beta)
    weights /= weights.sum(dim=1, keepdim=True)
    rows = torch.arange(height, device=edge.device)[:, None]
    columns = torch.arange(width, device=edge.device)
    # Neighbours beyond the image weigh nothing; they are given some place inside.
    places = [(rows + y).clamp(0, height - 1) * width + (columns + x).clamp(0, width - 1) for y, x in offsets.tolist()]
    first = torch.arange(count, device=edge.device)[:, None, None] * (height * width)
    neighbours = (first + torch.stack(places, dim=2).flatten(0, 1)).view(count * height * width, -1)
    weights = weights.flatten(2).transpose(1, 2).reshape(neighbours.shape)
    values = (maps.float() * (1 - edge[:, None])).permute(0, 2, 3, 1).reshape(-1, findings).contiguous()
    for _ in range(2**settings.doublings):
        values = F.embedding_bag(neighbours, values, mode="sum", per_sample_weights=weights)
    return values.view(count, height, width, findings).permute(0, 3, 1, 2)


def spread_maps(maps: torch.Tensor, edge: torch.Tensor, settings: WalkSettings | None = None) -> torch.Tensor:
    """Propagates maps at the size of the edges, and brings them back to theirs, each with a maximum of 1.

    Args:
        maps: (B, K, S, S), 0–1; a map of zeros stays one.
        edge: (B, h, w) probabilities of an edge.
        settings: of the walk.

    Returns:
        (B, K, S, S) float32, 0–1.
    """
    small = F.interpolate(maps.float(), size=edge.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
    spread = propagate(small.clamp_min_(0), edge, settings)
    spread = F.interpolate(spread, size=maps.shape[-2:], mode="bilinear", align_corners=False)
    peak = spread.amax(dim=(2, 3), keepdim=True)
    return torch.where(peak > 0, spread / peak.clamp_min(1e-20), 0.0)


__all__ = ["WalkSettings", "propagate", "spread_maps"]
