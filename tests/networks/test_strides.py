import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.networks import Classifier, EncoderDescription, encoder, load_classifier, make_segmenter, starting_encoder
from cxrmonai.networks.checkpoints import start_from, stored_settings
from cxrmonai.networks.start import build_of

IMAGES = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["test_resnet", "resnet10t", "seresnet18", "test_efficientnet"])
@pytest.mark.parametrize("stride", [4, 8])
def test_the_last_maps_are_finer_and_weights_fit(name, stride):
    usual, fine = encoder(name), encoder(name, output_stride=stride)
    assert fine.forward_features(IMAGES).shape[-2:] == (64 // stride, 64 // stride)
    assert fine.description == EncoderDescription(name, output_stride=stride)
    fine.load_state_dict(usual.state_dict())


def test_a_small_stem_halves_less():
    assert encoder("resnet10t", output_stride=2).forward_features(IMAGES).shape[-1] == 32
    fine = encoder("resnet18", stem="cifar", output_stride=4)
    assert fine.forward_features(IMAGES).shape[-1] == 16
    assert fine.layer2[0].conv1.stride == fine.layer3[0].conv1.stride == (2, 2)
    assert fine.layer4[0].conv1.stride == (1, 1)


def test_an_encoder_at_its_own_stride_is_as_built():
    torch.manual_seed(0)
    usual = encoder("test_resnet").eval()
    own = encoder("test_resnet", output_stride=32).eval()
    own.load_state_dict(usual.state_dict())
    torch.testing.assert_close(own(IMAGES), usual(IMAGES))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "test_vit",
            {"output_stride": 8},
            "cannot give maps of 1/8 of its input's size; leave it at 0, or take another",
        ),
        ("convnext_atto", {"output_stride": 8}, "'convnext_atto' cannot give maps of 1/8"),
        ("test_resnet", {"output_stride": 64}, "cannot give maps of 1/64"),
        ("test_resnet", {"output_stride": 6}, "output_stride 6: give a power of two"),
        ("test_resnet", {"depth": 5}, "depth 5: encoder 'test_resnet' has 4 stages; give 1 to 4, or 0"),
        ("test_efficientnet", {"depth": 2}, "takes no width and depth"),
    ],
)
def test_refusals(name, options, message):
    with pytest.raises(CxrError, match=message):
        encoder(name, **options)


def test_a_resnet_of_fewer_stages():
    short = encoder("test_resnet", output_stride=4, depth=3)
    maps = short.forward_features(IMAGES)
    assert maps.shape == (2, short.num_features, 16, 16)
    assert short(IMAGES).shape == (2, short.num_features)
    assert not any(key.startswith("layer4") for key in short.state_dict())
    torch.testing.assert_close(short(IMAGES), short.forward_features(IMAGES).mean((2, 3)))


def linear(network):
    """Makes an encoder of convolutions, norms and ReLUs an average of pixels, as far as weights can."""
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    for path, module in list(network.named_modules()):
        if isinstance(module, torch.nn.MaxPool2d):
            network.set_submodule(path, torch.nn.AvgPool2d(module.kernel_size, module.stride, module.padding))
    return network.double().eval()


@pytest.mark.parametrize(
    ("name", "stride"), [("test_resnet", 4), ("resnet10t", 8), ("resnet18", 4), ("densenet121", 8)]
)
def test_positions_look_where_the_offset_says(name, stride):
    """The middle of what one position sees, weighed by how much it sees."""
    network = linear(encoder(name, output_stride=stride))
    images = torch.ones(1, 1, 192, 192, dtype=torch.float64, requires_grad=True)
    maps = network.forward_features(images)
    k = 96 // stride
    maps[0, :, k, k].sum().backward()
    seen = images.grad[0, 0]
    middle = (seen.sum(0) * (torch.arange(192) + 0.5)).sum() / seen.sum()
    branches = stride / 8 if name in ("test_resnet", "resnet10t") else 1e-6  # a shortcut's pooling looks elsewhere
    assert float(middle) == pytest.approx(stride * (k + 0.5) + network.window_offset, abs=branches)


def test_a_checkpoint_keeps_stride_and_depth(tmp_path):
    network = Classifier("A,B", encoder("test_resnet", output_stride=4, depth=3), image_size=64, pooling="PCAM").eval()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    again = load_classifier(tmp_path / "model.pt").eval()
    assert again.encoder.description == network.encoder.description
    assert again.encoder.window_offset == -1.5
    torch.testing.assert_close(again(IMAGES), network(IMAGES))
    assert again.class_maps(IMAGES).shape == (2, 2, 16, 16)
    told = stored_settings(tmp_path / "model.pt")
    assert (told["output_stride"], told["depth"]) == (4, 3)
    build = build_of(tmp_path / "model.pt", "resnet18")
    assert build == {
        "encoder": "test_resnet",
        "stem": "default",
        "norm": "batch",
        "image_size": 64,
        "output_stride": 4,
        "depth": 3,
    }


def test_weights_start_a_training_at_another_stride(tmp_path):
    network = Classifier("A,B", "test_resnet", image_size=64)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    fine = starting_encoder(tmp_path / "model.pt", "test_resnet", image_size=96, output_stride=8)
    assert fine.description == EncoderDescription("test_resnet", output_stride=8)
    assert fine.preprocessing.image_size == 96
    torch.testing.assert_close(dict(fine.state_dict()), dict(network.encoder.state_dict()))
    other = Classifier("A", encoder("test_resnet", output_stride=4), image_size=64)
    start_from(other, tmp_path / "model.pt")
    torch.testing.assert_close(other.encoder.conv1[0].weight, network.encoder.conv1[0].weight)
    with pytest.raises(CxrError, match="the config asks for depth 3; give --depth 0"):
        starting_encoder(tmp_path / "model.pt", "test_resnet", image_size=64, depth=3)


def test_a_segmenter_starts_from_fine_maps_as_from_any_but_needs_every_stage(tmp_path):
    whole = Classifier("A", encoder("test_resnet", output_stride=4), image_size=64)
    torch.save(whole.state_dict(), tmp_path / "whole.pt")
    segmenter = make_segmenter("A", "test_resnet", tmp_path / "whole.pt", image_size=64)
    assert segmenter.encoder.description == EncoderDescription("test_resnet")
    key = "layer4.0.conv1.weight"
    torch.testing.assert_close(segmenter.encoder.state_dict()[key], whole.encoder.state_dict()[key])
    short = Classifier("A", encoder("test_resnet", output_stride=4, depth=2), image_size=64)
    torch.save(short.state_dict(), tmp_path / "short.pt")
    with pytest.raises(CxrError, match="of 2 stages \\(train it with --depth 0 to keep all\\) gives no maps"):
        make_segmenter("A", "test_resnet", tmp_path / "short.pt", image_size=64)
