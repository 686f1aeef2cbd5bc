from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.transforms import Compose
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from cxrmonai.data.geometry import letterbox
from cxrmonai.errors import CxrError
from cxrmonai.transforms import BatchNormalized, BatchResized, BatchScaleIntensityd
from cxrmonai.transforms.preprocessing import PreprocessBatchd, Preprocessing, preprocess

PLAIN = {"mean": (0.0,), "std": (1.0,)}


def grey(height, width, count=2, seed=0):
    return torch.randint(0, 256, (count, 1, height, width), generator=torch.Generator().manual_seed(seed)).byte()


@pytest.mark.parametrize("edge", [32, 48, 64, 128])
def test_the_defaults_are_the_plain_view_of_our_bundles(edge):
    steps = [BatchScaleIntensityd("image"), BatchResized("image", 32), BatchNormalized("image")]
    batch = {"image": grey(edge, edge), "label": 3}
    ours = PreprocessBatchd("image", Preprocessing(32))(batch)
    assert torch.equal(ours["image"], Compose(steps)(batch)["image"])
    assert ours["label"] == 3
    assert batch["image"].dtype == torch.uint8


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_each_stored_type_gives_the_same(dtype):
    images = grey(16, 16)
    stored = {
        torch.uint8: images,
        torch.uint16: torch.from_numpy(images.numpy().astype(np.uint16) * 257),
        torch.float32: images / 255,
    }[dtype]
    result = preprocess(stored, Preprocessing(16, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0)))
    assert result.dtype == torch.float32
    for channel, (mean, std) in enumerate(zip((0.1, 0.2, 0.3), (1.0, 2.0, 4.0), strict=True)):
        torch.testing.assert_close(result[:, channel], (images[:, 0] / 255 - mean) / std)


@pytest.mark.parametrize(("height", "width"), [(40, 61), (61, 40), (100, 33), (20, 21)])
@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
def test_crop_is_torchvisions_resize_and_centre_crop(height, width, method):
    images = grey(height, width).float() / 255
    rules = Preprocessing(24, fit="crop", fit_size=28, interpolation=method, **PLAIN)
    expected = tv.center_crop(tv.resize(images, 28, InterpolationMode[method.upper()], antialias=True), 28)
    torch.testing.assert_close(preprocess(images, rules), tv.center_crop(expected, 24))
    same = tv.center_crop(tv.resize(images, 24, InterpolationMode[method.upper()], antialias=True), 24)
    torch.testing.assert_close(preprocess(images, replace(rules, fit_size=0)), same)


@pytest.mark.parametrize(("height", "width"), [(64, 32), (32, 64), (64, 24), (64, 64)])
def test_letterbox_is_that_of_the_store(height, width):
    images = grey(height, width)
    expected = np.stack([letterbox(image.numpy().astype(np.float32), 32) for image in images[:, 0]])
    result = preprocess(images, Preprocessing(32, **PLAIN))[:, 0] * 255
    np.testing.assert_allclose(result, expected, atol=1e-3)


def test_steps_after_the_letterbox():
    images = grey(40, 20).float() / 255
    padded = torch.nn.functional.pad(images, (10, 10))
    cropped = preprocess(images, Preprocessing(30, fit_size=40, then="crop", **PLAIN))
    assert torch.equal(cropped, padded[:, :, 5:35, 5:35])
    resized = preprocess(images, Preprocessing(28, fit_size=40, then="resize", interpolation="bicubic", **PLAIN))
    torch.testing.assert_close(resized, tv.resize(padded, [28, 28], InterpolationMode.BICUBIC, antialias=True))


def test_padding_is_black_before_the_mean_is_subtracted():
    result = preprocess(torch.full((1, 1, 8, 4), 255).byte(), Preprocessing(8, mean=(0.5,) * 3, std=(0.5,) * 3))
    assert torch.equal(result[0, :, 0, 0], -torch.ones(3))
    assert torch.equal(result[0, :, 0, 4], torch.ones(3))


def test_channels_and_dictionary():
    rules = Preprocessing(8, mean=[0.5] * 3, std=[1] * 3)
    assert rules.channels == 3
    assert Preprocessing(**rules.as_dict()) == rules
    assert hash(rules) == hash(Preprocessing(8, mean=(0.5,) * 3, std=(1.0,) * 3))


def test_in_words():
    assert str(Preprocessing(64)) == (
        "longest side to 64 px, zero-padded to a square; 1 channel; mean 0.5, std 0.25 (grey 0–1)"
    )
    rules = Preprocessing(24, fit="crop", fit_size=32, then="resize", mean=(0.1, 0.2), std=(1, 1))
    assert str(rules) == (
        "shorter side to 32 px, centre square; area resize to 24 px; 2 channels of the same grey; "
        "mean 0.1/0.2, std 1 (grey 0–1)"
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fit": "squash"}, "fit 'squash': known are letterbox, crop"),
        ({"then": "pad"}, "then 'pad': known are crop, resize"),
        ({"interpolation": "cubic"}, "interpolation 'cubic': known are area, bilinear, bicubic"),
        ({"image_size": 0}, "image_size 0, fit_size 0: must be pixels"),
        ({"fit_size": 4}, "image_size 8 cannot be cropped from 4 pixels"),
        ({"mean": (0.5, 0.5)}, "must be as many numbers"),
        ({"std": (0.0,)}, "the latter above 0"),
        ({"mean": (), "std": ()}, "must be as many numbers"),
    ],
)
def test_wrong_values_are_refused(options, words):
    with pytest.raises(CxrError, match=words):
        Preprocessing(**{"image_size": 8, **options})


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 8, 8)])
def test_images_that_are_not_grey_are_refused(shape):
    with pytest.raises(CxrError, match=r"images of shape \(.*must be \(B, 1, H, W\)"):
        preprocess(torch.rand(shape), Preprocessing(8))
