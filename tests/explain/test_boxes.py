import numpy as np
import pytest

from cxrmonai.data.geometry import boxes_to_store, letterbox_geometry, points_to_store
from cxrmonai.errors import CxrError
from cxrmonai.explain.boxes import find_boxes, find_mask, thresholds

SIZE = 64


def drawn(box, geometry):
    """A map that is 1 inside a box of original pixels."""
    x, y, w, h = boxes_to_store(np.array(box, float), geometry)
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[round(y) : round(y + h), round(x) : round(x + w)] = 1
    return heat


@pytest.mark.parametrize(("height", "width"), [(2544, 3056), (3000, 1200), (50, 64), (64, 64), (1024, 1000)])
def test_a_box_survives_pad_resize_and_back_within_one_store_pixel(height, width):
    geometry = letterbox_geometry(height, width, SIZE)
    pixel = max(height, width) / SIZE
    for box in ([0.1, 0.2, 0.3, 0.4], [0.5, 0.5, 0.5, 0.5], [0.31, 0.62, 0.2, 0.17]):
        box = np.array(box) * [width, height, width, height]
        for rule in ("wang", "otsu", "xray", 0.5):
            found = find_boxes(drawn(box, geometry), geometry, rule)
            assert len(found.boxes) == 1
            np.testing.assert_allclose(found.boxes[0], box, atol=pixel)
            assert found.heat == [1]
        mask = find_mask(drawn(box, geometry), geometry)
        assert mask.shape == (height, width)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert abs(rows[0] - box[1]) <= pixel
        assert abs(rows[-1] + 1 - box[1] - box[3]) <= pixel
        assert abs(columns[0] - box[0]) <= pixel
        assert abs(columns[-1] + 1 - box[0] - box[2]) <= pixel


def test_heat_in_the_padding_gives_no_box():
    geometry = letterbox_geometry(100, 50, SIZE)
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[:, :10] = 1
    assert len(find_boxes(heat, geometry).boxes) == 0
    assert not find_mask(heat, geometry).any()


@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_a_constant_map_gives_no_box_and_an_empty_mask(value):
    geometry = letterbox_geometry(80, 60, SIZE)
    heat = np.full((SIZE, SIZE), value, np.float32)
    for rule in ("wang", "otsu", "xray", 0.3):
        assert find_boxes(heat, geometry, rule).boxes.shape == (0, 4)
        assert not find_mask(heat, geometry, rule).any()


def test_wang_has_the_boxes_of_both_thresholds():
    heat = np.zeros((SIZE, SIZE), np.float32)
    heat[10:30, 10:30] = 100 / 255
    heat[12:16, 12:16] = heat[22:26, 24:29] = 200 / 255
    heat[40, 40] = 60 / 255  # not above
    heat[50, 50] = heat[51, 51] = 1  # touch by a corner, and are alike at both thresholds
    found = find_boxes(heat, letterbox_geometry(SIZE, SIZE, SIZE))
    expected = {(10, 10, 20, 20), (50, 50, 2, 2), (12, 12, 4, 4), (24, 22, 5, 4)}
    assert {tuple(box) for box in found.boxes.astype(int)} == expected
    assert len(found.boxes) == 4


def test_thresholds():
    heat = np.random.default_rng(0).random((20, 20)).astype(np.float32) ** 4
    assert thresholds(heat, "wang") == (60 / 255, 180 / 255)
    assert thresholds(heat, "xray")[0] == pytest.approx(1.77 * heat.mean(), rel=1e-5)
    assert thresholds(np.sqrt(np.sqrt(heat)), "xray")[0] == 0.77
    levels = np.histogram_bin_edges(heat, 256)
    cuts = (levels[:-1] + levels[1:]) / 2

    def between(cut):
        above = heat > cut
        return above.mean() * (1 - above.mean()) * (heat[above].mean() - heat[~above].mean()) ** 2

    best = max(cuts[1:-1], key=between)
    assert between(thresholds(heat, "otsu")[0]) == pytest.approx(between(best), rel=0.01)
    with pytest.raises(CxrError, match="known are wang, otsu, xray"):
        thresholds(heat, "best")
    with pytest.raises(CxrError, match="must lie in 0–1"):
        thresholds(heat, 1.2)


def test_points_and_boxes_share_one_geometry():
    geometry = letterbox_geometry(300, 200, SIZE)
    corner = points_to_store(np.array([20.0, 30.0]), geometry)
    np.testing.assert_allclose(boxes_to_store(np.array([20.0, 30.0, 5, 5]), geometry)[:2], corner)
