"""Encoder with a projection head, for contrastive pretraining."""

from __future__ import annotations

import torch

from cxrmonai.errors import CxrError
from cxrmonai.networks.checkpoints import DescribedNetwork
from cxrmonai.networks.encoders import encoder as make_encoder
from cxrmonai.networks.heads import projection_head

OUTPUTS = ("projection", "features")


class ContrastiveNetwork(DescribedNetwork):
    """An encoder and the head that a contrastive loss sees (Chen et al., SimCLR, 2020).

    Args:
        encoder: a timm model name.
        in_channels: channels of the input.
        stem: see `networks.encoders.encoder`.
        image_size: edge of the input in pixels.
        feature_size: length of the projection.
        head: `mlp` (linear, batch norm, ReLU, linear) or `linear`.
        output: what `forward` returns: the `projection` (B, feature_size), or the encoder's `features` (B, C).

    Raises:
        CxrError: unknown encoder, stem, head or output.
    """

    def __init__(
        self,
        encoder: str = "resnet18",
        in_channels: int = 1,
        stem: str = "default",
        image_size: int = 0,
        feature_size: int = 256,
        head: str = "mlp",
        output: str = "projection",
    ) -> None:
        settings = {"image_size": image_size, "feature_size": feature_size, "head": head}
        super().__init__(make_encoder(encoder, in_channels, stem, image_size), settings)
        if output not in OUTPUTS:
            raise CxrError(f"output '{output}': known are {', '.join(OUTPUTS)}")
        self.head = projection_head(self.encoder.num_features, feature_size, head)
        self.project = output == "projection"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) → (B, feature_size) or (B, C)."""
        features = self.encoder(images)
        return self.head(features) if self.project else features
