"""One network for the methods that learn from two views of an image; they differ by the parts it is given."""

from __future__ import annotations

import torch
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.networks.checkpoints import DescribedNetwork
from cxrmonai.networks.encoders import encoder as make_encoder
from cxrmonai.networks.heads import projection_head
from cxrmonai.networks.jigsaw import JigsawHead
from cxrmonai.networks.momentum import MomentumCopy
from cxrmonai.transforms.preprocessing import Preprocessing

KEPT = ("online", "momentum")


class JointEmbeddingNetwork(DescribedNetwork):
    """An encoder with a head that makes queries, and what makes the keys that they shall be near to.

    | method | parts beside encoder and head |
    | --- | --- |
    | MoCo, InfoMin | `momentum`; InfoMin also `jigsaw` |
    | InsDis, PIRL | one view; PIRL also `jigsaw` |
    | CMC | `second_encoder` |
    | BYOL | `momentum`, `predictor`, `symmetric` |
    | SimSiam | `predictor`, `symmetric` |
    | Barlow Twins | `symmetric` |
    | DINO | `momentum`, `symmetric` |

    Args:
        encoder: a timm model name.
        in_channels: channels of the input.
        stem: see `networks.encoders.encoder`.
        image_size: edge of the input in pixels.
        feature_size: length of an embedding.
        head: see `projection_head`.
        hidden: width of the head's hidden layers; 0 for the encoder's.
        predictor: width of the hidden layer of a predictor behind the head of the queries; 0 for none.
        momentum: decay of the copy of encoder and head that makes the keys, see `MomentumCopy`; 0 for none, and the
            network itself makes them, without gradients.
        key_groups: in which the copy makes keys to remember, see `MomentumCopy.forward`.
        symmetric: whether each view is query and key in turn; else view 1 is the query, view 2 the key.
        view_count: of an image, 1 or 2; of one view, the query is its own key, for a bank to remember.
        jigsaw: whether the image is seen in pieces as well.
        second_encoder: whether view 2 has an encoder and a head of its own; each view is query and key in turn.

    Raises:
        CxrError: an unknown part, or parts that exclude each other.
    """

    def __init__(
        self,
        encoder: str = "resnet18",
        in_channels: int = 1,
        stem: str = "default",
        image_size: int = 0,
        feature_size: int = 128,
        head: str = "mlp_plain",
        hidden: int = 0,
        predictor: int = 0,
        momentum: float = 0.999,
        key_groups: int = 2,
        symmetric: bool = False,
        view_count: int = 2,
        jigsaw: bool = False,
        second_encoder: bool = False,
    ) -> None:
        super().__init__(make_encoder(encoder, in_channels, stem, image_size), {"image_size": image_size})
        if view_count not in (1, 2):
            raise CxrError(f"view_count {view_count}: must be 1 or 2")
        if view_count == 1 and (symmetric or second_encoder or momentum):
            raise CxrError("view_count 1: needs symmetric False, second_encoder False and momentum 0")
        if second_encoder and (symmetric or momentum or predictor):
            raise CxrError("second_encoder: needs symmetric False, momentum 0 and predictor 0")
        if jigsaw and self.encoder.description.image_size:
            raise CxrError(
                f"jigsaw: encoder '{encoder}' takes images of one size; use one that takes any, or another method"
            )
        self.view_count, self.symmetric, self.key_groups = view_count, symmetric, key_groups
        size = self.encoder.num_features
        self.head = projection_head(size, feature_size, head, hidden)
        self.predictor = projection_head(feature_size, feature_size, "mlp", predictor) if predictor else None
        self.jigsaw = JigsawHead(size, feature_size) if jigsaw else None
        self.second = None
        if second_encoder:
            other = make_encoder(encoder, in_channels, stem, image_size)
            self.second = nn.Sequential(other, projection_head(size, feature_size, head, hidden))
        self.momentum = MomentumCopy(self._branch(), momentum) if momentum else None

    def _branch(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.head)

    def forward(self, images: torch.Tensor, patches: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """Queries and keys.

        Args:
            images: (V·B, in_channels, S, S), first views, then second views.
            patches: (9·B, in_channels, s, s) with a jigsaw branch: the nine pieces of each image in a row.

        Returns:
            `query` (Q, B, D) and `key` (Q, B, D), of any length, where `key[q, b]` is what `query[q, b]` shall be near
            to, without gradients; Q is 1 or 2. With a jigsaw branch also `jigsaw` (B, D), which shall be near to
            `key[0]`.
        """
        if self.second is not None:
            query = self.project(images).unflatten(0, (2, -1))
            key = query.detach().flip(0)
        elif self.view_count == 1:
            query = self.project(images)[None]
            key = query.detach()
        elif self.symmetric:
            projected = self.project(images)
            key = self.momentum(images) if self.momentum is not None else projected.detach()
            key = key.unflatten(0, (2, -1)).flip(0)
            query = projected if self.predictor is None else self.predictor(projected)
            query = query.unflatten(0, (2, -1))
        else:
            first, second = images.chunk(2)
            query, key = self.project(first), self._keys(second)[None]
            query = (query if self.predictor is None else self.predictor(query))[None]
        output = {"query": query, "key": key}
        if self.jigsaw is not None:
            output["jigsaw"] = self.jigsaw(self.encoder(patches))
        return output

    def _keys(self, images: torch.Tensor) -> torch.Tensor:
        if self.momentum is not None:
            return self.momentum(images, self.key_groups)
        with torch.no_grad():
            return self.project(images)

    def project(self, images: torch.Tensor) -> torch.Tensor:
        """(V·B, in_channels, S, S) → (V·B, D) what the heads put out; a second encoder sees the second half."""
        if self.second is None:
            return self.head(self.encoder(images))
        first, second = images.chunk(2)
        return torch.cat([self.head(self.encoder(first)), self.second(second)])

    def update(self) -> None:
        """Moves the momentum copy, where there is one; to be called after each update of the weights."""
        if self.momentum is not None:
            self.momentum.move(self._branch())

    def aligned(self) -> JointEmbeddingNetwork:
        """The network, whose momentum copy and second encoder now have the weights of its encoder."""
        if self.second is not None:
            self.second[0].load_state_dict(self.encoder.state_dict())
        if self.momentum is not None:
            self.momentum.align(self._branch())
        return self

    def encoder_of(self, branch: str) -> nn.Module:
        """The encoder of the `online` branch or of the `momentum` copy.

        Raises:
            CxrError: unknown branch, or there is no such copy.
        """
        if branch not in KEPT:
            raise CxrError(f"keep '{branch}': known are {', '.join(KEPT)}")
        if branch == "online":
            return self.encoder
        if self.momentum is None:
            raise CxrError("keep momentum: there is no momentum copy; use keep online")
        return self.momentum.copy[0]


class PairProjector(nn.Module):
    """A network as a validation sees it: two views in, two embeddings out.

    Args:
        network: shares its weights.
    """

    def __init__(self, network: JointEmbeddingNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(2B, in_channels, S, S) → (2B, D)."""
        return self.network.project(images)


class EmbeddingNetwork(DescribedNetwork):
    """An encoder alone, with what it expects of its input: what a pretraining leaves behind.

    Args:
        encoder: a timm model name, or an encoder, which is shared.
        in_channels: channels of the input.
        stem: see `networks.encoders.encoder`.
        image_size: edge of the input in pixels.
        mean: subtracted from the input, in units of the 0–1 range.
        std: divides the input, likewise.

    Raises:
        CxrError: unknown encoder or stem.
    """

    def __init__(
        self,
        encoder: str | nn.Module = "resnet18",
        in_channels: int = 1,
        stem: str = "default",
        image_size: int = 64,
        mean: float = 0.5,
        std: float = 0.25,
    ) -> None:
        if isinstance(encoder, str):
            encoder = make_encoder(encoder, in_channels, stem, image_size)
        super().__init__(encoder, {"image_size": image_size})
        channels = encoder.description.in_channels
        self.encoder.preprocessing = Preprocessing(image_size, mean=(mean,) * channels, std=(std,) * channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) → (B, C)."""
        return self.encoder(images)
