"""The mask file: what pycocotools reads back, atomic, and refused where it is damaged."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as coco

from cxrmonai.data.mask_file import MaskFileWriter, read_mask_file
from cxrmonai.errors import CxrError


@pytest.fixture(scope="module")
def masks():
    """Three images of their own sizes, two tasks, one mask empty."""
    random = np.random.default_rng(0)
    shapes = {"patient1_study1_view1_frontal": (30, 21), "b": (7, 50), "c": (1, 1)}
    made = {
        name: {task: random.random(shape) < 0.4 for task in ("Edema", "Lung Lesion")} for name, shape in shapes.items()
    }
    made["b"]["Edema"][:] = False
    return made


@pytest.fixture
def written(masks, tmp_path):
    write(tmp_path / "masks.json", *masks.items())
    return tmp_path / "masks.json"


def test_pycocotools_reads_what_was_written(written, masks):
    content = json.loads(written.read_text())
    assert list(content) == list(masks)
    for image_id, tasks in content.items():
        assert tasks.keys() == masks[image_id].keys()
        for task, rle in tasks.items():
            assert rle["size"] == list(masks[image_id][task].shape)
            np.testing.assert_array_equal(coco.decode({**rle, "counts": rle["counts"].encode()}), masks[image_id][task])


def test_what_is_read_is_what_was_written(written, masks):
    found = read_mask_file(written)
    assert len(found) == 3
    assert list(found) == list(masks)
    for image_id, tasks in masks.items():
        assert found.tasks(image_id) == list(tasks)
        for task, mask in found[image_id].items():
            assert mask.dtype == bool
            np.testing.assert_array_equal(mask, tasks[task])
    with pytest.raises(CxrError, match="no mask of Mass for the image b"):
        found.mask("b", "Mass")


def test_an_empty_file_is_json(tmp_path):
    with MaskFileWriter(tmp_path / "none.json"):
        pass
    assert len(read_mask_file(tmp_path / "none.json")) == 0


def write(path, *images):
    with MaskFileWriter(path) as writer:
        for image_id, each in images:
            writer.add(image_id, each)


def test_a_run_that_fails_leaves_nothing(tmp_path, masks):
    with pytest.raises(TypeError):
        write(tmp_path / "masks.json", ("b", masks["b"]), ("d", 3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("image_id", "change", "match"),
    [
        ("b", lambda each: each, "has the image b already"),
        ("d", lambda each: {"Edema": each["Edema"]}, "same tasks; d differs in Lung Lesion"),
        ("d", lambda each: {**each, "Edema": each["Edema"][:3]}, "differ in size"),
        ("d", lambda each: {}, "no task"),
    ],
)
def test_images_must_be_alike(tmp_path, masks, image_id, change, match):
    with pytest.raises(CxrError, match=match):
        write(tmp_path / "masks.json", ("b", masks["b"]), (image_id, change(masks["b"])))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "match"),
    [("{", "no JSON"), ("[]", "layout"), ('{"a": {"Edema": [1]}}', "layout"), ('{"a": 3}', "layout")],
)
def test_other_files_are_refused(tmp_path, text, match):
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(CxrError, match=match):
        read_mask_file(tmp_path / "odd.json")
    with pytest.raises(CxrError, match="no such file"):
        read_mask_file(tmp_path / "absent.json")


def test_damaged_run_lengths_name_image_and_task(tmp_path):
    (tmp_path / "odd.json").write_text('{"a": {"Edema": {"size": [3, 3], "counts": "1"}}}')
    with pytest.raises(CxrError, match=r"odd\.json: a, Edema: .*do not fit"):
        read_mask_file(tmp_path / "odd.json")["a"]
