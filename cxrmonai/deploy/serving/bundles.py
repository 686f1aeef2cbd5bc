"""From the path of a radiograph to what a bundle says of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from cxrmonai.data.geometry import letterbox_geometry, map_to_original
from cxrmonai.data.targets import match_classes
from cxrmonai.engines import read_operating_points, read_thresholds
from cxrmonai.engines.classification import probabilities
from cxrmonai.engines.segmentation import masks_at_original
from cxrmonai.errors import CxrError, user_error
from cxrmonai.explain.attribution import METHODS
from cxrmonai.explain.boxes import find_boxes
from cxrmonai.explain.localising import AttributionInferer
from cxrmonai.metrics.evaluation import recalibrate
from cxrmonai.networks import Classifier, Segmenter

BANDS = {"heat 25-50 %": 0.25, "heat 50-75 %": 0.5, "heat 75-100 %": 0.75}
ALL, MOST_PROBABLE = "all", "most probable"
MOST_LABELS = 255


class ServedBundle:
    """A bundle that takes one file at a time.

    Args:
        parser: of its inference.json, with `bundle_root` set.
        network: that it runs, on its device.

    Attributes:
        kind: `classification`, `segmentation` or `heatmap`.
        class_names: of the network.
    """

    kind = ""

    def __init__(self, parser: ConfigParser, network: Classifier | Segmenter) -> None:
        self.network, self.class_names = network, list(network.class_names)
        self.weights = Path(parser.get_parsed_content("ckpt_path"))
        self._device = torch.device(parser.get_parsed_content("device"))
        self._read = parser.get_parsed_content("preprocessing")
        self._view = parser.get_parsed_content("plain_view")

    def labels(self) -> dict[str, int]:
        """Name → value in the label maps that it gives; value of a class otherwise."""
        return {name: k for k, name in enumerate(self.class_names)}

    def load(self, path: str | os.PathLike[str]) -> tuple[torch.Tensor, np.ndarray]:
        """Reads a radiograph by the bundle's own steps.

        Args:
            path: of any file that `data.reading` knows.

        Returns:
            (1, C, S, S) input of the network on its device, and (8,) the geometry of the square image.

        Raises:
            CxrError: the file cannot be read.
        """
        try:
            item = self._read({"image": str(path)})
        except Exception as error:  # MONAI wraps what a transform raises
            cause = user_error(error)
            if cause is None:
                raise
            raise cause from None
        square = item["image"][None].to(self._device)
        geometry = letterbox_geometry(*item["image_shape"], square.shape[-1])
        return self._view({"image": square})["image"], geometry


class ClassifyingBundle(ServedBundle):
    """Gives a score for each class."""

    kind = "classification"

    def __init__(self, parser: ConfigParser, network: Classifier) -> None:
        super().__init__(parser, network)
        self._points = read_operating_points(self.weights)

    def scores(self, path: str | os.PathLike[str]) -> np.ndarray:
        """(K,) probabilities of a radiograph, recalibrated where the run found temperatures, as in predictions.csv.

        Raises:
            CxrError: see `load`.
        """
        images, _ = self.load(path)
        with torch.no_grad():
            probability = probabilities(self.network, self.network(images).float().cpu().numpy())
        if self._points is not None:
            probability = recalibrate(probability, self.network.task, self._points)
        return probability[0]


class SegmentingBundle(ServedBundle):
    """Gives a label map.

    Raises:
        CxrError: more classes than a label map of one byte can hold.
    """

    kind = "segmentation"

    def __init__(self, parser: ConfigParser, network: Segmenter) -> None:
        super().__init__(parser, network)
        if len(self.class_names) > MOST_LABELS:
            raise CxrError(f"{len(self.class_names)} classes: a label map holds {MOST_LABELS} at most")
        self._thresholds = read_thresholds(self.weights, self.class_names)

    def labels(self) -> dict[str, int]:
        """Name → value; 0 is the background."""
        return {name: k + 1 for k, name in enumerate(self.class_names)}

    def label_map(self, path: str | os.PathLike[str], finding: str = ALL) -> np.ndarray:
        """Segments a radiograph.

        Args:
            path: of the file.
            finding: a class, or `all`. Masks may overlap; of those that meet in a pixel the most probable counts.

        Returns:
            (height, width) uint8 in the file's own geometry, values as in `labels`.

        Raises:
            CxrError: see `load`, or no such class.
        """
        chosen = range(len(self.class_names)) if finding == ALL else match_classes([finding], self.class_names)
        images, geometry = self.load(path)
        with torch.no_grad():
            probability = self.network(images).float().sigmoid()[0].cpu().numpy()[list(chosen)]
        masks = masks_at_original(probability, geometry, self._thresholds.values[list(chosen)])
        heights = np.stack([map_to_original(each, geometry) for each in probability])
        values = np.array(list(chosen), np.uint8) + 1
        winner = values[np.where(masks, heights, -1).argmax(axis=0)]
        return np.where(masks.any(axis=0), winner, 0).astype(np.uint8)


class LocatingBundle(ServedBundle):
    """Gives a heatmap of a class, and boxes."""

    kind = "heatmap"

    def __init__(self, parser: ConfigParser, network: Classifier) -> None:
        super().__init__(parser, network)
        self.method = parser.get_parsed_content("method")
        self._options = parser.get_parsed_content("options")
        self._rule = parser.get_parsed_content("box_rule")
        self._expected = parser.get_parsed_content("expected")

    def labels(self) -> dict[str, int]:
        """Bands of heat → value; the heat is a share of the map's maximum."""
        return {name: k + 1 for k, name in enumerate(BANDS)}

    def heat(
        self, path: str | os.PathLike[str], finding: str = MOST_PROBABLE, method: str | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Where in a radiograph the network sees a class.

        Args:
            path: of the file.
            finding: a class, or `most probable`.
            method: of `explain.attribution.METHODS`; by default the bundle's.

        Returns:
            (height, width) float32, 0–1, in the file's own geometry; and `finding`, `probability`, `method` and
            `boxes`, a list of `x`, `y`, `w`, `h` in the file's pixels with `heat`, the highest value inside.

        Raises:
            CxrError: see `load`; no such class or method; or a method that the network does not fit.
        """
        images, geometry = self.load(path)
        with torch.no_grad():
            probability = self.network.probabilities(self.network(images).float())[0]
        target = int(probability.argmax())
        if finding != MOST_PROBABLE:
            (target,) = match_classes([finding], self.class_names)
        method = method or self.method
        options = self._options if method == self.method else {}
        infer = AttributionInferer(method, [target], self._expected.square, options, self._expected.share)
        square = infer(images, self.network).maps[0, 0].cpu().numpy()
        found = find_boxes(square, geometry, self._rule)
        boxes = [
            {**dict(zip("xywh", (float(value) for value in box), strict=True)), "heat": float(heat)}
            for box, heat in zip(found.boxes, found.heat, strict=True)
        ]
        told = {"finding": self.class_names[target], "probability": float(probability[target]), "method": method}
        return map_to_original(square, geometry), {**told, "boxes": boxes}


def bands(heat: np.ndarray) -> np.ndarray:
    """(H, W) heat of 0–1 → (H, W) uint8 label map, values as in `LocatingBundle.labels`."""
    return sum((heat >= least).astype(np.uint8) for least in BANDS.values())


def open_bundle(folder: str | os.PathLike[str], device: str | None = None) -> ServedBundle:
    """Opens an exported bundle.

    Args:
        folder: as `deploy.export_bundle` makes it.
        device: where to run; as the bundle's config has it by default.

    Raises:
        CxrError: the folder holds no bundle, or one that answers with something else than scores, masks or heatmaps.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "configs/inference.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CxrError(f"{folder}: no bundle as `export` or `label-app` makes them") from error
    config["bundle_root"] = str(folder)
    if device is not None:
        config["device"] = device
    parser = ConfigParser(config)
    try:
        network = parser.get_parsed_content("network")
    except Exception as error:
        cause = user_error(error)
        if cause is None:
            raise
        raise cause from None
    if isinstance(network, Segmenter):
        made = SegmentingBundle
    elif isinstance(network, Classifier):
        made = LocatingBundle if "box_rule" in config else ClassifyingBundle
    else:
        raise CxrError(f"{folder.name}: MONAI Label shows scores, masks and heatmaps; this bundle gives something else")
    return made(parser, network.eval())


__all__ = ["ALL", "METHODS", "MOST_PROBABLE", "ServedBundle", "bands", "open_bundle"]
