import pytest
import torch
import torchvision

from cxrmonai.errors import CxrError
from cxrmonai.networks import ContrastiveNetwork, EncoderDescription, encoder

MAPS = {
    "resnet18": (512, 2, 2),
    "densenet121": (1024, 2, 2),
    "efficientnet_b0": (1280, 2, 2),
    "convnext_atto": (320, 2, 2),
    "vit_tiny_patch16_224": (17, 192),
}


@pytest.mark.parametrize("name", MAPS)
def test_features_and_maps(name):
    network = encoder(name, image_size=64).eval()
    images = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        features, maps = network(images), network.forward_features(images)
    assert features.shape == (2, network.num_features)
    assert not torch.allclose(features[0], features[1])
    assert maps.shape[1:] == MAPS[name]
    assert network.description == EncoderDescription(name, image_size=64 if name.startswith("vit") else 0)


def test_features_longer_than_the_maps_are_counted():
    """MobileNetV3 has a layer after its pooling, which the head must fit."""
    network = ContrastiveNetwork("mobilenetv3_small_050", feature_size=8).eval()
    with torch.no_grad():
        assert network.encoder(torch.rand(1, 1, 64, 64)).shape == (1, network.encoder.num_features)
        assert network(torch.rand(1, 1, 64, 64)).shape == (1, 8)


@pytest.mark.parametrize("name", ["davit_tiny", "repvit_m0_9"])
def test_size_is_given_to_those_that_take_one(name):
    """Names tell little: DaViT takes no size although it is a transformer, and RepViT takes one."""
    with torch.device("meta"):
        assert encoder(name, image_size=64).description.image_size == (0 if name == "davit_tiny" else 64)


@pytest.mark.parametrize(("name", "classifier"), [("resnet18", "fc."), ("densenet121", "classifier.")])
def test_keys_and_shapes_are_torchvisions(name, classifier):
    theirs = torchvision.models.get_model(name).state_dict()
    ours = encoder(name, in_channels=3).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items() if not key.startswith(classifier)
    }


@pytest.mark.parametrize(("name", "edge"), [("resnet18", 4), ("densenet121", 4), ("efficientnet_b0", 2)])
def test_cifar_stem_keeps_resolution(name, edge):
    images = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        assert encoder(name).eval().forward_features(images).shape[2:] == (1, 1)
        small = encoder(name, stem="cifar").eval()
        assert small.forward_features(images).shape[2:] == (edge, edge)
    assert small.description.stem == "cifar"


@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_cifar_stem_is_refused_where_there_is_none(name):
    with pytest.raises(CxrError, match=f"'{name}' has no stem.*--stem default"):
        encoder(name, stem="cifar")


@pytest.mark.parametrize(
    ("wrong", "right"), [("resnet_18", "resnet18"), ("Resnet50", "resnet50"), ("denset121", "densenet121")]
)
def test_unknown_name_suggests(wrong, right):
    with pytest.raises(CxrError, match=rf"'{wrong}' is no timm model; there are .*\b{right}\b"):
        encoder(wrong)


def test_unknown_words_are_refused():
    with pytest.raises(CxrError, match="stem 'huge': known are default, cifar"):
        encoder("resnet18", stem="huge")
    with pytest.raises(CxrError, match="head 'deep': known are linear, mlp"):
        ContrastiveNetwork(head="deep")
    with pytest.raises(CxrError, match="output 'all': known are projection, features"):
        ContrastiveNetwork(output="all")


@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_contrastive_network(head):
    network = ContrastiveNetwork("test_efficientnet", feature_size=16, head=head, in_channels=2).eval()
    images = torch.rand(3, 2, 32, 32)
    with torch.no_grad():
        projection = network(images)
        assert projection.shape == (3, 16)
        torch.testing.assert_close(projection, network.head(network.encoder(images)))
        bare = ContrastiveNetwork(
            "test_efficientnet", feature_size=16, head=head, in_channels=2, output="features"
        ).eval()
        bare.load_state_dict(network.state_dict())
        torch.testing.assert_close(bare(images), network.encoder(images))
    assert (head == "mlp") == any(isinstance(module, torch.nn.ReLU) for module in network.head)


@pytest.mark.parametrize("name", ["resnet18", "test_efficientnet"])
def test_torchscript_equals_eager(name, tmp_path):
    network = ContrastiveNetwork(name, image_size=32, feature_size=8, output="features").eval()
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        expected = network(images)
        torch.testing.assert_close(torch.jit.trace(network, images)(images), expected)
        torch.jit.save(torch.jit.script(network), tmp_path / "network.ts")
        torch.testing.assert_close(torch.jit.load(tmp_path / "network.ts")(images), expected)
