"""A classifier on any encoder: attention, global pooling and one linear layer; its stages and parameter groups."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from timm.models._manipulate import group_with_matcher
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.networks.attention import ATTENTIONS, make_attention
from cxrmonai.networks.checkpoints import (
    DESCRIPTION_KEY,
    DescribedNetwork,
    input_of,
    load_all,
    read_description,
    read_weights,
)
from cxrmonai.networks.encoders import encoder as make_encoder
from cxrmonai.networks.pooling import POOLINGS, SINGLE, class_scores, make_pooling, pooled_size, widened

TASKS = ("multilabel", "multiclass")
SETTINGS = ("class_names", "image_size", "attention", "pooling", "lse_gamma", "norm", "dropout", "task", "asked")
USUAL_EDGE = 224


class Classifier(DescribedNetwork):
    """An encoder's maps, attention on them, global pooling, and a linear layer.

    The maps are the encoder's last, before its own pooling. Tokens of a transformer become a map without the prefix
    tokens (class, registers). Where an encoder normalises only after its pooling (ConvNeXt, MaxViT, BEiT), that norm is
    applied to each position instead, so that maps of classes exist; `NATIVE` keeps the encoder's own order. Parts of
    the encoder that the maps do not pass (layers after MobileNetV3's pooling) are kept in the state dict and not
    trained. The linear layer starts at N(0, 0.01) with zero bias (Ye et al., PCAM, 2020).

    Args:
        class_names: K names, or one text with commas.
        encoder: a timm model name; or a module of `encoders.encoder` or `load_encoder`, whose own input channels, stem
            and norm then count. With an `image_size`, its `preprocessing` is brought to that size.
        in_channels: channels of the input.
        stem: see `networks.encoders.encoder`.
        image_size: edge of the input in pixels; 0 for the backbone's own.
        attention: `none`, `CAM`, `SAM` or `FPA`, see `networks.attention`.
        pooling: `AVG`, `MAX`, `EXP`, `LINEAR`, `LSE`, `AVG_MAX`, `AVG_MAX_LSE`, `PCAM`, see `networks.pooling`; or
            `NATIVE`, the features that the encoder itself gives, such as those of the class token.
        lse_gamma: γ of LSE.
        norm: `batch`, `group` or `instance`, in the encoder and in FPA.
        dropout: share of the pooled features that a training step leaves out, 0 to below 1.
        task: `multilabel` (each class by itself; one class is a binary task) or `multiclass` (one class of several).
        asked: what else whoever uses the weights must know of the training run (how targets were made, how images
            were prepared); plain types, kept with the weights and not used here.

    Attributes:
        class_names: (K,) list of names, in the order of the logits.
        head: the linear layer, D → K.
        attention: the module that gives the maps which are pooled.

    Raises:
        CxrError: an unknown word or number, or a combination that makes no sense.
    """

    __constants__ = ("channels_last", "grid", "native", "norm_after_tokens", "norm_in_head", "pcam", "prefix", "tokens")

    def __init__(
        self,
        class_names: Sequence[str] | str,
        encoder: str | nn.Module = "resnet18",
        in_channels: int = 1,
        stem: str = "default",
        image_size: int = 0,
        attention: str = "none",
        pooling: str = "AVG",
        lse_gamma: float = 10.0,
        norm: str = "batch",
        dropout: float = 0.0,
        task: str = "multilabel",
        asked: Mapping[str, Any] | None = None,
    ) -> None:
        names = class_names.split(",") if isinstance(class_names, str) else class_names
        names = [str(name).strip() for name in names]
        _check(names, attention, pooling, dropout, task)
        if isinstance(encoder, str):
            encoder = make_encoder(encoder, in_channels, stem, image_size, norm)
        built_for = encoder.description.image_size
        if built_for and image_size not in (0, built_for):
            raise CxrError(f"the encoder is built for {built_for} pixels; give --image_size {built_for}")
        if image_size:
            encoder.preprocessing = input_of(encoder, image_size)
        norm = encoder.description.norm
        values = (
            names,
            int(image_size),
            attention,
            pooling,
            float(lse_gamma),
            norm,
            float(dropout),
            task,
            dict(asked or {}),
        )
        super().__init__(encoder, dict(zip(SETTINGS, values, strict=True)))
        self.class_names, self.task, self.pooling = names, task, pooling
        self.native, self.pcam = pooling == "NATIVE", pooling == "PCAM"
        layout = _layout(encoder, self.native, image_size)
        self.tokens, self.channels_last = layout.tokens, layout.channels_last
        self.norm_in_head, self.norm_after_tokens = layout.norm_in_head, layout.norm_after_tokens
        self.prefix, self.grid = layout.prefix, layout.grid
        self.attention = make_attention(attention, layout.channels, norm)
        self.pool = nn.Identity() if self.native else make_pooling(pooling, lse_gamma)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(pooled_size(pooling, layout.channels), len(names))
        nn.init.normal_(self.head.weight, 0, 0.01)
        nn.init.zeros_(self.head.bias)
        self._freeze_unreached()
        self._untrained = {name for name, value in encoder.named_parameters() if not value.requires_grad}
        self._resting = []  # paths of the modules in the encoder that stay in evaluation mode
        self.frozen_stages = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, in_channels, H, W) → (B, K) logits."""
        if self.native:
            return self.head(self.dropout(self.encoder(images)))
        return self.classify_maps(self.feature_maps(images))

    def classify_maps(self, maps: torch.Tensor) -> torch.Tensor:
        """From the maps of `feature_maps` on: (B, C, h, w) → (B, K) logits."""
        if self.pcam:
            pooled = self.pool(maps, self.head.weight, self.head.bias)
            return (self.dropout(pooled) * self.head.weight).sum(dim=2) + self.head.bias
        return self.head(self.dropout(self.pool(maps)))

    def feature_maps(self, images: torch.Tensor) -> torch.Tensor:
        """The maps that are pooled: (B, in_channels, H, W) → (B, C, h, w). `NATIVE` has none to pool."""
        return self.attention(self._encoded(images))

    def _encoded(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.encoder.forward_features(images)
        if self.tokens:
            maps = maps[:, self.prefix :]
        if self.norm_in_head:
            maps = self.encoder.head.norm(maps)
        if self.norm_after_tokens:
            maps = self.encoder.fc_norm(maps)
        if self.tokens:
            maps = maps.transpose(1, 2).reshape(maps.shape[0], maps.shape[2], self.grid, self.grid)
        if self.channels_last:
            maps = maps.permute(0, 3, 1, 2)
        return maps

    def _pooled(self, images: torch.Tensor) -> torch.Tensor:
        if self.native:
            return self.encoder(images)
        return self.pool(self.feature_maps(images))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the linear layer sees: (B, in_channels, H, W) → (B, D); for PCAM the K classes' own, D = K·C."""
        if self.pcam:
            return self.pool(self.feature_maps(images), self.head.weight, self.head.bias).flatten(1)
        return self._pooled(images)

    def class_maps(self, images: torch.Tensor) -> torch.Tensor:
        """Where each class sees evidence: (B, in_channels, H, W) → (B, K, h, w) float32 at least.

        The linear layer at each position, w·x + b, not scaled and not clipped; its mean is the logit for AVG. For PCAM
        the probability at each position, σ(w·x + b), 0–1.

        Raises:
            CxrError: the pooling has no such maps.
        """
        if self.pooling not in (*SINGLE, "PCAM"):
            raise CxrError(
                f"pooling {self.pooling} has no maps of classes; train with one of {', '.join(SINGLE)}, PCAM"
            )
        scores = widened(class_scores(self.feature_maps(images), self.head.weight, self.head.bias))
        return scores.sigmoid() if self.pcam else scores

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """(B, K) logits → (B, K) probabilities, float32 at least; of each class, or adding up to 1 if `multiclass`."""
        logits = widened(logits)
        return logits.softmax(dim=1) if self.task == "multiclass" else logits.sigmoid()

    @torch.no_grad()
    def set_head(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        mean: torch.Tensor | None = None,
        std: torch.Tensor | None = None,
    ) -> Classifier:
        """Puts a linear layer that was fitted elsewhere in place of the head.

        Args:
            weight: (K, D) float64, of features as `features` gives them, or of standardised ones.
            bias: (K,) float64.
            mean: (D,) that was subtracted from the features before, folded into weight and bias.
            std: (D,) above 0 that they were divided by, likewise.

        Returns:
            This network.

        Raises:
            CxrError: a shape does not fit, or the pooling is PCAM, whose features depend on its head.
        """
        if self.pcam:
            raise CxrError("pooling PCAM has no features of its own to fit a linear layer on; use another pooling")
        if weight.shape != self.head.weight.shape or bias.shape != self.head.bias.shape:
            shapes = tuple(self.head.weight.shape), tuple(self.head.bias.shape)
            raise CxrError(f"a head of {tuple(weight.shape)} and {tuple(bias.shape)} does not fit one of {shapes}")
        weight = weight.double() if std is None else weight.double() / std.double()
        bias = bias.double() if mean is None else bias.double() - weight @ mean.double()
        self.head.weight.copy_(weight)
        self.head.bias.copy_(bias)
        return self

    @torch.no_grad()
    def expect(self, frequencies: np.ndarray) -> Classifier:
        """Lets the untrained head expect each class as often as it is there, whatever the image (Lin et al., 2017).

        A pooling by probability (PCAM) then starts from small ones, which single out places from the first step on.

        Args:
            frequencies: (K, 2) how often each class is absent and present; a class that is never one or the other
                counts as once.

        Returns:
            This network.
        """
        absent, present = torch.as_tensor(np.maximum(frequencies, 1), dtype=self.head.bias.dtype).unbind(dim=1)
        share = present / (absent + present)
        self.head.bias.copy_(share.log() if self.task == "multiclass" else share.logit())
        return self

    def freeze(self, stages: int) -> Classifier:
        """Freezes the first stages of the encoder, and none but them.

        Their parameters get no gradients, and their modules stay in evaluation mode whatever `train()` says, so that
        batch norms keep their statistics and nothing is dropped. Call it before the network is spread over ranks.

        Args:
            stages: 0 for none, 1 for the stem, 2 for the stem and the first stage, … up to `len(encoder_stages(…))`,
                the whole encoder. A stage of a vision transformer is a block.

        Returns:
            This network.

        Raises:
            CxrError: the encoder has fewer stages, or does not tell them.
        """
        names = encoder_stages(self.encoder) if stages else []
        if not 0 <= stages <= len(names):
            build = self.encoder.description.name
            raise CxrError(
                f"freeze {stages}: encoder '{build}' has {len(names)} stages with its stem; give 0 to {len(names)}"
            )
        frozen = {name for stage in names[:stages] for name in stage}
        for name, value in self.encoder.named_parameters():
            value.requires_grad_(name not in frozen and name not in self._untrained)
        self.frozen_stages = stages
        self._resting = [path for path, module in self.encoder.named_modules() if _all_in(path, module, frozen)]
        return self.train(self.training)

    def train(self, mode: bool = True) -> Classifier:
        """Training or evaluation mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for path in self._resting if mode else []:
            self.encoder.get_submodule(path).eval()
        return self

    def _freeze_unreached(self) -> None:
        """Parameters without a gradient would stop DDP, and be no part of the network."""
        parameters = [value for value in self.encoder.parameters() if value.requires_grad]
        if not parameters:
            return
        with torch.enable_grad():
            output = _tried(self.encoder, self.settings["image_size"], self.encoder if self.native else self._encoded)
            slopes = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
        for value, slope in zip(parameters, slopes, strict=True):
            value.requires_grad_(slope is not None)


@dataclass(frozen=True)
class _Layout:
    channels: int
    tokens: bool = False
    channels_last: bool = False
    prefix: int = 0
    grid: int = 0
    norm_in_head: bool = False
    norm_after_tokens: bool = False


def _check(names: list[str], attention: str, pooling: str, dropout: float, task: str) -> None:
    for key, value, known in (
        ("attention", attention, ATTENTIONS),
        ("pooling", pooling, POOLINGS),
        ("task", task, TASKS),
    ):
        if value not in known:
            raise CxrError(f"{key} '{value}': known are {', '.join(known)}")
    if not names or not all(names):
        raise CxrError("class_names: give at least one name, and none that is empty")
    if len(set(names)) < len(names):
        raise CxrError(f"class_names: '{next(name for name in names if names.count(name) > 1)}' is there twice")
    if not 0 <= dropout < 1:
        raise CxrError(f"dropout {dropout}: must be at least 0 and below 1")
    if task == "multiclass" and len(names) < 2:
        raise CxrError("task multiclass needs two class_names or more; for one class use task multilabel")
    if pooling == "NATIVE" and attention != "none":
        raise CxrError(f"attention {attention} needs maps, and pooling NATIVE has none; change one of the two")
    if pooling == "PCAM" and task == "multiclass":
        raise CxrError(
            "pooling PCAM takes each class for a probability of its own; use task multilabel or another pooling"
        )


def _layout(encoder: nn.Module, native: bool, image_size: int) -> _Layout:
    """How an encoder's maps come: found by trying, since timm does not say it in one way."""
    if native:
        return _Layout(encoder.num_features)
    with torch.no_grad():
        maps = _tried(encoder, image_size, encoder.forward_features)
    if not isinstance(maps, torch.Tensor) or maps.ndim not in (3, 4):
        raise CxrError(f"encoder '{encoder.description.name}' gives no maps to pool; use pooling NATIVE")
    prefix = getattr(encoder, "num_prefix_tokens", 0) if maps.ndim == 3 else 0
    grid = math.isqrt(maps.shape[1] - prefix) if maps.ndim == 3 else 0
    if maps.ndim == 3 and grid * grid != maps.shape[1] - prefix:
        raise CxrError(f"encoder '{encoder.description.name}' gives tokens that are no square map; use pooling NATIVE")
    channels_last = maps.ndim == 4 and getattr(encoder, "output_fmt", "NCHW") == "NHWC"
    channels = maps.shape[1] if maps.ndim == 4 and not channels_last else maps.shape[-1]
    return _Layout(
        channels,
        maps.ndim == 3,
        channels_last,
        prefix,
        grid,
        _normalises(getattr(getattr(encoder, "head", None), "norm", None), channels),
        maps.ndim == 3 and _normalises(getattr(encoder, "fc_norm", None), channels),
    )


def _normalises(norm: nn.Module | None, channels: int) -> bool:
    return isinstance(norm, nn.LayerNorm) and tuple(norm.normalized_shape) == (channels,)


def _tried(encoder: nn.Module, image_size: int, call: Any) -> Any:
    """What a call makes of one black image, in evaluation mode so that no statistics move."""
    description = encoder.description
    usual = (getattr(encoder, "pretrained_cfg", None) or {}).get("input_size", (USUAL_EDGE,))[-1]
    edge = description.image_size or image_size or usual
    some = next(encoder.parameters())
    image = torch.zeros(1, description.in_channels, edge, edge, device=some.device, dtype=some.dtype)
    was_training = encoder.training
    encoder.eval()
    try:
        return call(image)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise CxrError(
            f"encoder '{description.name}' with norm {description.norm} cannot take images of {edge} pixels: {error}"
        ) from error
    finally:
        encoder.train(was_training)


def need_classifier(path: str | os.PathLike[str], key: str = "ckpt_path", bundle: str = "supervised") -> str:
    """Returns the path of a classifier's weights, or says how to come by them.

    Args:
        path: of the weights.
        key: of the config that names them.
        bundle: whose training makes them.

    Raises:
        CxrError: there is no such file.
    """
    if not os.path.isfile(path):
        train = f"python -m monai.bundle run --config_file bundles/{bundle}/configs/train.json"
        raise CxrError(f"{path}: no such file; name a classifier with --{key}, or train one with `{train}`")
    return str(path)


def load_classifier(path: str | os.PathLike[str]) -> Classifier:
    """Builds the classifier of a checkpoint of ours and loads all its weights.

    Args:
        path: `models/model.pt` of a bundle that trains a `Classifier`.

    Returns:
        The classifier on the CPU, in training mode as PyTorch makes modules.

    Raises:
        CxrError: see `checkpoints.read_weights`; or the file holds no classifier; or a key does not fit.
    """
    weights = read_weights(path)
    if DESCRIPTION_KEY not in weights:
        raise CxrError(f"{path}: no description of a network in it; it was not written by a cxrmonai bundle")
    try:
        description = read_description(weights[DESCRIPTION_KEY])
    except CxrError as error:
        raise CxrError(f"{path}: {error}") from error
    settings = json.loads(bytes(weights[DESCRIPTION_KEY].tolist())).get("settings") or {}
    if "class_names" not in settings:
        raise CxrError(f"{path}: holds an encoder but no classifier; give models/model.pt of a bundle that classifies")
    if set(settings) != set(SETTINGS):
        raise CxrError(f"{path}: tells other settings than this version knows; upgrade cxrmonai, or use other weights")
    encoder = make_encoder(**description.as_dict())
    network = Classifier(encoder=encoder, **{key: value for key, value in settings.items() if key != "norm"})
    load_all(network, weights, path)
    return network


def classifier_like(path: str | os.PathLike[str], otherwise: Classifier) -> Classifier:
    """A classifier of the build of a checkpoint, or another where there is no such file yet; load weights afterwards.

    Args:
        path: of a checkpoint that `load_classifier` reads.
        otherwise: what a bundle that was not trained yet is checked and exported as.

    Raises:
        CxrError: see `load_classifier`.
    """
    return load_classifier(path) if os.path.exists(path) else otherwise


def encoder_stages(encoder: nn.Module) -> list[list[str]]:
    """Names of an encoder's parameters: those of the stem, then those of each stage, as timm groups them.

    Stages are the four of ResNet, DenseNet (with the transition that follows) and ConvNeXt, the seven of EfficientNet,
    and the blocks of a vision transformer. What comes after the last stage belongs to it.

    Raises:
        CxrError: timm does not tell the stages of this encoder.
    """
    return _groups(encoder, coarse=True)


def _groups(encoder: nn.Module, coarse: bool) -> list[list[str]]:
    if not hasattr(encoder, "group_matcher"):
        name = encoder.description.name
        raise CxrError(f"timm does not tell the stages of encoder '{name}'; leave freeze at 0 and layer_decay at 1")
    names = [name for name, _ in encoder.named_parameters()]
    after = "?"  # matches nothing, so that it shows which group timm gives to what comes after the stages
    place = group_with_matcher(((name, name) for name in (*names, after)), encoder.group_matcher(coarse), reverse=True)
    last = place[after] - 1
    groups: list[list[str]] = [[] for _ in range(last + 1)]
    for name in names:
        groups[min(place[name], last)].append(name)
    return groups


def _all_in(path: str, module: nn.Module, names: set[str]) -> bool:
    own = [f"{path}.{name}" if path else name for name, _ in module.named_parameters()]
    return bool(own) and names.issuperset(own)


def parameter_groups(
    network: nn.Module,
    learning_rate: float,
    weight_decay: float,
    encoder_lr_factor: float = 1.0,
    layer_decay: float = 1.0,
    freeze: int = 0,
) -> list[dict[str, Any]]:
    """Parameter groups of an optimiser for fine-tuning.

    Attention and head learn at `learning_rate`; the encoder's last layer at `learning_rate` × `encoder_lr_factor` ×
    `layer_decay`, each earlier one at `layer_decay` times the next (Clark et al., ELECTRA, 2020; Bao et al., BEiT,
    2021). A layer is a block of the backbone. Norms, biases and what timm lists (class token, positions) have no
    weight decay.

    Args:
        network: a `Classifier`, or one wrapped for several ranks.
        learning_rate: of the head.
        weight_decay: of weights.
        encoder_lr_factor: above 0.
        layer_decay: above 0 and up to 1; 1 for one rate.
        freeze: stages to freeze, see `Classifier.freeze`; 0 leaves the network as it is.

    Returns:
        Groups with `params`, `lr` and `weight_decay`, of the parameters that are trained.

    Raises:
        CxrError: a number out of range; see `Classifier.freeze`; or stages are to be frozen of a network that is spread
            over ranks already.
    """
    if encoder_lr_factor <= 0:
        raise CxrError(
            f"encoder_lr_factor {encoder_lr_factor}: must be above 0; to keep the encoder as it is, freeze it"
        )
    if not 0 < layer_decay <= 1:
        raise CxrError(f"layer_decay {layer_decay}: must be above 0 and at most 1")
    plain: Classifier = getattr(network, "module", network)
    if freeze and freeze != plain.frozen_stages:
        if plain is not network:
            raise CxrError(f"freeze {freeze}: freeze the stages before the network is spread over ranks")
        plain.freeze(freeze)
    rates = _rates(plain.encoder, learning_rate * encoder_lr_factor, layer_decay)
    exempt = {f"encoder.{name}" for name in getattr(plain.encoder, "no_weight_decay", set)()}
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, value in plain.named_parameters():
        if not value.requires_grad:
            continue
        rate = rates.get(name, learning_rate)
        decay = 0.0 if value.ndim < 2 or name in exempt else weight_decay
        group = groups.setdefault((rate, decay), {"params": [], "lr": rate, "weight_decay": decay})
        group["params"].append(value)
    return list(groups.values())


def _rates(encoder: nn.Module, learning_rate: float, layer_decay: float) -> dict[str, float]:
    if layer_decay == 1:
        return {f"encoder.{name}": learning_rate for name, _ in encoder.named_parameters()}
    layers = _groups(encoder, coarse=False)
    return {
        f"encoder.{name}": learning_rate * layer_decay ** (len(layers) - place)
        for place, layer in enumerate(layers)
        for name in layer
    }
