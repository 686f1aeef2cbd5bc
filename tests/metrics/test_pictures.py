"""Likeness of pictures against scikit-image."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from cxrmonai.metrics.pictures import psnr, ssim


@pytest.fixture
def pictures():
    random = np.random.default_rng(0)
    truth = random.random((3, 1, 24, 24))
    return np.clip(truth + random.normal(0, 0.1, truth.shape), 0, 1), truth


def test_psnr_is_scikit_images(pictures):
    found = psnr(*(torch.from_numpy(value) for value in pictures))
    expected = [peak_signal_noise_ratio(t, p, data_range=1) for p, t in zip(*pictures, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_psnr_counts_the_pixels_that_weigh(pictures):
    prediction, truth = (torch.from_numpy(value) for value in pictures)
    weight = torch.zeros_like(truth)
    weight[:, :, 3:9, 4:20] = 1
    expected = psnr(prediction[:, :, 3:9, 4:20], truth[:, :, 3:9, 4:20])
    torch.testing.assert_close(psnr(prediction, truth, weight), expected)
    assert torch.isnan(psnr(prediction, truth, 0 * weight)).all()


def test_ssim_is_scikit_images_inside_the_border(pictures):
    prediction, truth = pictures
    found = ssim(torch.from_numpy(prediction), torch.from_numpy(truth))
    options = {"data_range": 1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    maps = [structural_similarity(t[0], p[0], **options)[1] for p, t in zip(prediction, truth, strict=True)]
    np.testing.assert_allclose(found, [part[5:-5, 5:-5].mean() for part in maps], rtol=1e-3)
    assert ssim(torch.from_numpy(truth), torch.from_numpy(truth)).tolist() == pytest.approx([1, 1, 1])
