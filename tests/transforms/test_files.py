import cv2
import numpy as np
import pytest
import torch
from monai.transforms import Compose

from cxrmonai.data.prepare import prepare
from cxrmonai.data.sources import folder
from cxrmonai.data.store import open_store
from cxrmonai.errors import CxrError
from cxrmonai.transforms import Letterboxd, LoadRadiographd


@pytest.fixture(scope="module")
def radiographs(tmp_path_factory):
    """A folder of ten PNGs: wide, tall and square, 8 and 16 bit."""
    root = tmp_path_factory.mktemp("radiographs")
    random = np.random.default_rng(0)
    for k, shape in enumerate([(40, 70), (75, 33), (50, 50), (20, 64), (32, 32)]):
        for depth, top in ((np.uint8, 255), (np.uint16, 4095)):
            pixels = (random.random(shape) * np.linspace(0.2, 1, shape[1]) * top).astype(depth)
            assert cv2.imwrite(str(root / f"{k}_{np.dtype(depth).itemsize * 8}.png"), pixels)
    return root


def test_a_file_becomes_what_prepare_makes_of_it(radiographs, tmp_path):
    prepare(folder.load(radiographs), tmp_path / "store.h5", size=32, workers=0, progress=False)
    store = open_store(tmp_path / "store.h5")
    transform = Compose([LoadRadiographd("image"), Letterboxd("image", 32)])
    assert len(store) == 10
    for name, expected in zip(store.column("image"), store.images, strict=True):
        item = transform({"image": radiographs / name})
        assert item["image_path"] == str(radiographs / name)
        assert type(item["image"]) is torch.Tensor
        assert (item["image"].shape, item["image"].dtype) == ((1, 32, 32), torch.uint8)
        np.testing.assert_array_equal(item["image"][0].numpy(), expected)
        assert expected.max() > 100


def test_rows_come_first(radiographs):
    pixels = LoadRadiographd("image")({"image": str(radiographs / "0_8.png")})["image"]
    np.testing.assert_array_equal(pixels, cv2.imread(str(radiographs / "0_8.png"), cv2.IMREAD_UNCHANGED))
    assert pixels.shape == (40, 70)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(CxrError, match=r"gone\.png: no such file"):
        LoadRadiographd("image")({"image": tmp_path / "gone.png"})
