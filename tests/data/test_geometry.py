"""From original to store pixels and back, checked against what is drawn in the images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxrmonai.data.geometry import (
    boxes_to_original,
    boxes_to_store,
    content_window,
    letterbox,
    letterbox_geometry,
    map_to_original,
    mask_to_original,
    points_to_original,
    points_to_store,
)
from cxrmonai.errors import CxrError

SIDES = st.integers(1, 3000)
SIZES = st.integers(16, 512)
UNIT = st.floats(0, 1)


@given(SIDES, SIDES, SIZES, st.lists(UNIT, min_size=4, max_size=4), st.sampled_from([None, 1, 4, 2.5]))
def test_there_and_back_is_where_it_was(height, width, size, place, factor):
    original = None if factor is None else (height * factor, width * factor)
    geometry = letterbox_geometry(height, width, size, original)
    frame = geometry[[1, 0]]
    box = np.concatenate([place[:2] * frame, place[2:] * frame])
    assert np.abs(boxes_to_original(boxes_to_store(box, geometry), geometry) - box).max() < 1e-9 * max(1, frame.max())
    point = box[:2]
    back = points_to_original(points_to_store(point, geometry), geometry)
    assert np.abs(back - point).max() < 1e-9 * max(1, frame.max())


@given(SIDES, SIDES, SIZES, st.sampled_from([None, 4]))
def test_the_whole_image_is_the_content_window(height, width, size, factor):
    geometry = letterbox_geometry(height, width, size, None if factor is None else (height * factor, width * factor))
    rows, columns = content_window(geometry)
    x, y, w, h = boxes_to_store([0, 0, geometry[1], geometry[0]], geometry)
    assert (y, y + h) == pytest.approx((rows.start, rows.stop), abs=1e-9)
    assert (x, x + w) == pytest.approx((columns.start, columns.stop), abs=1e-9)
    assert rows.start >= 0
    assert rows.stop <= size
    assert columns.start >= 0
    assert columns.stop <= size
    assert max(rows.stop - rows.start, columns.stop - columns.start) == size


@pytest.mark.parametrize(
    ("shape", "size"),
    [((100, 60), 33), ((61, 97), 64), ((1, 1000), 32), ((1000, 1), 31), ((7, 5), 64), ((64, 64), 64), ((33, 32), 16)],
)
def test_letterbox_keeps_the_aspect_and_centres(shape, size):
    boxed = letterbox(np.full(shape, 200, np.uint8), size)
    assert boxed.shape == (size, size)
    assert boxed.dtype == np.uint8
    scale = size / max(shape)
    filled = [np.flatnonzero(boxed.any(axis)) for axis in (1, 0)]
    for places, side in zip(filled, shape, strict=True):
        assert abs(len(places) - side * scale) <= 0.5 or len(places) == 1
        assert places[-1] - places[0] + 1 == len(places)
        assert 0 <= (size - 1 - places[-1]) - places[0] <= 1
    window = content_window(letterbox_geometry(*shape, size))
    assert (boxed[window] == 200).all()
    assert boxed.sum(dtype=int) == 200 * boxed[window].size


def bright_box(image):
    """[x, y, w, h] of the bright region in continuous coordinates; an edge is where its rise has its centre."""
    edges = []
    for profile in (image.max(0), image.max(1)):
        steps = np.diff(profile / profile.max(), prepend=0, append=0)
        places = np.arange(len(steps))
        edges.append([np.average(places, weights=np.maximum(sign * steps, 0)) for sign in (1, -1)])
    (left, right), (top, bottom) = edges
    return np.array([left, top, right - left, bottom - top])


def edge_errors(first, second):
    return np.abs([*(first - second)[:2], *(first[:2] + first[2:] - second[:2] - second[2:])])


@pytest.mark.parametrize("file_size", [256, 1024])
@pytest.mark.parametrize("size", [64, 100, 224, 333])
@pytest.mark.parametrize("box", [(100, 200, 300, 160), (0, 0, 64, 64), (960, 900, 64, 124), (511, 37, 222, 405)])
def test_a_box_in_1024_coordinates_lands_on_what_was_drawn(file_size, size, box):
    x, y, w, h = box
    published = np.zeros((1024, 1024), np.uint8)
    published[y : y + h, x : x + w] = 255
    file = cv2.resize(published, (file_size, file_size), interpolation=cv2.INTER_AREA)
    store = letterbox(file, size)
    mapped = boxes_to_store(box, letterbox_geometry(file_size, file_size, size, (1024, 1024)))
    assert edge_errors(mapped, bright_box(store)).max() <= 0.5


@pytest.mark.parametrize("shape", [(300, 170), (171, 400), (123, 123)])
@pytest.mark.parametrize("size", [64, 97])
def test_a_box_lands_on_what_was_drawn_in_other_shapes(shape, size):
    x, y, w, h = shape[1] // 5, shape[0] // 3, shape[1] // 2, shape[0] // 4
    image = np.zeros(shape, np.uint8)
    image[y : y + h, x : x + w] = 255
    mapped = boxes_to_store((x, y, w, h), letterbox_geometry(*shape, size))
    assert edge_errors(mapped, bright_box(letterbox(image, size))).max() <= 0.5


@pytest.mark.parametrize(("shape", "size"), [((300, 170), 96), ((171, 400), 128), ((1024, 1024), 128), ((40, 60), 128)])
def test_masks_return_to_their_place(shape, size):
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    drawn = ((rows / shape[0] - 0.4) / 0.3) ** 2 + ((columns / shape[1] - 0.6) / 0.25) ** 2 < 1
    geometry = letterbox_geometry(*shape, size)
    in_store = letterbox(drawn.astype(np.uint8) * 255, size) >= 128
    back = mask_to_original(in_store, geometry)
    assert back.shape == shape
    assert back.dtype == bool
    pixel = max(1, max(shape) / size)
    edge = cv2.distanceTransform(drawn.astype(np.uint8), cv2.DIST_L2, 5)
    edge += cv2.distanceTransform((~drawn).astype(np.uint8), cv2.DIST_L2, 5)
    assert edge[back != drawn].max(initial=0) <= 1 + 0.75 * pixel
    assert (back & drawn).sum() / (back | drawn).sum() > 1 - 0.06 * pixel


def test_a_full_and_an_empty_mask_stay_full_and_empty():
    geometry = letterbox_geometry(301, 77, 64)
    full = np.zeros((64, 64), bool)
    full[content_window(geometry)] = True
    assert mask_to_original(full, geometry).all()
    assert not mask_to_original(~full, geometry).any()


def test_map_at_declared_original_size():
    geometry = letterbox_geometry(256, 128, 64, (1024, 512))
    heat = np.zeros((64, 64), np.float32)
    heat[32, 16:48] = np.arange(32)
    original = map_to_original(heat, geometry)
    assert original.shape == (1024, 512)
    assert original.dtype == np.float32
    assert np.flatnonzero(original.max(1)).mean() == pytest.approx(32.5 * 16 - 0.5)
    assert (np.diff(original[520]) >= 0).all()


def test_geometry_of_several_images_at_once():
    several = np.stack([letterbox_geometry(100, 50, 64), letterbox_geometry(30, 90, 64)])
    boxes = np.array([[5.0, 6, 7, 8], [9, 10, 11, 12]])
    together = boxes_to_store(boxes, several)
    apart = [boxes_to_store(box, geometry) for box, geometry in zip(boxes, several, strict=True)]
    np.testing.assert_array_equal(together, apart)


def test_another_aspect_is_refused():
    with pytest.raises(CxrError, match="another aspect"):
        letterbox_geometry(256, 256, 64, (1024, 900))
    letterbox_geometry(256, 213, 64, (1024, 853))  # off by rounding alone


def test_spacing_and_frame_are_kept():
    geometry = letterbox_geometry(256, 128, 64, (1024, 512), (0.2, 0.1))
    assert geometry[[0, 1, 6, 7]].tolist() == [1024, 512, 0.2, 0.1]
    assert np.isnan(letterbox_geometry(256, 128, 64)[6:]).all()
