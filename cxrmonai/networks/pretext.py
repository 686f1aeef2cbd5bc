"""An encoder with what a pretext task asks of it: heads, a decoder that restores the picture, or a head for pairs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.networks.checkpoints import DescribedNetwork, load_all, read_described
from cxrmonai.networks.encoders import encoder as make_encoder

OUTPUTS = ("answers", "features")
SETTINGS = ("image_size", "heads", "pairs", "picture", "task")
DECODER_WIDTHS = (128, 64, 32, 16)
Heads = Sequence[tuple[str, int] | list]


class PretextNetwork(DescribedNetwork):
    """An encoder and the parts that a pretext task trains it by.

    The answers of all parts are one tensor: the numbers of the heads, one head after the other, and then the picture
    row by row; `split_answers` takes it apart.

    Args:
        encoder: a timm model name; or a module of `encoders.encoder`, whose own channels and stem then count.
        in_channels: channels of the input.
        stem: see `networks.encoders.encoder`.
        image_size: edge of the input in pixels.
        heads: names and numbers of outputs, in order; each is one linear layer on the encoder's features.
        pairs: whether an input is a batch of first and then of second images, and the heads are those of `PairHead`.
        picture: whether a `PictureDecoder` on the encoder's maps gives a picture of the input's size.
        task: name and numbers of the task, for whoever evaluates the network; of JSON's types.
        output: what `forward` returns: the `answers`, or the encoder's `features` (B, C).

    Attributes:
        embedding: an identity that the encoder's features (B, C) pass, for those who watch them.

    Raises:
        CxrError: unknown encoder, stem or output; nothing to answer; or an encoder without maps for a picture.
    """

    __constants__ = ("embed", "pairs", "picture", "size")

    def __init__(
        self,
        encoder: str | nn.Module = "resnet18",
        in_channels: int = 1,
        stem: str = "default",
        image_size: int = 0,
        heads: Heads = (),
        pairs: bool = False,
        picture: bool = False,
        task: Mapping[str, Any] | None = None,
        output: str = "answers",
    ) -> None:
        if output not in OUTPUTS:
            raise CxrError(f"output '{output}': known are {', '.join(OUTPUTS)}")
        if not heads and not picture:
            raise CxrError("a pretext network needs a head or a picture to learn from")
        if isinstance(encoder, str):
            encoder = make_encoder(encoder, in_channels, stem, image_size)
        outputs = [[str(name), int(size)] for name, size in heads]
        values = (image_size, outputs, bool(pairs), bool(picture), dict(task or {}))
        super().__init__(encoder, dict(zip(SETTINGS, values, strict=True)))
        self.embed, self.pairs, self.picture, self.size = output == "features", pairs, picture, image_size
        width = encoder.num_features
        make = PairHead if pairs else nn.Linear
        self.heads = nn.ModuleDict({name: make(width, size) for name, size in outputs})
        self.decoder = PictureDecoder(encoder, image_size) if picture else nn.Identity()
        self.embedding = nn.Identity()
        if picture and not outputs:
            self._freeze_unreached()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, S, S) → (B, P) answers or (B, C) features; pairs of images give B / 2 answers."""
        if self.embed:
            return self.encoder(images)
        return self.answers(images)

    @torch.jit.unused
    def answers(self, images: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, S, S) → (B, P); pairs give (B / 2, P)."""
        parts = []
        if self.picture:
            maps = self.encoder.forward_features(images)
            parts.append(self.decoder(maps).flatten(1))
            with torch.set_grad_enabled(torch.is_grad_enabled() and len(self.heads) > 0):
                features = self.embedding(self.encoder.forward_head(maps))
        else:
            features = self.embedding(self.encoder(images))
        return torch.cat([*(head(features) for head in self.heads.values()), *parts], dim=1)

    def _freeze_unreached(self) -> None:
        """Parameters without a gradient (layers after the maps) would stop DDP."""
        parameters = list(self.encoder.parameters())
        was_training = self.training
        with torch.enable_grad():
            image = torch.zeros(1, self.encoder.description.in_channels, self.size, self.size)
            answers = self.eval().answers(image)
            slopes = torch.autograd.grad(answers.sum(), parameters, allow_unused=True)
        self.train(was_training)
        for value, slope in zip(parameters, slopes, strict=True):
            value.requires_grad_(slope is not None)


class PairHead(nn.Module):
    """Compares the features of first and second images.

    A head named `order` should change its sign when the images change places, all others should not: so the outputs
    are `same`, from |a − b| and a·b by two layers, and `order`, a linear layer without bias on a − b.

    Args:
        in_features: length of the features.
        out_features: 2, `same` and `order`.

    Raises:
        CxrError: another number of outputs.
    """

    def __init__(self, in_features: int, out_features: int = 2) -> None:
        super().__init__()
        if out_features != 2:
            raise CxrError(f"a head for pairs answers two questions, not {out_features}")
        self.same = nn.Sequential(nn.Linear(2 * in_features, in_features), nn.ReLU(), nn.Linear(in_features, 1))
        self.order = nn.Linear(in_features, 1, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(2N, D), first images and then second ones → (N, 2) logits: one patient; the first image is the earlier."""
        first, second = features.chunk(2)
        likeness = torch.cat([(first - second).abs(), first * second], dim=1)
        return torch.cat([self.same(likeness), self.order(first - second)], dim=1)


class PictureDecoder(nn.Module):
    """A light decoder: each step doubles the edge, with one 3×3 convolution, until the input's size is reached.

    Args:
        encoder: any of ours whose `forward_features` gives maps or tokens.
        size: edge of the picture in pixels.

    Raises:
        CxrError: the encoder gives no square maps.
    """

    def __init__(self, encoder: nn.Module, size: int) -> None:
        super().__init__()
        self.size = size
        self.prefix = getattr(encoder, "num_prefix_tokens", 0)
        self.channels_last = getattr(encoder, "output_fmt", "NCHW") == "NHWC"
        channels, edge = self._shape(encoder)
        width = DECODER_WIDTHS[0]
        steps: list[nn.Module] = [nn.Conv2d(channels, width, 1)]
        depth = 0
        while edge < size:
            narrower = DECODER_WIDTHS[min(depth + 1, len(DECODER_WIDTHS) - 1)]
            steps += [
                nn.Upsample(scale_factor=2, mode="nearest"),
                nn.Conv2d(width, narrower, 3, padding=1),
                nn.GroupNorm(8, narrower),
                nn.ReLU(inplace=True),
            ]
            width, edge, depth = narrower, 2 * edge, depth + 1
        self.layers = nn.Sequential(*steps, nn.Conv2d(width, 1, 3, padding=1))

    def _shape(self, encoder: nn.Module) -> tuple[int, int]:
        was_training = encoder.training
        with torch.no_grad():
            image = torch.zeros(1, encoder.description.in_channels, self.size, self.size)
            maps = encoder.eval().forward_features(image)
        encoder.train(was_training)
        count = maps.shape[1] - self.prefix
        if maps.ndim not in (3, 4) or (maps.ndim == 3 and round(count**0.5) ** 2 != count):
            raise CxrError(f"encoder '{encoder.description.name}' gives no square maps to restore a picture from")
        return self._maps(maps).shape[1:3]

    def _maps(self, maps: torch.Tensor) -> torch.Tensor:
        if maps.ndim == 3:
            tokens = maps[:, self.prefix :].transpose(1, 2)
            edge = round(tokens.shape[2] ** 0.5)
            return tokens.unflatten(2, (edge, edge))
        return maps.permute(0, 3, 1, 2) if self.channels_last else maps

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """The encoder's maps (B, C, h, w) or tokens (B, N, C) → (B, 1, size, size), about 0–1."""
        picture = self.layers(self._maps(maps))
        if picture.shape[-1] == self.size:
            return picture
        return F.interpolate(picture, size=(self.size, self.size), mode="bilinear", align_corners=False)


def split_answers(answers: torch.Tensor, heads: Heads, size: int = 0) -> dict[str, torch.Tensor]:
    """Takes the answers of a `PretextNetwork` apart.

    Args:
        answers: (B, P).
        heads: names and numbers of outputs, in order.
        size: edge of the picture in pixels; 0 for none.

    Returns:
        (B, K) for each head, and `picture` (B, 1, size, size) where there is one.

    Raises:
        CxrError: there are more or fewer answers.
    """
    sizes = [count for _, count in heads] + ([size * size] if size else [])
    if answers.shape[1] != sum(sizes):
        raise CxrError(f"{answers.shape[1]} answers for a task of {sum(sizes)}")
    parts = dict(zip([name for name, _ in heads] + ["picture"], answers.split(sizes, dim=1), strict=False))
    if size:
        parts["picture"] = parts["picture"].unflatten(1, (1, size, size))
    return parts


def load_pretext(path: str | os.PathLike[str], output: str = "answers") -> PretextNetwork:
    """Builds the network of a checkpoint of the bundle `ssl_pretext` and loads all its weights.

    Args:
        path: `models/model.pt` of a run.
        output: see `PretextNetwork`.

    Returns:
        The network on the CPU, in training mode as PyTorch makes modules.

    Raises:
        CxrError: see `checkpoints.read_described`; or the file holds no such network; or a key does not fit.
    """
    weights, description, settings = read_described(path)
    if set(settings) != set(SETTINGS):
        raise CxrError(f"{path}: holds no network of the bundle ssl_pretext; give models/model.pt of such a run")
    network = PretextNetwork(make_encoder(**description.as_dict()), output=output, **settings)
    load_all(network, weights, path)
    return network


def pretext_like(path: str | os.PathLike[str], otherwise: PretextNetwork) -> PretextNetwork:
    """The network of a checkpoint, giving features; or another where there is no such file yet.

    Args:
        path: of a checkpoint that `load_pretext` reads.
        otherwise: what a bundle that was not trained yet is checked and exported as.

    Raises:
        CxrError: see `load_pretext`.
    """
    return load_pretext(path, "features") if os.path.exists(path) else otherwise
