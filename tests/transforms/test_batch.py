import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.transforms import Compose
from scipy.ndimage import gaussian_filter

from cxrmonai.errors import CxrError
from cxrmonai.transforms import (
    BatchEqualizeHistogramd,
    BatchNormalized,
    BatchRandBlurd,
    BatchRandGeometryd,
    BatchRandIntensityd,
    BatchRepeatd,
    BatchResized,
    BatchScaleIntensityd,
)

RANDOM = {
    "geometry": lambda: BatchRandGeometryd("image", size=32),
    "intensity": lambda: BatchRandIntensityd("image", gamma=1.5, prob=1.0),
    "blur": lambda: BatchRandBlurd("image", prob=1.0),
}


def noise(count=4, size=32, dtype=torch.float32, seed=0):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def pipeline(size=32):
    return Compose(
        [
            BatchRepeatd("image", times=2),
            BatchScaleIntensityd("image"),
            BatchRandGeometryd("image", size=size, scale=(0.3, 1.0), rotate=10, shift=0.05),
            BatchRandIntensityd("image", gamma=1.2),
            BatchRandBlurd("image", sigma=(0.1, 0.8)),
            BatchNormalized("image"),
        ]
    )


def run(transform, images, seed=0):
    transform.set_random_state(seed=seed)
    return transform({"image": images})["image"]


def fixed(transform, theta):
    """The transform with one affine map for every sample."""
    matrix = np.array(theta, np.float32)
    transform.randomize = lambda count: setattr(transform, "theta", np.repeat(matrix[None], count, 0))
    return transform


@pytest.mark.parametrize("name", RANDOM)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shape_type_seed_and_input_untouched(name, dtype):
    images = noise(6, dtype=dtype)
    before = images.clone()
    transform = RANDOM[name]()
    result = run(transform, images, seed=1)
    assert type(result) is torch.Tensor
    assert (result.shape, result.dtype) == (images.shape, dtype)
    assert result.isfinite().all()
    assert torch.equal(images, before)
    assert not torch.equal(result, images)
    assert torch.equal(run(transform, images, seed=1), result)
    assert torch.equal(run(RANDOM[name](), images, seed=1), result)
    assert not torch.equal(run(transform, images, seed=2), result)


@pytest.mark.parametrize("name", RANDOM)
def test_parameters_are_drawn_per_sample(name):
    result = run(RANDOM[name](), noise(1).repeat(8, 1, 1, 1))
    assert all(not torch.allclose(result[a], result[b]) for a in range(8) for b in range(a))


@pytest.mark.parametrize("name", RANDOM)
def test_other_keys_pass_and_all_named_keys_change_alike(name):
    transform = RANDOM[name]()
    transform.keys = ("image", "twin")
    images, label = noise(3), torch.zeros(3)
    result = transform({"image": images, "twin": images.clone(), "label": label})
    assert torch.equal(result["image"], result["twin"])
    assert result["label"] is label


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16])
def test_whole_pipeline_is_fixed_by_the_seed_of_its_compose(dtype):
    top = 256 if dtype == torch.uint8 else 65536
    images = (noise(5, 64) * (top - 1)).to(torch.int32).to(dtype)
    composed = pipeline()
    result = run(composed, images, seed=4)
    assert type(result) is torch.Tensor
    assert not isinstance(result, MetaTensor)
    assert (result.shape, result.dtype) == ((10, 1, 32, 32), torch.float32)
    assert -2 <= result.min() < result.max() <= 2
    assert torch.equal(run(pipeline(), images, seed=4), result)
    assert not torch.equal(run(composed, images, seed=5), result)
    first, second = result.chunk(2)
    assert all(not torch.allclose(a, b, atol=0.1) for a, b in zip(first, second, strict=True))


def test_repeat_puts_whole_views_after_each_other():
    images = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 1, 2, 2)
    result = BatchRepeatd("image", times=3)({"image": images})["image"]
    assert result[:, 0, 0, 0].tolist() == [0, 1, 2] * 3
    assert result.dtype == torch.uint8


@pytest.mark.parametrize(("dtype", "top"), [(torch.uint8, 255), (torch.uint16, 65535)])
def test_scale_maps_the_range_of_the_type(dtype, top):
    values = torch.tensor([0, 1, top // 3, top]).to(dtype).reshape(1, 1, 2, 2)
    result = BatchScaleIntensityd("image")({"image": values})["image"]
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.flatten().numpy(), [0, 1 / top, 1 / 3, 1], rtol=1e-6)


def test_scale_lets_floats_pass_and_refuses_other_integers():
    images = noise(dtype=torch.float64)
    assert BatchScaleIntensityd("image")({"image": images})["image"] is images
    with pytest.raises(CxrError, match="int32"):
        BatchScaleIntensityd("image")({"image": images.int()})


def test_normalize():
    result = BatchNormalized("image", mean=0.4, std=0.2)({"image": torch.tensor([[[[0.4, 0.6], [0.0, 1.0]]]])})["image"]
    np.testing.assert_allclose(result.flatten().numpy(), [0, 1, -2, 3], atol=1e-6)


def test_resize():
    images = noise(2, 48, torch.float64)
    resize = lambda size: BatchResized("image", size)({"image": images})["image"]  # noqa: E731
    assert resize(48) is images
    by_area = [cv2.resize(image[0].numpy(), (16, 16), interpolation=cv2.INTER_AREA) for image in images]
    np.testing.assert_allclose(resize(16)[:, 0].numpy(), by_area, atol=1e-12)
    constant = torch.full((1, 1, 48, 48), 0.3)
    for size in (20, 60):
        result = BatchResized("image", size)({"image": constant})["image"]
        assert result.shape == (1, 1, size, size)
        torch.testing.assert_close(result, torch.full_like(result, 0.3))
    board = (torch.arange(48)[:, None] + torch.arange(48)).remainder(2).float()[None, None]
    assert (BatchResized("image", 20)({"image": board})["image"] - 0.5).abs().max() < 0.05


# geometry


def still(size, **options):
    return BatchRandGeometryd(
        "image", size, **{"scale": (1, 1), "ratio": (1, 1), "rotate": 0, "flip_prob": 0, **options}
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [32, 33])
def test_nothing_asked_is_the_identity(dtype, size):
    images = noise(3, size, dtype)
    torch.testing.assert_close(run(still(size), images), images, rtol=0, atol=1e-5)


def test_pure_flip():
    images = noise(3)
    torch.testing.assert_close(run(still(32, flip_prob=1), images), images.flip(-1), rtol=0, atol=1e-5)


def test_share_of_flips():
    transform = still(32, flip_prob=0.3)
    transform.set_random_state(seed=0)
    transform.randomize(4000)
    assert (transform.theta[:, 0, 0] < 0).mean() == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize("flip_prob", [0, 1])
def test_rotation_has_the_sense_and_size_that_opencv_gives_it(flip_prob):
    """Positive is counter-clockwise as seen; a flip comes first of all in the result's own frame."""
    size = 48
    images = torch.from_numpy(gaussian_filter(noise(1, size).numpy(), (0, 0, 2, 2)))
    images = (images - images.min()) / (images.max() - images.min())
    transform = still(size, rotate=30, flip_prob=flip_prob)
    result = run(transform, images.repeat(6, 1, 1, 1))
    angles = np.rad2deg(np.arctan2(-transform.theta[:, 0, 1], transform.theta[:, 1, 1]))
    assert angles.min() < -5
    assert angles.max() > 5
    for rotated, angle in zip(result[:, 0].numpy(), angles, strict=True):

        def by_opencv(degrees):
            matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), float(degrees), 1)
            turned = cv2.warpAffine(images[0, 0].numpy(), matrix, (size, size), flags=cv2.INTER_LINEAR)
            return turned[:, ::-1] if flip_prob else turned

        assert np.abs(rotated - by_opencv(angle)).max() < 0.02
        assert abs(angle) < 2 or np.abs(rotated - by_opencv(-angle)).max() > 0.1


def crops(count=3000, seed=0, **options):
    """Width, height, angle, centre (x, y) and flip of drawn crops, from `theta` alone; the image spans −1 to 1."""
    transform = BatchRandGeometryd("image", 32, **options)
    transform.set_random_state(seed=seed)
    transform.randomize(count)
    theta = transform.theta.astype(float)
    width, height = np.linalg.norm(theta[:, :, 0], axis=1), np.linalg.norm(theta[:, :, 1], axis=1)
    np.testing.assert_allclose((theta[:, :, 0] * theta[:, :, 1]).sum(1), 0, atol=1e-6)  # no shear
    angle = np.rad2deg(np.arctan2(-theta[:, 0, 1], theta[:, 1, 1]))
    return width, height, angle, theta[:, 0, 2], theta[:, 1, 2]


@pytest.mark.parametrize("scale", [(0.3, 1.0), (0.05, 0.2), (0.9, 1.0), (1.0, 1.0)])
@pytest.mark.parametrize("ratio", [(3 / 4, 4 / 3), (1, 1), (0.5, 2.0)])
def test_crops_are_of_the_asked_area_and_inside_the_image(scale, ratio):
    width, height, angle, x, y = crops(scale=scale, ratio=ratio, rotate=0)
    area, aspect = width * height, width / height
    assert (area >= scale[0] - 1e-5).all()
    assert (area <= scale[1] + 1e-5).all()
    assert area.mean() == pytest.approx(np.mean(scale), abs=0.03)
    assert area.std() == pytest.approx((scale[1] - scale[0]) / 12**0.5, abs=0.02)
    assert (aspect >= ratio[0] - 1e-5).all()
    assert (aspect <= ratio[1] + 1e-5).all()
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.02)
    assert (np.abs(x) + width <= 1 + 1e-5).all()
    assert (np.abs(y) + height <= 1 + 1e-5).all()
    assert np.allclose(angle, 0)


def test_small_crops_take_all_places_and_aspects():
    width, height, _, x, y = crops(scale=(0.1, 0.1), ratio=(0.5, 2), rotate=0)
    for place, side in ((x, width), (y, height)):
        relative = place / (1 - side)
        assert np.abs(relative.mean()) < 0.05
        assert relative.std() == pytest.approx(3**-0.5, abs=0.03)
    assert np.log2(width / height).std() == pytest.approx(3**-0.5, abs=0.03)
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.06


def test_rotation_and_shift_stay_in_range():
    *_, angle, x, y = crops(scale=(1, 1), ratio=(1, 1), rotate=12, shift=0.1)
    for values, largest in ((angle, 12), (x, 0.2), (y, 0.2)):
        assert 0.98 * largest < values.max() <= largest + 1e-4
        assert -0.98 * largest > values.min() >= -largest - 1e-4


def test_crops_larger_than_the_image_keep_it_inside():
    width, height, _, x, y = crops(scale=(1.2, 2.0), ratio=(1, 1), rotate=0)
    assert (width <= 2**0.5 + 1e-5).all()
    assert (np.abs(x) + 1 <= width + 1e-5).all()
    assert (np.abs(y) + 1 <= height + 1e-5).all()


def test_crop_of_whole_pixels_is_plain_slicing():
    images = noise(2, 64)
    theta = [[0.5, 0, 0], [0, 0.5, -0.25]]  # columns 16 to 48, rows 8 to 40
    cut = images[:, :, 8:40, 16:48]
    torch.testing.assert_close(run(fixed(still(32), theta), images), cut, rtol=0, atol=1e-5)
    torch.testing.assert_close(run(fixed(still(16), theta), images), F.avg_pool2d(cut, 2), rtol=0, atol=1e-5)
    twice = F.interpolate(cut, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(
        run(fixed(still(64), theta), images)[..., 1:-1, 1:-1], twice[..., 1:-1, 1:-1], rtol=0, atol=1e-5
    )


def scene(x, y):
    """A smooth radiograph of numbers in units where the image spans −1 to 1."""
    return 0.5 + 0.2 * np.sin(2.1 * x + 0.4) * np.cos(1.3 * y) + 0.15 * np.sin(2.6 * y - x)


def centres(size):
    places = (2 * np.arange(size) + 1) / size - 1
    return np.meshgrid(places, places)


@pytest.mark.parametrize("size", [64, 96, 90, 117])
@pytest.mark.parametrize("out", [16, 40, 128])
def test_every_crop_shows_what_lies_there(size, out):
    """Against the scene itself rather than another resampler, over all levels of the pyramid and for odd sizes."""
    image = torch.from_numpy(scene(*centres(size)))[None, None]
    transform = BatchRandGeometryd("image", out, scale=(0.1, 1.0), rotate=15)
    result = run(transform, image.repeat(12, 1, 1, 1))[:, 0].numpy()
    x, y = centres(out)
    compared = 0
    for row, theta in zip(result, transform.theta, strict=True):
        there = [theta[k, 0] * x + theta[k, 1] * y + theta[k, 2] for k in range(2)]
        margin = 1 - 2 * max(1 / out, 4 / size)  # next to the edge black is blended in
        inside = np.maximum(*np.abs(there)) < margin
        assert np.abs(row - scene(*there))[inside].max() < 0.012
        compared += inside.sum()
    assert compared > 6 * out**2


def test_outside_is_black_and_the_far_edge_of_odd_sizes_is_kept():
    images = torch.ones(1, 1, 90, 90)
    result = run(fixed(still(10), [[1, 0, 0], [0, 1, 0]]), images)
    assert (result[..., 1:-1, 1:-1] == 1).all()
    assert result.min() > 0.85
    torch.testing.assert_close(result, result.flip(-1).flip(-2), rtol=0, atol=0.1)
    assert (run(fixed(still(10), [[1, 0, 3], [0, 1, 0]]), images) == 0).all()


@pytest.mark.parametrize("rotate", [0, 10])
def test_nothing_aliases(rotate):
    board = (torch.arange(64)[:, None] + torch.arange(64)).remainder(2).float()[None, None].repeat(8, 1, 1, 1)
    result = run(still(16, rotate=rotate), board)
    assert (result[..., 3:-3, 3:-3] - 0.5).abs().max() < 1e-3
    random = noise(8, 64)
    ratio = run(still(16, rotate=rotate), random)[..., 3:-3, 3:-3].var() / random.var()
    assert ratio < 0.09  # area averages of 16 pixels have a variance of 1/16; a bilinear sample has 1/4


def test_levels_of_a_mixed_batch_land_in_their_own_rows():
    images = torch.from_numpy(gaussian_filter(noise(16, 64).numpy(), (0, 0, 2, 2)))
    transform = BatchRandGeometryd("image", 16, scale=(0.02, 1.0), rotate=0)
    result = run(transform, images)
    assert len({round(float(np.log2(np.abs(np.linalg.det(m[:, :2]))) / 2)) for m in transform.theta}) > 1
    theta = transform.theta
    for k in range(16):
        alone = run(fixed(still(16), theta[k]), images[k : k + 1])
        torch.testing.assert_close(result[k : k + 1], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [(0, 1), (0.5, 0.3), (-1, 1)])
def test_impossible_scale(scale):
    with pytest.raises(CxrError, match="scale"):
        BatchRandGeometryd("image", 32, scale=scale)


# intensity


def test_intensity_is_the_closed_form():
    images = noise(32, 16, torch.float64)
    transform = BatchRandIntensityd("image", brightness=0.3, contrast=0.5, gamma=2.0, prob=0.7)
    result = run(transform, images).numpy()
    contrast, brightness, gamma = transform.factors.astype(float)
    changed = 0
    for k, image in enumerate(images.numpy()):
        bent = image ** gamma[k]
        expected = np.clip((bent - bent.mean()) * contrast[k] + bent.mean() + brightness[k], 0, 1)
        np.testing.assert_allclose(result[k], expected, atol=1e-12)
        changed += (contrast[k], brightness[k], gamma[k]) != (1, 0, 1)
    assert 15 < changed < 30
    assert result.min() == 0
    assert result.max() == 1


def test_intensity_draws_in_range():
    transform = BatchRandIntensityd("image", brightness=0.2, contrast=0.4, gamma=1.5, prob=1)
    transform.set_random_state(seed=0)
    transform.randomize(4000)
    contrast, brightness, gamma = transform.factors
    for values, largest in ((contrast - 1, 0.4), (brightness, 0.2), (np.log(gamma), np.log(1.5))):
        assert 0.98 * largest < values.max() <= largest + 1e-6
        assert -0.98 * largest > values.min() >= -largest - 1e-6
        assert abs(values.mean()) < 0.05 * largest


@pytest.mark.parametrize("name", ["intensity", "blur"])
def test_probability_zero_changes_nothing(name):
    images = noise()
    transform = {"intensity": BatchRandIntensityd, "blur": BatchRandBlurd}[name]("image", prob=0.0)
    torch.testing.assert_close(run(transform, images), images, rtol=0, atol=1e-7)


# blur


@pytest.mark.parametrize("channels", [1, 3])
def test_blur_is_scipys_gaussian_with_mirrored_border(channels):
    images = noise(12 * channels, 24, torch.float64).reshape(12, channels, 24, 24)
    transform = BatchRandBlurd("image", sigma=(0.3, 2.0), prob=0.6)
    result = run(transform, images)
    widths = dict(zip(transform.chosen.tolist(), transform.sigma, strict=True))
    assert 2 < len(widths) < 12
    assert len(set(widths.values())) == len(widths)
    for k, (image, blurred) in enumerate(zip(images, result, strict=True)):
        if k not in widths:
            assert torch.equal(blurred, image)
            continue
        assert 0.3 <= widths[k] <= 2.0
        expected = [gaussian_filter(plane, widths[k], mode="mirror", radius=6) for plane in image.numpy()]
        np.testing.assert_allclose(blurred.numpy(), expected, atol=1e-12)


def test_blur_wider_than_the_image_and_of_no_width():
    images = noise(2, 8)
    wide = run(BatchRandBlurd("image", sigma=(5, 5), prob=1), images)
    assert wide.std() < 0.2 * images.std()
    torch.testing.assert_close(run(BatchRandBlurd("image", sigma=(0, 0), prob=1), images), images, rtol=0, atol=1e-6)


def test_equalisation_is_that_of_a_plain_loop_and_leaves_padding_black():
    rng = np.random.default_rng(0)
    images = (rng.integers(40, 90, (3, 1, 20, 24)) / 255).astype(np.float32)
    images[0, :, :5] = 0
    images[2] = 0.4
    images[2, :, :3] = 0
    found = BatchEqualizeHistogramd("image")({"image": torch.from_numpy(images)})["image"].numpy()
    for k in range(2):
        levels = np.rint(images[k, 0] * 255).astype(int)
        inside = levels[levels > 0]
        lowest, cumulated = (inside == inside.min()).sum(), [(inside <= level).sum() for level in range(256)]
        for y, x in np.ndindex(levels.shape):
            level = levels[y, x]
            expected = (1 + 254 * (cumulated[level] - lowest) / (len(inside) - lowest)) / 255 if level else 0
            assert found[k, 0, y, x] == pytest.approx(expected, abs=1e-6)
        assert np.unique(found[k][found[k] > 0]).max() == pytest.approx(1)
    np.testing.assert_array_equal(found[2], images[2])
