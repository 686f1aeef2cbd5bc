"""Masks move as their images do, in one draw, and what is not known stays so."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cxrmonai.transforms import BatchMaskTargetd, BatchRandGeometryd, BatchResized
from cxrmonai.transforms.batch import sample

SIZE = 48


@pytest.fixture(scope="module")
def discs():
    """Four images that are bright where their mask is, a second mask that is unknown in its right half."""
    y, x = np.mgrid[:SIZE, :SIZE]
    places = [(24, 24, 15), (15, 30, 9), (30, 20, 12), (20, 20, 18)]
    inside = np.stack([(y - a) ** 2 + (x - b) ** 2 < r * r for a, b, r in places])
    masks = np.stack([inside, ~inside], axis=1).astype(np.uint8)
    masks[:, 1, :, SIZE // 2 :] = 255
    return torch.from_numpy(inside[:, None].astype(np.float32)), torch.from_numpy(masks)


def moved(discs, size, **options):
    transform = BatchRandGeometryd("image", size, mask_keys=["mask"], **options)
    transform.set_random_state(seed=3)
    out = transform({"image": discs[0], "mask": discs[1]})
    return transform.theta, out["image"], out["mask"]


@pytest.mark.parametrize("size", [48, 24, 64])
def test_masks_move_with_their_images(discs, size):
    options = {"scale": (0.5, 1.0), "rotate": 20, "shift": 0.2, "flip_prob": 0.5}
    theta, images, masks = moved(discs, size, **options)
    assert masks.dtype == torch.uint8
    assert masks.shape == (4, 2, size, size)
    known = masks[:, 0] != 255
    assert ((masks[:, 0] == 1) == ((images[:, 0] >= 0.5) & known))[known].all()
    ones = sample(torch.ones(4, 1, SIZE, SIZE), theta, size)[:, 0]
    assert torch.equal(known, ones >= 0.5)  # beyond the image nothing is known
    assert not known.all()
    alone = BatchRandGeometryd("image", size, **options)
    alone.set_random_state(seed=3)
    assert torch.equal(alone({"image": discs[0]})["image"], images)
    left = sample((discs[1][:, 1:] != 255).float(), theta, size)[:, 0]
    assert torch.equal(masks[:, 1] != 255, left >= 0.5)


def test_nothing_moves_where_nothing_is_drawn(discs):
    _, images, masks = moved(discs, SIZE, scale=(1, 1), ratio=(1, 1), rotate=0, flip_prob=0)
    torch.testing.assert_close(images, discs[0], atol=1e-4, rtol=0)
    assert torch.equal(masks, discs[1])


def test_masks_are_resized_with_their_images(discs):
    out = BatchResized("image", 16, mask_keys=["mask"])({"image": discs[0], "mask": discs[1]})
    part = discs[1][:, 0].reshape(4, 16, 3, 16, 3).float().mean(dim=(2, 4))
    assert torch.equal(out["mask"][:, 0], (part >= 0.5).to(torch.uint8))
    assert torch.equal(out["mask"][:, 1] == 255, (discs[1][:, 1].reshape(4, 16, 3, 16, 3) == 255).all(4).all(2))
    same = BatchResized("image", SIZE, mask_keys=["mask"])({"image": discs[0], "mask": discs[1]})
    assert torch.equal(same["mask"], discs[1])


def test_a_target_is_unknown_where_a_mask_is(discs):
    target = BatchMaskTargetd("mask")({"mask": discs[1]})["label"]
    assert target.dtype == torch.float32
    assert torch.equal(target.isnan(), discs[1] == 255)
    assert torch.equal(target.nan_to_num(255), discs[1].float())
