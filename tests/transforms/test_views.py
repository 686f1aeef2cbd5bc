import torch
from monai.transforms import Compose, RandGaussianNoised, RandShiftIntensityd

from cxrmonai.transforms import Viewsd


def make_views(**options):
    steps = [RandShiftIntensityd("image", offsets=1.0, prob=1.0), RandGaussianNoised("image", prob=1.0)]
    return Viewsd(Compose(steps), **options)


def test_each_view_is_drawn_anew_and_the_rest_stays():
    image = torch.zeros(1, 8, 8)
    views = make_views(names=("a", "b", "c")).set_random_state(seed=0)
    item = views({"image": image, "label": 3})
    assert sorted(item) == ["a", "b", "c", "image", "label"]
    assert item["label"] == 3
    assert item["image"] is image
    assert not image.any()
    assert all(item[name].shape == image.shape for name in "abc")
    assert not torch.allclose(item["a"], item["b"])
    assert not torch.allclose(item["b"], item["c"])
    assert not torch.allclose(item["a"].mean(), item["b"].mean(), atol=1e-4)


def test_the_seed_fixes_the_views_also_from_an_outer_compose():
    item = {"image": torch.zeros(1, 8, 8)}
    for outer in (make_views(), Compose([make_views()])):
        first = outer.set_random_state(seed=7)(item)
        assert not torch.allclose(outer(item)["view_1"], first["view_1"])
        again = outer.set_random_state(seed=7)(item)
        other = outer.set_random_state(seed=8)(item)
        for name in ("view_1", "view_2"):
            assert torch.equal(again[name], first[name])
            assert not torch.allclose(other[name], first[name])
