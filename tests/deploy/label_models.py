"""Tiny bundles for the tests of MONAI Label's app: no training, but outputs that differ from pixel to pixel."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from cxrmonai.deploy.label_app import make_app
from cxrmonai.networks import Classifier, Segmenter

REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = ["Effusion", "Mass"]
MASKS = ["lungs", "Effusion"]
ASKED = {
    "target": "findings", "classes": "Effusion,Mass", "policy": "ignore", "blank": None,
    "grade_column": "edema_severity", "equalize": False,
}  # fmt: skip


def classifier_weights(folder):
    """A classifier with temperatures, 64 pixels; returns the path of its weights."""
    path = folder / "classifier/model.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = Classifier(CLASSES, "resnet10t", image_size=64, asked=ASKED)
    with torch.no_grad():  # one of two opposite classes is seen somewhere in every image
        network.head.weight.normal_(0, 1)
        network.head.weight[1] = -network.head.weight[0]
    torch.save(network.state_dict(), path)
    points = {"thresholds": [0.4, 0.6], "temperatures": [1.5, 1.0], "origin": "made up"}
    points |= {"reasons": ["", ""], "temperature_reasons": ["", ""]}
    (path.parent / "operating_points.json").write_text(json.dumps(points))
    return path


def segmenter_weights(folder):
    """A segmenter of 64 pixels, with thresholds near the middle of its output; returns the path of its weights."""
    path = folder / "segmenter/model.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    options = {"image_size": 64, "atrous_rates": (1, 1, 1), "decoder_channels": 16, "dropout": 0.0}
    network = Segmenter(MASKS, "resnet10t", asked={"seed": 0, "fold": 0, "folds": 0}, **options).eval()
    torch.nn.init.normal_(network.head.weight, 0, 1)
    torch.save(network.state_dict(), path)
    noise = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.avg_pool2d(noise, 9, 1, 4) * 8
    with torch.no_grad():
        middle = network(smooth).sigmoid().flatten(2).median(dim=2).values.mean(dim=0).tolist()
    content = {"thresholds": dict(zip(MASKS, middle, strict=True)), "origin": "made up"}
    (path.parent / "thresholds.json").write_text(json.dumps(content))
    return path


def make_app_folder(folder):
    """An app with the three kinds of bundles."""
    names = ["supervised", "deeplabv3plus", "cam_localization"]
    weights = [classifier_weights(folder), segmenter_weights(folder), classifier_weights(folder)]
    make_app(folder / "app", [REPOSITORY / "bundles" / name for name in names], weights)
    return folder / "app"
