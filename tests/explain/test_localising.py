"""Heatmaps of networks that see other images than ours: three channels, the centre alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import create_workflow

from cxrmonai.data.store import Store
from cxrmonai.explain.heatmaps import Heatmaps
from cxrmonai.explain.localising import AttributionInferer, usual_method
from cxrmonai.networks import Classifier, encoder
from cxrmonai.transforms import PreprocessBatchd, Preprocessing

REPOSITORY = Path(__file__).resolve().parents[2]
ASKED = {
    "target": "findings", "classes": "Mass", "policy": "ignore", "blank": None, "grade_column": "edema_severity",
    "equalize": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def network():
    """A classifier on an encoder that crops the centre three quarters and has a mean and scale of its own."""
    torch.manual_seed(0)
    backbone = encoder("resnet10t", in_channels=3)
    backbone.preprocessing = Preprocessing(48, fit_size=64, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3))
    made = Classifier("Mass", backbone, image_size=48, asked=ASKED)
    torch.nn.init.normal_(made.head.weight, 0, 1)
    return made.eval()


def test_what_is_not_seen_has_no_map(network):
    images = torch.rand(2, 3, 48, 48)
    whole = AttributionInferer("saliency", [0], 48)(images, network)
    placed = AttributionInferer("saliency", [0], 64, share=0.75)(images, network)
    torch.testing.assert_close(placed.maps[..., 8:56, 8:56], whole.maps)
    assert placed.maps.sum() == whole.maps.sum() > 0
    torch.testing.assert_close(placed.logits, whole.logits)


def test_the_method_follows_the_pooling(network):
    assert usual_method(network) == "gradcam"
    assert usual_method(Classifier("Mass", "resnet10t", pooling="PCAM")) == "pcam"


def test_the_bundle_feeds_a_classifier_its_own_input(network, small_phantom, tmp_path):
    torch.save(network.state_dict(), tmp_path / "model.pt")
    work = create_workflow(
        config_file=str(REPOSITORY / "bundles/cam_localization/configs/inference.json"),
        workflow_type="infer",
        bundle_root=str(REPOSITORY / "bundles/cam_localization"),
        data_file=str(small_phantom),
        ckpt_path=str(tmp_path / "model.pt"),
        output_dir=str(tmp_path / "out"),
        split="test",
        overlays=0,
        device="cpu",
    )
    work.initialize()
    work.run()
    made = Heatmaps(tmp_path / "out/heatmaps.h5")
    stored = torch.from_numpy(np.asarray(Store(small_phantom).images[made.rows]))[:, None]
    prepared = PreprocessBatchd("image", network.encoder.preprocessing)({"image": stored})["image"]
    with torch.no_grad():
        expected = network(prepared).sigmoid()
    np.testing.assert_allclose(made.probability, expected, atol=1e-5)
    maps = made.maps(range(len(made.rows)))
    assert maps[..., 8:56, 8:56].any()
    maps[..., 8:56, 8:56] = 0
    assert not maps.any()
