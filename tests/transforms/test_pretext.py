"""Turns, shifts and masks against NumPy, and targets that know nothing of the image."""

import numpy as np
import pytest
import torch

from cxrmonai.data.keyed import image_keys
from cxrmonai.errors import CxrError
from cxrmonai.transforms import BatchMaskd, BatchPictured, BatchRandRotateShiftd
from cxrmonai.transforms.pretext import HIDDEN_GREY

SIZE, COUNT = 16, 48


def images(seed=0, count=COUNT, size=SIZE):
    return torch.from_numpy(np.random.default_rng(seed).random((count, 1, size, size), np.float32))


def tagged(batch):
    """The batch with a bright square in a corner that tells the patient."""
    marked = batch.clone()
    for k, image in enumerate(marked):
        image[0, :3, : 1 + k % 7] = 1
    return marked


def turn_and_shift(batch, seed=3, shift=0.2):
    step = BatchRandRotateShiftd("image", shift)
    step.set_random_state(seed)
    return step({"image": batch, "label": torch.zeros(len(batch), 0)})


def by_numpy(image, rotation, shift_x, shift_y, pixels):
    """Quarter turns by np.rot90, then a roll of the image in a reflected frame, cut out again."""
    frame = np.pad(np.rot90(image, rotation), pixels, mode="reflect")
    moves = {0: 0, 1: -pixels, 2: pixels}
    rolled = np.roll(frame, (moves[shift_y], moves[shift_x]), axis=(0, 1))
    return rolled[pixels:-pixels, pixels:-pixels]


def test_turns_and_shifts_are_numpys():
    batch = images()
    made = turn_and_shift(batch)
    pixels = round(0.2 * SIZE)
    drawn = [made["label"][name].tolist() for name in ("rotation", "shift_x", "shift_y")]
    for before, after, rotation, x, y in zip(batch[:, 0], made["image"][:, 0], *drawn, strict=True):
        np.testing.assert_array_equal(after.numpy(), by_numpy(before.numpy(), rotation, x, y, pixels))
    assert {0, 1, 2, 3} == set(drawn[0])
    assert {0, 1, 2} == set(drawn[1]) == set(drawn[2])


def test_each_image_has_a_draw_of_its_own_and_each_epoch_another():
    first, second = turn_and_shift(images(), seed=1)["label"], turn_and_shift(images(), seed=2)["label"]
    assert len(set(zip(*(value.tolist() for value in first.values()), strict=True))) > 12
    assert not torch.equal(first["rotation"], second["rotation"])
    again = turn_and_shift(images(), seed=1)["label"]
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_with_a_seed_a_draw_is_the_images_own():
    batch, index = images(), torch.arange(COUNT)

    def labels(chosen, seed=5):
        made = BatchRandRotateShiftd("image", 0.2, seed)({"image": batch[chosen], "index": index[chosen]})
        return torch.stack(list(made["label"].values()), dim=1)

    whole = labels(slice(None))
    assert torch.equal(labels(slice(7, 11)), whole[7:11])
    assert not torch.equal(labels(slice(None), seed=6), whole)
    assert [set(column.tolist()) for column in whole.T] == [{0, 1, 2, 3}, {0, 1, 2}, {0, 1, 2}]


def test_a_shift_below_a_pixel_is_refused():
    with pytest.raises(CxrError, match="0 pixels"):
        turn_and_shift(images(), shift=0.01)
    with pytest.raises(CxrError, match="above 0 and below 1"):
        BatchRandRotateShiftd("image", 1.5)


def hide(batch, ids, epoch=1, **options):
    step = BatchMaskd("image", patch=4, **options)
    step.set_epoch(epoch)
    keys = torch.from_numpy(image_keys(ids).copy())
    return step({"image": batch, "key": keys})


IDS = [f"image {k}" for k in range(COUNT)]


def test_masked_targets_are_the_image_and_the_input_hides_it():
    batch = images()
    made = hide(batch, IDS, ratio=0.6)
    mask = made["label"]["weight"].bool()
    assert torch.equal(made["label"]["picture"], batch)
    assert torch.equal(made["image"][~mask], batch[~mask])
    assert (made["image"][mask] == HIDDEN_GREY).all()
    patches = mask.unfold(2, 4, 4).unfold(3, 4, 4).float().mean(dim=(4, 5))
    assert set(patches.unique().tolist()) == {0.0, 1.0}
    assert (patches.flatten(1).sum(1) == round(0.6 * 16)).all()
    share = patches.mean(dim=(0, 1))
    assert share.min() > 0.3  # each place is hidden in some images
    assert share.max() < 0.9


def masks(ids, epoch, **options):
    return hide(images(count=len(ids)), ids, epoch, **options)["label"]["weight"]


def test_fixed_masks_belong_to_the_image_id():
    fixed = masks(IDS, 1, mask="fixed")
    assert torch.equal(fixed, masks(IDS, 7, mask="fixed"))
    assert torch.equal(fixed.flip(0), masks(IDS[::-1], 3, mask="fixed"))
    assert not torch.equal(fixed, masks(IDS, 1, mask="fixed", seed=1))
    assert len({mask.numpy().tobytes() for mask in fixed}) > COUNT - 3


def test_dynamic_masks_change_every_k_epochs():
    drawn = [masks(IDS, epoch, mask="dynamic", every=2) for epoch in range(1, 7)]
    equal = [[torch.equal(one, other) for other in drawn] for one in drawn]
    assert equal == [[one // 2 == other // 2 for other in range(6)] for one in range(6)]
    assert torch.equal(drawn[2], masks(IDS, 3, mask="dynamic", every=2))  # whatever was drawn before


@pytest.mark.parametrize(
    ("options", "words"),
    [({"mask": "random"}, "fixed, dynamic"), ({"ratio": 1.0}, "below 1"), ({"every": 0}, "at least 1")],
)
def test_mask_options_out_of_range_are_refused(options, words):
    with pytest.raises(CxrError, match=words):
        BatchMaskd("image", **{"patch": 4, **options})


def test_patches_that_do_not_fill_the_image_are_refused():
    with pytest.raises(CxrError, match="does not divide"):
        hide(images(size=18), IDS)


def test_pictures_count_where_they_are_not_padding():
    batch = images()
    batch[:, :, :, :4] = 0
    made = BatchPictured("image")({"image": batch, "label": torch.ones(COUNT, 2)})
    assert torch.equal(made["image"], batch)
    assert torch.equal(made["label"]["picture"], batch)
    assert torch.equal(made["label"]["weight"].bool(), batch > 0)
    assert made["label"]["findings"].shape == (COUNT, 2)


def test_a_tag_in_a_corner_changes_no_target():
    """What is asked follows from the draw alone: neither image nor patient is in it."""
    plain, marked = turn_and_shift(images()), turn_and_shift(tagged(images()))
    other = turn_and_shift(images(seed=9))
    for name in ("rotation", "shift_x", "shift_y"):
        assert torch.equal(plain["label"][name], marked["label"][name])
        assert torch.equal(plain["label"][name], other["label"][name])
    assert not torch.equal(plain["image"], marked["image"])
    for mask in ("fixed", "dynamic"):
        one, two = hide(images(), IDS, mask=mask)["label"], hide(tagged(images()), IDS, mask=mask)["label"]
        assert torch.equal(one["weight"], two["weight"])
