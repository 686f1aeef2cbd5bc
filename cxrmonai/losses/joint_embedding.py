"""Losses between the queries and keys of a `networks.JointEmbeddingNetwork`.

Each takes the network's output and the rows (B,) of the images in the store, and computes in float32 at least. What a
loss remembers from step to step (a memory, a centre) is moved by `update` after a step, is part of its state dict and
the same on all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cxrmonai import distributed
from cxrmonai.errors import CxrError

Output = Mapping[str, torch.Tensor]


class JointEmbeddingLoss(nn.Module):
    """What these losses share.

    Attributes:
        accuracy: a scalar of the last call: share of the first queries to which their own key is the nearest, among
            what the loss compares them with; without a memory these are the keys of this rank's batch.
    """

    def __init__(self) -> None:
        super().__init__()
        self.accuracy = torch.zeros(())

    def forward(self, output: Output, rows: torch.Tensor) -> torch.Tensor:
        """A scalar.

        Args:
            output: `query` (Q, B, D), `key` (Q, B, D) and, for some, `jigsaw` (B, D).
            rows: (B,) of the images in the store.
        """
        raise NotImplementedError

    def update(self, output: Output, rows: torch.Tensor) -> None:
        """Remembers a step that is over; does nothing where nothing is remembered."""

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Goes on with what was remembered.

        Raises:
            CxrError: it is of another size.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            raise CxrError(
                "checkpoint.pt: was made with a memory of another size; keep data_file, feature_size, memory and "
                "queue_size, or start anew with --resume False"
            ) from error


def info_nce(
    query: torch.Tensor,
    positive: torch.Tensor,
    negatives: torch.Tensor,
    own: torch.Tensor | None = None,
    temperature: float = 0.07,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of telling each query's positive from negatives by cosine (van den Oord et al., 2018).

    Args:
        query: (B, D), of any length, as all others.
        positive: (B, D).
        negatives: (K, D), shared by all queries.
        own: (B, K) bool, negatives that a query is not compared with.
        temperature: divides the cosines.

    Returns:
        The mean loss, and the share of queries that are nearer to their positive than to any negative; scalars.
    """
    with torch.autocast(query.device.type, enabled=False):
        query, positive, negatives = (_unit(each) for each in (query, positive, negatives))
        near = (query * positive).sum(1, keepdim=True)
        far = query @ negatives.T
        if own is not None:
            far = far.masked_fill(own, float("-inf"))
        logits = torch.cat([near, far], 1) / temperature
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long, device=logits.device))
        with torch.no_grad():
            accuracy = (near > far).all(1).float().mean()
        return loss, accuracy


class MemoryContrastLoss(JointEmbeddingLoss):
    """InfoNCE against a memory of earlier embeddings: MoCo, InsDis, PIRL, InfoMin, CMC.

    Query q is compared with memory q, which then takes up the keys q; the losses are summed (CMC's two views). With a
    jigsaw branch the loss is (1 − β)·L + β·L_jigsaw, where the jigsaw embedding is compared as the first query is.

    Args:
        memories: one for each of the Q queries, from `networks.make_memories`.
        temperature: divides the cosines.
        jigsaw_weight: β, of the jigsaw embedding, where there is one.

    Raises:
        CxrError: a number out of range.
    """

    def __init__(self, memories: Sequence[nn.Module], temperature: float = 0.07, jigsaw_weight: float = 0.5) -> None:
        super().__init__()
        _above_zero(temperature=temperature)
        if not 0 <= jigsaw_weight <= 1:
            raise CxrError(f"jigsaw_weight {jigsaw_weight}: must be 0 to 1")
        self.memories = nn.ModuleList(memories)
        self.temperature, self.jigsaw_weight = temperature, jigsaw_weight

    def forward(self, output: Output, rows: torch.Tensor) -> torch.Tensor:
        """A scalar; see `JointEmbeddingLoss.forward`."""
        compared = [memory.contrast(rows, keys) for memory, keys in zip(self.memories, output["key"], strict=True)]
        results = [
            info_nce(query, *parts, self.temperature) for query, parts in zip(output["query"], compared, strict=True)
        ]
        self.accuracy = results[0][1]
        loss = torch.stack([loss for loss, _ in results]).sum()
        if "jigsaw" not in output:
            return loss
        jigsaw, _ = info_nce(output["jigsaw"], *compared[0], self.temperature)
        return (1 - self.jigsaw_weight) * loss + self.jigsaw_weight * jigsaw

    def update(self, output: Output, rows: torch.Tensor) -> None:
        """The memories take up the keys."""
        for memory, keys in zip(self.memories, output["key"], strict=True):
            memory.update(rows, keys)


class CosineLoss(JointEmbeddingLoss):
    """2 − 2·cosine of queries and keys, averaged over images and summed over views (Grill et al., BYOL, 2020).

    SimSiam's loss (Chen and He, 2021) is a quarter of it, less a constant.
    """

    def forward(self, output: Output, rows: torch.Tensor) -> torch.Tensor:
        """A scalar in 0–4·Q; see `JointEmbeddingLoss.forward`."""
        self.accuracy = batch_accuracy(output)
        with torch.autocast(output["query"].device.type, enabled=False):
            cosine = (_unit(output["query"]) * _unit(output["key"])).sum(-1)
            return (2 - 2 * cosine).mean(1).sum()


class BarlowTwinsLoss(JointEmbeddingLoss):
    """Pulls the cross-correlation of the two views' dimensions towards the identity (Zbontar et al., 2021).

    The correlation is that of the batches of all ranks.

    Args:
        off_diagonal: weight λ of the correlations of different dimensions.

    Raises:
        CxrError: the weight is not above 0; or, in a call, a batch of one image.
    """

    def __init__(self, off_diagonal: float = 0.005) -> None:
        super().__init__()
        _above_zero(off_diagonal=off_diagonal)
        self.off_diagonal = off_diagonal

    def forward(self, output: Output, rows: torch.Tensor) -> torch.Tensor:
        """A scalar; see `JointEmbeddingLoss.forward`. Both `query` have gradients; `key` is not used."""
        self.accuracy = batch_accuracy(output)
        with torch.autocast(output["query"].device.type, enabled=False):
            views = distributed.gather(_wide(output["query"])).transpose(0, 1).flatten(1, 2)
            count = views.shape[1]
            if count < 2:
                raise CxrError("batch_size 1: Barlow Twins needs several images a batch")
            centred = views - views.mean(1, keepdim=True)
            scaled = centred / centred.square().mean(1, keepdim=True).add(1e-12).sqrt()
            correlation = scaled[0].T @ scaled[1] / count
            diagonal = correlation.diagonal()
            off = correlation.square().sum() - diagonal.square().sum()
            return (diagonal - 1).square().sum() + self.off_diagonal * off


class SelfDistillationLoss(JointEmbeddingLoss):
    """Cross-entropy from sharpened, centred keys to queries, averaged over views (Caron et al., DINO, 2021).

    Args:
        feature_size: number of prototypes.
        temperature: of the queries.
        key_temperature: of the keys, which are sharper.
        centre_decay: share of the centre that stays at an update.

    Raises:
        CxrError: a temperature is not above 0.
    """

    def __init__(
        self, feature_size: int, temperature: float = 0.1, key_temperature: float = 0.04, centre_decay: float = 0.9
    ) -> None:
        super().__init__()
        _above_zero(temperature=temperature, key_temperature=key_temperature)
        self.temperature, self.key_temperature, self.centre_decay = temperature, key_temperature, centre_decay
        self.register_buffer("centre", torch.zeros(feature_size))

    def forward(self, output: Output, rows: torch.Tensor) -> torch.Tensor:
        """A scalar; see `JointEmbeddingLoss.forward`."""
        self.accuracy = batch_accuracy(output)
        with torch.autocast(output["query"].device.type, enabled=False):
            wanted = F.softmax((_wide(output["key"]) - self.centre) / self.key_temperature, dim=-1)
            given = F.log_softmax(_wide(output["query"]) / self.temperature, dim=-1)
            return -(wanted * given).sum(-1).mean()

    @torch.no_grad()
    def update(self, output: Output, rows: torch.Tensor) -> None:
        """Moves the centre towards the mean key of all ranks."""
        mean = distributed.gather(_wide(output["key"])).flatten(0, 2).mean(0)
        self.centre.lerp_(mean.to(self.centre.dtype), 1 - self.centre_decay)


@torch.no_grad()
def batch_accuracy(output: Output) -> torch.Tensor:
    """Share of the first queries (B, D) that are nearer to their own key than to any other of the batch; a scalar."""
    cosine = _unit(output["query"][0]) @ _unit(output["key"][0]).T
    return (cosine.argmax(1) == torch.arange(len(cosine), device=cosine.device)).float().mean()


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _unit(values: torch.Tensor) -> torch.Tensor:
    return F.normalize(_wide(values), dim=-1)


def _above_zero(**values: float) -> None:
    for name, value in values.items():
        if value <= 0:
            raise CxrError(f"{name} {value}: must be above 0")
