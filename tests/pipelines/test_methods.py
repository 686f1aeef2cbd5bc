"""Which methods there are, and how their images are counted."""

import json

import pytest
import torch
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.pipelines.methods import bundles_folder, choose_methods, find_methods
from cxrmonai.pipelines.pretraining import ImageCounter, Step, plan


def bundle(folder, name, kind, *presets):
    configs = folder / name / "configs"
    (configs / "presets").mkdir(parents=True)
    (configs / "metadata.json").write_text(json.dumps({} if kind is None else {"pretraining": kind}))
    (configs / "train.json").write_text("{}")
    for preset in presets:
        (configs / "presets" / f"{preset}.json").write_text("{}")


def test_methods_are_what_bundles_declare(tmp_path):
    bundle(tmp_path, "alone", "bundle", "variant")
    bundle(tmp_path, "many", "presets", "one", "two")
    bundle(tmp_path, "classifier", None, "big")
    names = [method.name for method in find_methods(tmp_path)]
    assert names == ["untrained", "alone", "one", "two"]
    bundle(tmp_path, "others", "presets", "two", "three")
    found = {method.name: method for method in find_methods(tmp_path)}
    assert list(found) == ["untrained", "alone", "one", "many/two", "three", "others/two"]
    assert [path.name for path in found["others/two"].configs] == ["train.json", "two.json"]


def test_a_declaration_that_is_not_known_is_refused(tmp_path):
    bundle(tmp_path, "odd", "sometimes")
    with pytest.raises(CxrError, match=r"odd/configs/metadata\.json: pretraining 'sometimes'"):
        find_methods(tmp_path)
    with pytest.raises(CxrError, match="--bundles"):
        bundles_folder(str(tmp_path / "absent"))


def test_ours_are_all_there():
    methods = find_methods(bundles_folder())
    assert {"untrained", "simclr", "rotation_shift", "masked", "study_pair", "moco_v2"} <= {
        each.name for each in methods
    }
    assert [method.name for method in choose_methods(methods, "masked,simclr,masked")] == [
        "untrained",
        "masked",
        "simclr",
    ]
    assert choose_methods(methods) == methods
    with pytest.raises(CxrError, match="did you mean simclr"):
        choose_methods(methods, "simcrl")


def test_images_are_counted_where_they_enter_an_encoder():
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 1, 1))
    counter = ImageCounter(16)
    encoder(torch.zeros(5, 1, 16, 16))
    with counter.counting():
        encoder(torch.zeros(6, 1, 16, 16))  # two views of three images
        with torch.no_grad():
            encoder(torch.zeros(3, 1, 16, 16))  # a momentum encoder
        encoder(torch.zeros(8, 1, 8, 8))  # patches of a quarter
    encoder(torch.zeros(5, 1, 16, 16))
    assert counter.images == 6 + 3 + 2


@pytest.mark.parametrize(
    ("step", "images_seen"),
    [
        (Step(128, 100, 15), 20_000),
        (Step(64, 10, 15), 50_000),
        (Step(64, 500, 20), 1000),
        (Step(32, 437, 20), 20_000),
        (Step(32, 437, 20), 1024),
    ],
)
def test_a_plan_sees_the_images_asked_for(step, images_seen):
    made = plan(step, images_seen)
    assert made.images == pytest.approx(images_seen, rel=0.03)
    assert made.steps <= step.loader_steps + 1
    assert made.epochs >= min(step.epochs, images_seen // step.images)


def test_less_than_a_step_is_refused():
    with pytest.raises(CxrError, match="less than one step"):
        plan(Step(128, 100, 15), 50)
