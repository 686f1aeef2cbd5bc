"""Insertion and deletion: whether the pixels that a map ranks first are those that the classifier goes by.

Petsiuk, Das and Saenko, "RISE", BMVC 2018: pixels are removed from the image, or put back on a baseline, in the order
of the map, and the class's score is followed. A faithful map makes it fall early and rise early.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.integrate import trapezoid
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.explain.attribution import attribute, check_method
from cxrmonai.explain.pixels import PixelClassifier
from cxrmonai.metrics import bootstrap_sums, percentile_interval
from cxrmonai.progress import progress_bar
from cxrmonai.transforms.batch import gaussian_blur

BASELINES = ("black", "blur")
MEASURES = ("deletion", "insertion", "random_deletion", "random_insertion", "deletion_gain", "insertion_gain")

Score = Callable[[torch.Tensor], torch.Tensor]
Maps = Callable[[nn.Module, torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Curves:
    """How a score follows the share of the pixels that were removed or put back.

    Attributes:
        share: (T + 1,) from 0 to 1.
        deletion: (B, T + 1) score after that share of the pixels, the map's highest first, became the baseline.
        insertion: (B, T + 1) score of the baseline after that share of the image's pixels was put back.
    """

    share: np.ndarray
    deletion: np.ndarray
    insertion: np.ndarray

    def areas(self) -> tuple[np.ndarray, np.ndarray]:
        """(B,) areas under deletion and insertion, by trapezoids."""
        return trapezoid(self.deletion, self.share, axis=1), trapezoid(self.insertion, self.share, axis=1)


def curves(score: Score, images: torch.Tensor, baseline: torch.Tensor, ranks: torch.Tensor, steps: int = 20) -> Curves:
    """Follows a score as pixels are removed and put back.

    Args:
        score: (B, C, H, W) → (B,); the i-th image may have a class of its own.
        images: (B, C, H, W).
        baseline: the same shape.
        ranks: (B, H, W) place of each pixel, 0 first, see `pixel_ranks`.
        steps: T; at step t the round(t / T · H · W) first pixels are taken.

    Returns:
        The curves, float64.
    """
    if steps < 1:
        raise CxrError(f"steps {steps}: must be 1 or more")
    pixels = ranks[0].numel()
    deleted, inserted = [], []
    with torch.no_grad():
        for step in range(steps + 1):
            taken = (ranks < round(step * pixels / steps))[:, None]
            deleted.append(score(torch.where(taken, baseline, images)))
            inserted.append(score(torch.where(taken, images, baseline)))
    both = (torch.stack(part, dim=1).double().cpu().numpy() for part in (deleted, inserted))
    return Curves(np.arange(steps + 1) / steps, *both)


def pixel_ranks(maps: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, H, W) maps → the place of each pixel, 0 for the highest; what is equal is ordered at random.

    A map that is zero in most places would otherwise be read from the upper left to the lower right.
    """
    flat = maps.flatten(1)
    shuffled = torch.rand(flat.shape, generator=generator).argsort(dim=1).to(flat.device)
    order = shuffled.gather(1, flat.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    return order.argsort(dim=1).view(maps.shape)


def make_baseline(images: torch.Tensor, kind: str = "black", sigma: float = 8.0) -> torch.Tensor:
    """What a removed pixel becomes: black, or the image blurred.

    Args:
        images: (B, 1, S, S), 0–1.
        kind: `black` or `blur`.
        sigma: of the blur, in pixels.

    Raises:
        CxrError: an unknown kind.
    """
    if kind not in BASELINES:
        raise CxrError(f"baseline '{kind}': known are {', '.join(BASELINES)}")
    if kind == "black":
        return torch.zeros_like(images)
    return gaussian_blur(images, np.full(len(images), sigma), 3 * sigma)


@dataclass(frozen=True)
class Items:
    """Pairs of an image and a finding, ordered by finding.

    Attributes:
        rows: (M,) of the store.
        classes: (M,) places of the findings among the classifier's.
    """

    rows: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
        """Places of items that share a finding, and that finding."""
        for finding in np.unique(self.classes):
            places = np.flatnonzero(self.classes == finding)
            for start in range(0, len(places), batch_size):
                yield places[start : start + batch_size], int(finding)


def positive_items(target: np.ndarray, rows: np.ndarray, classes: Sequence[int], limit: int, seed: int = 0) -> Items:
    """The images that show a finding, for each of several.

    Args:
        target: (rows of the store, K) 1, 0 and NaN.
        rows: (N,) to choose among.
        classes: places of the findings.
        limit: most images a finding, drawn with the seed.
        seed: of the draw.

    Raises:
        CxrError: no image shows any of them.
    """
    random = np.random.default_rng(seed)
    chosen: list[np.ndarray] = []
    for place in classes:
        positive = rows[target[rows, place] == 1]
        chosen.append(np.sort(random.choice(positive, limit, replace=False)) if len(positive) > limit else positive)
    counts = [len(part) for part in chosen]
    if not sum(counts):
        raise CxrError("no image of the split shows any of the findings; choose another split or other classes")
    return Items(np.concatenate(chosen), np.repeat(np.asarray(classes), counts))


def method_maps(method: str, options: Mapping[str, Any] | None = None) -> Maps:
    """Maps of a method of `explain.attribute`, for one finding: network, its input, finding → (B, S, S), 0–1.

    Args:
        method: of `attribution.METHODS`.
        options: of the method, such as `layer` for `gradcam`.

    Raises:
        CxrError: an unknown method.
    """
    check_method(method)

    def maps_of(network: nn.Module, images: torch.Tensor, finding: int) -> torch.Tensor:
        return attribute(network, images, [finding], method, **(options or {}))[:, 0]

    return maps_of


def item_maps(
    classifier: PixelClassifier,
    network: nn.Module,
    data_file: str | os.PathLike[str],
    items: Items,
    maps_of: Maps,
    batch_size: int = 32,
) -> Iterator[tuple[np.ndarray, int, torch.Tensor, torch.Tensor]]:
    """Places of items, their finding, their images (B, 1, S, S), 0–1, and maps (B, S, S), 0–1, batch by batch.

    Args:
        classifier: prepares the images.
        network: whose maps are wanted, the classifier's own or another of its build.
        data_file: the store.
        items: which.
        maps_of: network, its input (B, C, S, S), finding → (B, S, S).
        batch_size: images a step.
    """
    for places, finding in items.batches(batch_size):
        images = next(classifier.batches(data_file, items.rows[places], len(places)))
        maps = maps_of(network, classifier.normalise({"image": images})["image"], finding)
        yield places, finding, images, maps.to(images)


def faithfulness(
    classifier: PixelClassifier,
    data_file: str | os.PathLike[str],
    items: Items,
    maps_of: Maps,
    steps: int = 20,
    baseline: str = "black",
    blur_sigma: float = 8.0,
    random_maps: int = 3,
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> tuple[Curves, Curves]:
    """Insertion and deletion of the probability of each item's finding, by its map and by random maps.

    Args:
        classifier: that is explained.
        data_file: the store.
        items: pairs of image and finding.
        maps_of: see `item_maps`.
        steps: see `curves`.
        baseline: see `make_baseline`.
        blur_sigma: see `make_baseline`.
        random_maps: how many random orders an item is compared with; their curves are averaged.
        batch_size: images a step.
        seed: of the random orders.
        progress: whether to show a bar.

    Returns:
        The curves of the maps, and of the random orders, (M, T + 1) each, in the order of the items.
    """
    if random_maps < 1:
        raise CxrError(f"random_maps {random_maps}: must be 1 or more")
    generator = torch.Generator().manual_seed(seed)
    shape = (2, 2, len(items), steps + 1)  # map or random; deletion or insertion
    values = np.zeros(shape)
    share = np.zeros(steps + 1)
    with progress_bar("faithfulness", len(items), "img", progress) as bar:
        parts = item_maps(classifier, classifier.network, data_file, items, maps_of, batch_size)
        for places, finding, images, maps in parts:

            def score(changed: torch.Tensor, finding: int = finding) -> torch.Tensor:
                return classifier.log_probabilities(changed)[:, finding].exp()

            base = make_baseline(images, baseline, blur_sigma)
            for turn in range(1 + random_maps):
                shown = maps if turn == 0 else torch.zeros_like(maps)
                found = curves(score, images, base, pixel_ranks(shown, generator), steps)
                share, weight = found.share, 1 if turn == 0 else 1 / random_maps
                values[min(turn, 1), :, places] += weight * np.stack([found.deletion, found.insertion], axis=1)
            bar.update(len(places))
    return Curves(share, *values[0]), Curves(share, *values[1])


def item_table(explained: Curves, random: Curves) -> dict[str, np.ndarray]:
    """(M,) areas of each item, by the names of `MEASURES`; a gain is above 0 where the map does better than chance."""
    deletion, insertion = explained.areas()
    random_deletion, random_insertion = random.areas()
    columns = (
        deletion,
        insertion,
        random_deletion,
        random_insertion,
        random_deletion - deletion,
        insertion - random_insertion,
    )
    return dict(zip(MEASURES, columns, strict=True))


def mean_intervals(
    columns: Mapping[str, np.ndarray],
    classes: np.ndarray,
    class_names: Sequence[str],
    patients: np.ndarray,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Means over items with 95 % intervals by patient, of all items and of each finding.

    Args:
        columns: (M,) numbers by name.
        classes: (M,) finding of each item.
        class_names: of the findings.
        patients: (M,) patient of each item.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        `items`, and for each name its mean and `NAME_ci`; and `findings`, which maps each finding that has items to
        the same.
    """
    summary = _means(columns, patients, resamples, seed)
    summary["findings"] = {
        class_names[place]: _means(
            {name: values[classes == place] for name, values in columns.items()},
            patients[classes == place],
            resamples,
            seed,
        )
        for place in np.unique(classes)
    }
    return summary


def _means(columns: Mapping[str, np.ndarray], patients: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    values = np.stack(list(columns.values()), axis=1)
    counted = np.concatenate([np.ones((len(values), 1)), values], axis=1)
    sums = bootstrap_sums(counted, patients, resamples, seed)
    low, high = percentile_interval(sums[:, 1:] / sums[:, :1])
    summary: dict[str, Any] = {"items": len(values)}
    for place, name in enumerate(columns):
        summary[name] = float(values[:, place].mean())
        summary[f"{name}_ci"] = [float(low[place]), float(high[place])]
    return summary
