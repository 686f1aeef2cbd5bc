"""What a fine-tuning starts from, and the head that a probe gives it."""

import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.networks import Classifier, encoder, encoder_to_tune, input_of, usual_pooling


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "model.pt"
    torch.save(Classifier("A", encoder="resnet10t", image_size=48).state_dict(), path)
    return path


def test_the_control_has_the_build_and_input_of_the_file_and_none_of_its_weights(checkpoint):
    build = {"name": "resnet10t", "image_size": 48}
    ours, control = (encoder_to_tune(checkpoint, **build, untrained=untrained) for untrained in (False, True))
    assert control.description == ours.description
    assert control.preprocessing == ours.preprocessing
    assert not torch.equal(ours.state_dict()["conv1.0.weight"], control.state_dict()["conv1.0.weight"])


def test_without_a_file_it_says_so(capsys):
    assert encoder_to_tune(None, "resnet10t", image_size=32).preprocessing.image_size == 32
    assert "no --pretrained given" in capsys.readouterr().out
    with pytest.raises(CxrError, match="untrained needs --pretrained FILE"):
        encoder_to_tune(None, "resnet10t", image_size=32, untrained=True)


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("resnet10t", "AVG"),
        ("densenet121", "AVG"),
        ("convnext_atto", "NATIVE"),
        ("vit_tiny_patch16_224", "NATIVE"),
    ],
)
def test_the_usual_pooling_gives_the_encoders_own_features(name, pooling):
    torch.manual_seed(0)
    network = encoder(name, image_size=32).eval()
    for module in network.modules():  # untrained norms do nothing
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight, 1, 0.3)
    network.preprocessing = input_of(network, 32)
    assert usual_pooling("auto", network) == pooling
    assert usual_pooling("MAX", network) == "MAX"
    made = Classifier("A", encoder=network, image_size=32, pooling=pooling).eval()
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(made.features(images), network(images), rtol=1e-4, atol=1e-5)


def test_a_head_on_standardised_features_is_folded():
    network = Classifier("A,B", encoder="resnet10t", image_size=32).eval()
    weight, bias = torch.randn(2, 512, dtype=torch.float64), torch.randn(2, dtype=torch.float64)
    mean, std = torch.randn(512, dtype=torch.float64), torch.rand(512, dtype=torch.float64) + 0.5
    images = torch.rand(3, 1, 32, 32)
    with torch.no_grad():
        expected = (network.features(images).double() - mean) / std @ weight.T + bias
        found = network.set_head(weight, bias, mean, std)(images)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(CxrError, match=r"a head of \(3, 512\) and \(2,\) does not fit"):
        network.set_head(torch.zeros(3, 512), bias)
    with pytest.raises(CxrError, match="PCAM has no features of its own"):
        Classifier("A", encoder="resnet10t", image_size=32, pooling="PCAM").set_head(weight[:1], bias[:1])
