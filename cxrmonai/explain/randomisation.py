"""The sanity check by randomised parameters: a map that explains a network must change when the network is destroyed.

Adebayo et al., "Sanity checks for saliency maps", NeurIPS 2018: layers are re-initialised from the top down, cascading,
and each time the maps are compared with those of the trained network.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator

import numpy as np
import torch
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.explain.faithfulness import Items, Maps, item_maps
from cxrmonai.explain.pixels import PixelClassifier
from cxrmonai.networks import Classifier, encoder, encoder_stages
from cxrmonai.progress import progress_bar

SIMILARITIES = ("spearman", "ssim")
REFERENCE = "other images"


def untrained_like(network: nn.Module, seed: int = 0) -> nn.Module:
    """A network of the same build with the weights that training starts from, on the CPU.

    Args:
        network: a `Classifier`; or any module whose layers with parameters have PyTorch's `reset_parameters`.
        seed: of the weights.

    Raises:
        CxrError: a layer cannot be initialised anew.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(network, Classifier):
            settings = {name: value for name, value in network.settings.items() if name != "norm"}
            return Classifier(encoder=encoder(**network.encoder.description.as_dict()), **settings)
        twin = copy.deepcopy(network).cpu()
        for name, module in twin.named_modules():
            if not any(True for _ in module.parameters(recurse=False)):
                continue
            if not hasattr(module, "reset_parameters"):
                raise CxrError(f"layer '{name}' has no reset_parameters; give a network of the same build, untrained")
            module.reset_parameters()
        return twin


def cascade(network: nn.Module) -> list[tuple[str, list[str]]]:
    """The parts of a network from the top down, each with the keys of its parameters and statistics.

    For a `Classifier` these are the head, the attention and the encoder's stages, from the last to the stem; for other
    modules, and encoders of which timm tells no stages, each layer, from the one that was made last to the first.
    """
    owned = _keys_by_layer(network)
    if not isinstance(network, Classifier):
        return list(reversed(owned.items()))
    top = [
        (part, [key for key in network.state_dict() if key.startswith(f"{part}.")]) for part in ("head", "attention")
    ]
    layers = {name: keys for name, keys in owned.items() if name.split(".")[0] == "encoder"}
    if not hasattr(network.encoder, "group_matcher"):
        return [part for part in top if part[1]] + list(reversed(layers.items()))
    stages = [{f"encoder.{name}" for name in names} for names in encoder_stages(network.encoder)]
    parts: list[tuple[str, list[str]]] = [(f"stage {k}" if k else "stem", []) for k in range(len(stages))]
    for keys in layers.values():
        place = next(k for k, stage in enumerate(stages) if stage.intersection(keys))
        parts[place][1].extend(keys)
    return [part for part in [*top, *reversed(parts)] if part[1]]


def _keys_by_layer(network: nn.Module) -> dict[str, list[str]]:
    """Keys of the parameters and buffers of each layer that has parameters of its own."""
    state = network.state_dict()
    layers: dict[str, list[str]] = {}
    for name, module in network.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            own = [key for key, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))]
            layers[name] = [key for key in (f"{name}.{each}" if name else each for each in own) if key in state]
    return layers


def randomised(network: nn.Module, untrained: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The network with its top part re-initialised, then the two top parts, … to all; one copy, changed in place.

    Args:
        network: trained; it is left as it is.
        untrained: of the same build.
    """
    changed = copy.deepcopy(network)
    state, fresh = changed.state_dict(), untrained.state_dict()
    for label, keys in cascade(network):
        with torch.no_grad():
            for key in keys:
                state[key].copy_(fresh[key])
        yield label, changed


def similarity(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """How alike two maps (H, W), 0–1, are: Spearman's rank correlation over pixels, and SSIM.

    A map that is constant has no ranks, and correlates with nothing: 0.
    """
    constant = np.ptp(first) == 0 or np.ptp(second) == 0
    ranks = 0.0 if constant else float(spearmanr(first.ravel(), second.ravel()).statistic)
    return {"spearman": ranks, "ssim": float(structural_similarity(first, second, data_range=1.0))}


def randomisation_check(
    classifier: PixelClassifier,
    untrained: nn.Module,
    data_file: str | os.PathLike[str],
    items: Items,
    maps_of: Maps,
    batch_size: int = 32,
    progress: bool = False,
) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Compares the maps of a network with those after each step of the cascade.

    Args:
        classifier: trained.
        untrained: of the same build, see `untrained_like`.
        data_file: the store.
        items: pairs of image and finding.
        maps_of: network, its input (B, C, S, S), finding → (B, S, S), 0–1.
        batch_size: images a step.
        progress: whether to show a bar.

    Returns:
        For `REFERENCE` (the trained network's map of each item against that of the next with the same finding, what
        maps have in common that show different images), and then for each part of the cascade, from the top down: its
        name, and (M,) of each of `SIMILARITIES`.
    """
    parts = len(cascade(classifier.network))
    with progress_bar("randomise", (parts + 1) * len(items), "map", progress) as bar:

        def every(network: nn.Module) -> np.ndarray:
            found: list[np.ndarray | None] = [None] * len(items)
            for places, _, _, maps in item_maps(classifier, network, data_file, items, maps_of, batch_size):
                for place, each in zip(places, maps.double().cpu().numpy(), strict=True):
                    found[place] = each
                bar.update(len(places))
            return np.stack(found)

        trained = every(classifier.network)
        rows = [(REFERENCE, _compared(trained, trained[_next_of_class(items.classes)]))]
        for label, network in randomised(classifier.network, untrained.to(classifier.device).eval()):
            rows.append((label, _compared(trained, every(network))))
    return rows


def _next_of_class(classes: np.ndarray) -> np.ndarray:
    """For each item the place of the next with the same class, the first after the last."""
    following = np.arange(len(classes))
    for each in np.unique(classes):
        places = np.flatnonzero(classes == each)
        following[places] = np.roll(places, -1)
    return following


def _compared(first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    rows = [similarity(*pair) for pair in zip(first, second, strict=True)]
    return {name: np.array([row[name] for row in rows]) for name in SIMILARITIES}
