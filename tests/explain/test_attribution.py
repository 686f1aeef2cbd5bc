"""Attribution maps against captum, pytorch-grad-cam and loops written out here."""

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.explain import METHODS, attribute, attribute_with_logits
from cxrmonai.networks import Classifier
from cxrmonai.networks import encoder as make_encoder

EDGE = 64
QUICK = {
    "smoothgrad": {"samples": 2},
    "gradientshap": {"samples": 2},
    "integratedgradients": {"steps": 3},
    "occlusion": {"window": 32, "stride": 20},
}


class SmallNet(nn.Module):
    """Two convolutions and a linear head on their average, with ReLUs that act in place."""

    def __init__(self, inplace=True):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 6, 3, 2, 1), nn.ReLU(inplace), nn.Conv2d(6, 9, 3, 2, 1), nn.BatchNorm2d(9), nn.ReLU(inplace)
        )
        self.head = nn.Linear(9, 4)

    def forward(self, images):
        return self.head(self.features(images).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(3)
    network = SmallNet()
    for value in network.parameters():
        nn.init.normal_(value, 0, 0.7)
    return network.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 1, 16, 20, generator=torch.Generator().manual_seed(5))


def classifier(encoder="resnet10t", **options):
    torch.manual_seed(1)
    network = Classifier("a,b,c", encoder, image_size=EDGE, **options)
    nn.init.normal_(network.head.weight, 0, 1)
    with torch.no_grad():
        network.head.weight[1] = -network.head.weight[0]  # so that one of the two has evidence somewhere
    return network.eval()


def squares(count, seed=0):
    return torch.randn(count, 1, EDGE, EDGE, generator=torch.Generator().manual_seed(seed))


def raw(network, images, method, **options):
    return attribute(network, images, method=method, scale=False, **options)


def min_max(maps):
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low)


def captum_map(attribution):
    return lambda network, images, k: attribution(network).attribute(images.clone().requires_grad_(), target=k)


CAPTUM = {
    "saliency": captum_map(captum.attr.Saliency),
    "guidedbackprop": lambda network, images, k: captum_map(captum.attr.GuidedBackprop)(network, images, k).relu(),
    "deconvolution": lambda network, images, k: captum_map(captum.attr.Deconvolution)(network, images, k).relu(),
    "integratedgradients": lambda network, images, k: (
        captum.attr.IntegratedGradients(network).attribute(images, -0.5, target=k, n_steps=7).relu()
    ),
    "occlusion": lambda network, images, k: (
        captum.attr.Occlusion(network)
        .attribute(images, sliding_window_shapes=(1, 6, 6), strides=(1, 4, 4), baselines=-0.5, target=k)
        .relu()
    ),
    "smoothgrad": lambda network, images, k: (
        captum.attr.NoiseTunnel(captum.attr.Saliency(network)).attribute(
            images, nt_type="smoothgrad", nt_samples=2, stdevs=0.0, abs=False, target=k
        )
    ).abs(),
}
OURS = {
    "integratedgradients": {"baseline": -0.5, "steps": 7},
    "occlusion": {"baseline": -0.5, "window": 6, "stride": 4},
    "smoothgrad": {"noise": 0.0, "samples": 2},
}


@pytest.mark.parametrize("method", CAPTUM)
def test_agrees_with_captum(small, images, method):
    plain = SmallNet(inplace=False).eval()  # captum's hooks want ReLUs that do not act in place
    plain.load_state_dict(small.state_dict())
    found = raw(small, images, method, targets=[2, 0], **OURS.get(method, {}))
    for place, k in enumerate((2, 0)):
        theirs = CAPTUM[method](plain, images, k).detach().float()
        torch.testing.assert_close(found[:, place], theirs[:, 0], rtol=1e-4, atol=1e-5)
        assert found[:, place].max() > 0


def test_gradient_shap_is_the_mean_over_its_draws(small, images):
    baselines = torch.stack([torch.zeros_like(images[0]), torch.ones_like(images[0])])
    found = raw(small, images, "gradientshap", targets=[1], baselines=baselines, samples=5, noise=0.2, seed=4)
    random, generator, total = np.random.default_rng(4), torch.Generator().manual_seed(4), 0
    for _ in range(5):
        noisy = images + 0.2 * torch.randn(images.shape[1:], generator=generator)
        baseline, way = baselines[random.integers(2)], random.uniform()
        point = (baseline + way * (noisy - baseline)).requires_grad_()
        total = total + torch.autograd.grad(small(point)[:, 1].sum(), point)[0] * (noisy - baseline)
    torch.testing.assert_close(found[:, 0], (total / 5)[:, 0].relu(), rtol=1e-4, atol=1e-6)


def test_integrated_gradients_add_up_to_the_difference_of_logits(small, images):
    from cxrmonai.explain.input_gradients import input_slopes

    places, weights = np.polynomial.legendre.leggauss(32)
    total = sum(
        weight / 2 * input_slopes(small, images * (place + 1) / 2, [1])[0][:, 0]
        for place, weight in zip(places, weights, strict=True)
    )
    expected = (small(images) - small(torch.zeros_like(images)))[:, 1]
    torch.testing.assert_close((total * images).sum((1, 2, 3)).float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(
    ("method", "reference"), [("gradcam", GradCAM), ("gradcampp", GradCAMPlusPlus), ("scorecam", ScoreCAM)]
)
def test_agrees_with_pytorch_grad_cam(small, images, method, reference, monkeypatch):
    # its Score-CAM enlarges masks with corners aligned, and so half a cell off what it overlays
    monkeypatch.setattr(nn, "UpsamplingBilinear2d", lambda size: nn.Upsample(size=tuple(size), mode="bilinear"))
    found = attribute(small, images, [1, 3], method, layer="features", size=None)
    for place, k in enumerate((1, 3)):
        with reference(model=small, target_layers=[small.features]) as maps:
            targets = [ClassifierOutputTarget(k)] * len(images)
            theirs = maps(input_tensor=images.clone().requires_grad_(), targets=targets)
        theirs = min_max(torch.from_numpy(theirs)).nan_to_num()
        torch.testing.assert_close(found[:, place], theirs, rtol=0, atol=0.02)


def test_guided_gradcam_is_the_product(small, images):
    coarse = raw(small, images, "gradcam", layer="features")
    fine = raw(small, images, "guidedbackprop")
    torch.testing.assert_close(raw(small, images, "guidedgradcam", layer="features"), coarse * fine)


def test_cam_equals_gradcam_up_to_scale_on_an_averaging_linear_network():
    network, given = classifier(), squares(4)
    one, other = (raw(network, given, method, size=2) for method in ("cam", "gradcam"))
    torch.testing.assert_close(one, other * 4, rtol=1e-4, atol=1e-5)  # a mean over 2×2 cells has slopes of a quarter
    assert (one.amax((2, 3)) > 0).sum() >= 4
    torch.testing.assert_close(attribute(network, given, method="cam"), attribute(network, given), rtol=0, atol=1e-3)


@pytest.mark.parametrize("method", ["cam", "gradcam"])
def test_evidence_against_a_class_is_kept_on_request(method):
    network, given = classifier(), squares(2)
    signed = raw(network, given, method, size=2, positive=False)
    assert (signed < 0).any()
    torch.testing.assert_close(signed.relu(), raw(network, given, method, size=2))
    scaled_to_one = attribute(network, given, method=method, positive=False).amax((2, 3))
    torch.testing.assert_close(scaled_to_one, torch.ones_like(scaled_to_one))


def test_pcam_is_the_probability_at_each_position():
    network, given = classifier(pooling="PCAM"), squares(2)
    maps, logits = attribute_with_logits(network, given, [2, 1], "pcam", size=2, scale=False)
    with torch.no_grad():
        torch.testing.assert_close(maps, network.class_maps(given)[:, [2, 1]])
        torch.testing.assert_close(logits, network(given))


ARCHITECTURES = {
    "vit": {"encoder": "vit_tiny_patch16_224"},
    "convnext": {"encoder": "convnext_atto"},
    "pcam": {"pooling": "PCAM"},
    "lse": {"pooling": "LSE"},
    "both": {"pooling": "AVG_MAX"},
    "channels": {"attention": "CAM"},
    "position": {"attention": "SAM"},
    "pyramid": {"attention": "FPA"},
}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_gradcam_of_every_head_equals_a_backward_pass_through_the_whole_network(name):
    network, given, kept = classifier(**ARCHITECTURES[name]), squares(2), []
    if name == "position":
        nn.init.constant_(network.attention.gate, 0.5)
    handle = network.attention.register_forward_hook(lambda module, inputs, output: kept.append(output))
    logits = network(given)
    handle.remove()
    expected = []
    for k in range(3):
        (slope,) = torch.autograd.grad(logits[:, k].sum(), kept[0], retain_graph=True)
        expected.append((slope.mean((2, 3), keepdim=True) * kept[0]).sum(1).relu())
    found = attribute_with_logits(network, given, method="gradcam", size=kept[0].shape[2], scale=False)
    torch.testing.assert_close(found.maps, torch.stack(expected, 1).detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.logits, logits.detach())
    assert found.maps.any()


@pytest.mark.parametrize("encoder", ["resnet10t", "vit_tiny_patch16_224"])
def test_native_pooling_has_maps_as_well(encoder):
    network = classifier(encoder, pooling="NATIVE")
    maps, logits = attribute_with_logits(network, squares(2))
    assert maps.shape == (2, 3, EDGE, EDGE)
    assert maps.any()
    torch.testing.assert_close(logits, network(squares(2)).detach())
    assert "forward_features" not in network.encoder.__dict__


def test_a_layer_is_seen_in_its_own_resolution():
    network = classifier()
    coarse = attribute_with_logits(network, squares(1)).maps
    fine = raw(network, squares(1), "gradcam", layer="encoder.layer3", size=4)
    assert fine.shape == (1, 3, 4, 4)
    assert max(len(each.unique()) for each in fine[0]) > 4
    same = attribute(network, squares(1), layer="encoder.layer4")
    torch.testing.assert_close(same, coarse, rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_its_images_one_by_one(method):
    network = classifier(pooling="PCAM") if method != "scorecam" else SmallNet().eval()
    given = squares(3)[..., : EDGE if method != "scorecam" else 24]
    options = {**QUICK.get(method, {}), **({"layer": "features"} if method == "scorecam" else {})}
    whole = attribute_with_logits(network, given, [1, 0], method, **options)
    single = [attribute_with_logits(network, given[k : k + 1], [1, 0], method, **options) for k in range(3)]
    torch.testing.assert_close(whole.maps, torch.cat([each.maps for each in single]), rtol=0, atol=2e-3)
    torch.testing.assert_close(whole.logits, torch.cat([each.logits for each in single]), rtol=1e-4, atol=1e-4)
    assert whole.maps.dtype == torch.float32
    assert whole.maps.min() == 0
    assert whole.maps.max() <= 1
    peaks = whole.maps.amax((2, 3))
    torch.testing.assert_close(peaks[peaks > 0], torch.ones_like(peaks[peaks > 0]))
    one = attribute(network, given, [0], method, **options)
    torch.testing.assert_close(one[:, 0], whole.maps[:, 1], rtol=0, atol=2e-3)


def test_the_map_is_high_where_the_evidence_is():
    network = SmallNet().eval()
    with torch.no_grad():
        for value in network.parameters():
            value.fill_(0.1)
    image = torch.zeros(1, 1, 24, 24)
    image[..., 4:8, 14:18] = 1
    for method, options in (
        ("gradcam", {"layer": "features"}),
        ("occlusion", {"window": 4}),
        ("integratedgradients", {}),
    ):
        heat = attribute(network, image, [0], method, **options)[0, 0]
        inside = heat[2:10, 12:20].mean()
        assert inside > 3 * (heat.sum() - 64 * inside) / (24 * 24 - 64), method


def test_cells_of_an_encoder_that_keeps_its_resolution_are_put_where_they_look():
    """With even weights the map is the image, blurred: a dot's middle must stay, and 1.5 px off it would without."""
    network = Classifier("A", make_encoder("test_resnet", output_stride=4, depth=3)).double().eval()
    for path, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
        if isinstance(module, nn.MaxPool2d):
            network.set_submodule(path, nn.AvgPool2d(module.kernel_size, module.stride, module.padding))
    nn.init.constant_(network.head.weight, 1.0)
    images = torch.zeros(4, 1, 96, 96, dtype=torch.float64)
    for k, (row, column) in enumerate(((46, 44), (47, 51), (44, 49), (45, 46))):
        images[k, 0, row, column] = 1
    maps = attribute(network, images, method="cam", scale=False).double()[:, 0]
    place = torch.arange(96) + 0.5
    middle = torch.stack([(maps.sum(2) * place).sum(1), (maps.sum(1) * place).sum(1)]) / maps.sum((1, 2))
    assert middle.mean(1).tolist() == pytest.approx([46, 48], abs=0.6)
    assert attribute(network, images, method="cam", scale=False, size=24).shape == (4, 1, 24, 24)


def test_a_constant_map_is_zero_and_rounding_does_not_show():
    network = SmallNet().eval()
    nn.init.zeros_(network.head.weight)
    given = torch.randn(2, 1, 16, 16)
    for method in METHODS:
        if method not in ("cam", "pcam", "scorecam"):  # which compares logits, and takes all maps where they are equal
            options = {"layer": "features"} if method in ("gradcam", "gradcampp", "guidedgradcam") else {}
            assert not attribute(network, given, method=method, **options).any(), method
    from cxrmonai.explain.scaling import scaled

    flat = torch.full((1, 1, 5, 5), 0.3) + torch.rand(1, 1, 5, 5) * 1e-8
    assert not scaled(flat).any()
    assert not scaled(F.interpolate(torch.full((1, 1, 3, 3), 0.7), size=(31, 31), mode="bilinear")).any()


def test_leaves_the_network_as_it_was_and_works_where_gradients_are_off():
    network = classifier().train()
    network.encoder.layer1.eval()
    modes = [module.training for module in network.modules()]
    state = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        inside = attribute(network, squares(2), method="guidedgradcam")
    with torch.no_grad():
        torch.testing.assert_close(attribute(network, squares(2), method="guidedgradcam"), inside.clone())
    assert [module.training for module in network.modules()] == modes
    assert all("forward" not in module.__dict__ for module in network.modules())
    assert all(value.grad is None for value in network.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "grad-cam"}, "known are cam, gradcam, gradcampp, scorecam, pcam, guidedbackprop"),
        ({"method": "cam", "layer": "x"}, "no option 'layer'; it has size, scale"),
        ({"method": "pcam"}, "--pooling PCAM"),
        ({"targets": [3]}, "no class 3; the network has 3"),
        ({"layer": "encoder.layer9"}, "encoder.layer4"),
        ({"method": "occlusion", "window": 100}, "window 100"),
        ({"method": "smoothgrad", "samples": 0}, "samples 0"),
    ],
)
def test_refuses_in_one_sentence(options, words):
    with pytest.raises(CxrError, match=words):
        attribute(classifier(), squares(1), **options)


def test_refuses_what_has_no_maps(small, images):
    with pytest.raises(CxrError, match="Give layer"):
        attribute(small, images)
    with pytest.raises(CxrError, match="AVG_MAX has no maps"):
        attribute(classifier(pooling="AVG_MAX"), squares(1), method="cam")
    with pytest.raises(CxrError, match="not finite"):
        attribute(classifier(), squares(1) * torch.nan)
    with pytest.raises(CxrError, match="neither maps nor tokens"):
        attribute(small, images, layer="head")
