"""Affinities of pixels along a map of edges, and the losses that teach it (Ahn, Cho and Kwak, IRN, CVPR 2019)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from cxrmonai.data.masks import MASK_UNKNOWN
from cxrmonai.errors import CxrError

EPSILON = 1e-5


@dataclass(frozen=True)
class SearchPaths:
    """The pixels that a pixel is compared with, half of them since pairs have no direction, and the ways there.

    Attributes:
        radius: pixels nearer than this are compared.
        offsets: (N, 2) int64, [y, x] from the first pixel of a pair to the second, ordered by the length of the path.
        groups: for each path length L, (n, L) int64 places of the pixels of n paths in a window of `radius` rows and
            2 · radius − 1 columns whose first row has the first pixel of the pair at its middle.
    """

    radius: int
    offsets: np.ndarray
    groups: tuple[np.ndarray, ...]

    @property
    def reach(self) -> int:
        """Farthest offset on either axis."""
        return self.radius - 1


@lru_cache(maxsize=8)
def search_paths(radius: int) -> SearchPaths:
    """The pairs within a radius; the path between two pixels are those less than one pixel from the line.

    Args:
        radius: in pixels, 2 or more.

    Raises:
        CxrError: a smaller radius.
    """
    if radius < 2:
        raise CxrError(f"radius {radius}: must be 2 pixels or more")
    reach = radius - 1
    half = [(0, x) for x in range(1, radius)]
    half += [(y, x) for y in range(1, radius) for x in range(-reach, radius) if x * x + y * y < radius * radius]
    found: dict[int, list[tuple[tuple[int, int], list[int]]]] = {}
    for y, x in half:
        rows, columns = np.mgrid[0 : y + 1, min(0, x) : max(0, x) + 1]
        near = (y * columns - x * rows) ** 2 < y * y + x * x
        places = rows[near] * (2 * radius - 1) + columns[near] + reach
        found.setdefault(len(places), []).append(((y, x), places.tolist()))
    ordered = [found[length] for length in sorted(found)]
    return SearchPaths(
        radius,
        np.array([offset for group in ordered for offset, _ in group]),
        tuple(np.array([places for _, places in group]) for group in ordered),
    )


def path_affinity(edge: torch.Tensor, paths: SearchPaths) -> torch.Tensor:
    """One minus the strongest edge on the way from a pixel to each of its partners.

    Args:
        edge: (B, h, w) probabilities of an edge.
        paths: see `search_paths`.

    Returns:
        (B, N, h − reach, w − 2 · reach), for the pixels whose partners all lie inside; see `sources`.
    """
    windows = torch.stack(
        [sources(edge, paths, (y, x)) for y in range(paths.radius) for x in range(-paths.reach, paths.radius)], dim=1
    )
    strongest = []
    for group in paths.groups:  # picked by index_select, whose gradient is far cheaper than that of an index
        points = windows.index_select(1, torch.from_numpy(group).to(edge.device).flatten())
        strongest.append(points.unflatten(1, group.shape).amax(dim=2))
    return 1 - torch.cat(strongest, dim=1)


def sources(values: torch.Tensor, paths: SearchPaths, offset: tuple[int, int] = (0, 0)) -> torch.Tensor:
    """(…, h, w) → (…, h − reach, w − 2 · reach): the pixels whose partners all lie inside, moved by an offset."""
    y, left = int(offset[0]), paths.reach + int(offset[1])
    height, width = values.shape[-2] - paths.reach, values.shape[-1] - 2 * paths.reach
    return values[..., y : y + height, left : left + width]


class AffinityLoss(nn.Module):
    """What the edges, and the displacements where there are some, must be for pixels of one label to belong together.

    For each class, over the pairs of pixels within the radius whose labels are both known:
    −log(affinity + 1e-5) where both are background, the same where both are inside, and −log(1 + 1e-5 − affinity) where
    they differ, each averaged over its pairs (0 where there are none): ((bg + fg)/2 + neg)/2. Displacements δ add
    (fg + bg)/2: |δ(i) − δ(j) − (j − i)| for pairs inside, so that all point to one centre, and |δ(i) − δ(j)| for pairs
    of background. Every class weighs the same: the loss is the mean over the classes that have a known pair.

    Args:
        radius: of the pairs, in pixels of the network's output.
    """

    def __init__(self, radius: int = 10) -> None:
        super().__init__()
        self.paths = search_paths(int(radius))

    def forward(self, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Computes the loss.

        Args:
            output: (B, 1, h, w) logits of an edge; or (B, 3, h, w), then two displacements in pixels, y and x.
            labels: (B, K, H, W) uint8 of 0, 1 and 255 (unknown), H and W multiples of h and w: the middle pixel of each
                cell counts.

        Returns:
            () float32 at least.

        Raises:
            CxrError: maps smaller than the radius.
        """
        if min(output.shape[-2] - self.paths.reach, output.shape[-1] - 2 * self.paths.reach) < 1:
            raise CxrError(
                f"maps of {output.shape[-1]} pixels are too small for a radius of {self.paths.radius}; "
                "lower --radius, or raise --image_size"
            )
        output = output if output.dtype == torch.float64 else output.float()
        labels = _thinned(labels, output.shape[-2:])
        affinity = path_affinity(output[:, 0].sigmoid(), self.paths).flatten(2)
        alike, unlike = -torch.log(affinity + EPSILON), -torch.log(1 + EPSILON - affinity)
        moved = self._displacement(output[:, 1:]) if output.shape[1] == 3 else None
        first = sources(labels, self.paths).flatten(2)
        second = torch.stack([sources(labels, self.paths, offset) for offset in self.paths.offsets], dim=2).flatten(3)
        losses, weights = [], []
        for k in range(labels.shape[1]):
            one, other = first[:, k, None], second[:, k]
            both = one + other  # 255 wraps round to 254, 255 and 253 beside 0, 1 and 2
            known = (one != MASK_UNKNOWN) & (other != MASK_UNKNOWN)
            back, inside, differ = (known & (both == total) for total in (0, 2, 1))
            loss = ((_mean(alike, back) + _mean(alike, inside)) / 2 + _mean(unlike, differ)) / 2
            if moved is not None:
                loss = loss + (_mean(moved[1], inside) + _mean(moved[0], back)) / 2
            losses.append(loss)
            weights.append(known.any())
        weight = torch.stack(weights).to(output.dtype)
        return (torch.stack(losses) * weight).sum() / weight.sum().clamp_min(1)

    def _displacement(self, moves: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, N, P) mean over both axes of |δ(i) − δ(j)|, and of |δ(i) − δ(j) − (j − i)|."""
        start = sources(moves, self.paths)
        pairs = torch.stack([start - sources(moves, self.paths, offset) for offset in self.paths.offsets], dim=2)
        wanted = torch.from_numpy(self.paths.offsets.T.copy()).to(moves)[:, :, None, None]
        return tuple(each.abs().mean(dim=1).flatten(2) for each in (pairs, pairs - wanted))


def _thinned(labels: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """(B, K, H, W) → (B, K, h, w): the middle pixel of each cell."""
    rows, columns = (large // small for large, small in zip(labels.shape[-2:], shape, strict=True))
    return labels[..., rows // 2 :: rows, columns // 2 :: columns][..., : shape[0], : shape[1]]


def _mean(values: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    return (values * chosen).sum() / chosen.sum().clamp_min(1)


def neighbour_affinity(edge: torch.Tensor, radius: int) -> tuple[torch.Tensor, np.ndarray]:
    """Affinity of every pixel with each neighbour within a radius, itself (1) included.

    Args:
        edge: (B, h, w) probabilities of an edge.
        radius: of the neighbourhood.

    Returns:
        (B, M, h, w), 0 for neighbours beyond the image, and (M, 2) their offsets [y, x].
    """
    paths = search_paths(radius)
    reach = paths.reach
    ahead = path_affinity(F.pad(edge, (reach, reach, 0, reach), value=1.0), paths)
    height, width = edge.shape[-2:]
    padded = F.pad(ahead, (reach, reach, reach, 0))
    behind = [
        padded[:, n, reach - y : reach - y + height, reach - x : reach - x + width]
        for n, (y, x) in enumerate(paths.offsets.tolist())
    ]
    own = torch.ones_like(edge)[:, None]
    offsets = np.concatenate([paths.offsets, -paths.offsets, [[0, 0]]])
    return torch.cat([ahead, torch.stack(behind, dim=1), own], dim=1), offsets


__all__ = ["AffinityLoss", "SearchPaths", "neighbour_affinity", "path_affinity", "search_paths", "sources"]
