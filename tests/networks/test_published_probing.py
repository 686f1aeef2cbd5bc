"""Published encoders through the finetune bundle: what their files give is what is probed."""

import numpy as np
import pandas as pd
import pytest
import torch
from monai.bundle import create_workflow
from test_published_layouts import chexzero, moco

from cxrmonai.data.store import open_store
from cxrmonai.networks import load_classifier
from cxrmonai.transforms import preprocess

pytestmark = pytest.mark.slow
CASES = {
    "moco-resnet18": (lambda: moco("resnet18"), {"image_size": 64}, "linear", "AVG"),
    "chexzero": (chexzero, {}, "logistic", "NATIVE"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_published_encoder_is_probed_with_its_own_input(small_phantom, tmp_path, request, name):
    maker, options, method, pooling = CASES[name]
    theirs, content = maker()
    torch.save(content, tmp_path / "published.pt")
    folder = request.config.rootpath / "bundles/finetune"
    work = create_workflow(
        config_file=str(folder / "configs/train.json"),
        workflow_type="train",
        bundle_root=str(folder),
        data_file=str(small_phantom),
        ckpt_dir=str(tmp_path / "models"),
        output_dir=str(tmp_path / "eval"),
        classes="Cardiomegaly,Pleural Effusion",
        pretrained=str(tmp_path / "published.pt"),
        method=method,
        device="cpu",
        resamples=100,
        max_epochs=3,
        **options,
    )
    work.initialize()
    work.run()
    work.finalize()
    network = load_classifier(tmp_path / "models/model.pt").eval()
    assert network.pooling == pooling
    assert network.encoder.preprocessing.channels == 3
    store = open_store(small_phantom)
    images = torch.from_numpy(store.images[store.rows("test")])[:, None]
    with torch.no_grad():
        features = theirs(preprocess(images, network.encoder.preprocessing))
        expected = torch.sigmoid(network.head(features))
    found = pd.read_csv(tmp_path / "eval/predictions.csv")
    columns = [f"probability_{name}" for name in network.class_names]
    np.testing.assert_allclose(found[columns], expected, atol=1e-4)
    assert expected.std() > 1e-3
