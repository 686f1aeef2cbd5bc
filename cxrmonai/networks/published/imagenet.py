"""Encoders pretrained on photographs (ImageNet and others), as timm provides them."""

from __future__ import annotations

import urllib.error
import urllib.request

import huggingface_hub
import timm
from huggingface_hub.constants import ENDPOINT
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.networks.encoders import encoder
from cxrmonai.networks.published.report import CheckpointReport, DroppedKeys
from cxrmonai.transforms.preprocessing import INTERPOLATIONS, Preprocessing

PREFIX = "timm:"
FILES = ("model.safetensors", "pytorch_model.bin")
PATIENCE = 10  # seconds


def imagenet_preprocessing(name: str) -> Preprocessing:
    """The input of a pretrained timm model, on radiographs: letterboxed, so that no border is cut off.

    Args:
        name: a timm model, with or without a tag of weights, such as `resnet50` or `resnet50.a1_in1k`.

    Raises:
        CxrError: there is no such model, or timm has no weights for it.
    """
    settings = _settings(name)
    method = settings.interpolation if settings.interpolation in INTERPOLATIONS else "bilinear"
    return Preprocessing(settings.input_size[-1], interpolation=method, mean=settings.mean, std=settings.std)


def load_imagenet(name: str) -> tuple[nn.Module, CheckpointReport]:
    """Builds an encoder with timm's pretrained weights, downloaded or from the cache of Hugging Face.

    The first convolution keeps its three channels, which all get the same grey image: the function that was trained.

    Args:
        name: see `imagenet_preprocessing`.

    Returns:
        The encoder and its report.

    Raises:
        CxrError: see `imagenet_preprocessing`; or the weights can be had neither from the cache nor from the network.
    """
    preprocessing = imagenet_preprocessing(name)
    _check_reach(name)
    try:
        whole = timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever a download or a damaged cache raises
        raise CxrError(_unreachable(name, str(error).splitlines()[0] if str(error) else repr(error))) from error
    network = encoder(name.split(".")[0], preprocessing.channels, image_size=preprocessing.image_size)
    own, theirs = network.state_dict(), whole.state_dict()
    absent = [key for key in own if key not in theirs or theirs[key].shape != own[key].shape]
    if absent:
        raise CxrError(f"{PREFIX}{name}: timm's weights do not fit its own features: {', '.join(absent)}")
    network.load_state_dict({key: theirs[key] for key in own})
    network.preprocessing = preprocessing
    count = len(theirs) - len(own)
    report = CheckpointReport(
        path=PREFIX + name,
        layout=f"timm's pretrained {name}",
        description=network.description,
        feature_size=network.num_features,
        preprocessing=preprocessing,
        used=len(own),
        dropped=(DroppedKeys("", count, "classifier"),) if count else (),
    )
    return network, report


def _settings(name: str) -> timm.models.PretrainedCfg:
    try:
        settings = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # an unknown tag
        settings = None
    if settings is None or not settings.has_weights:
        known = timm.list_pretrained(f"{name.split('.')[0]}*")[:4] or timm.list_pretrained("resnet*")[:4]
        raise CxrError(f"{PREFIX}{name}: timm has no such pretrained weights; there are {', '.join(known)}")
    return settings


def _check_reach(name: str) -> None:
    """Asks once, briefly, for weights that are not in the cache; timm itself would try for a minute."""
    settings = _settings(name)
    if not settings.hf_hub_id:
        return
    if any(isinstance(huggingface_hub.try_to_load_from_cache(settings.hf_hub_id, file), str) for file in FILES):
        return
    try:
        urllib.request.urlopen(urllib.request.Request(ENDPOINT, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return
    except OSError as error:
        raise CxrError(_unreachable(name, str(error))) from error


def _unreachable(name: str, reason: str) -> str:
    return (
        f"{PREFIX}{name}: the weights cannot be downloaded ({reason}); run once with network access, "
        "or copy the cache of Hugging Face (HF_HOME) from a machine that has it, or give a file"
    )
