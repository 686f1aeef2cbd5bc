"""What a training starts from."""

import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from cxrmonai.errors import CxrError
from cxrmonai.networks import Classifier, build_of, encoder, input_of, load_classifier, load_encoder, starting_encoder
from cxrmonai.transforms import BatchSeenPartd, Preprocessing, preprocess


def published(path, prefix, **entries):
    """A file of a published layout that holds a ResNet-18, whose names are torchvision's."""
    weights = encoder("resnet18", in_channels=3).state_dict()
    torch.save({**entries, "state_dict": {prefix + key: value for key, value in weights.items()}}, path)
    return path


@pytest.fixture(scope="module")
def moco(tmp_path_factory):
    return published(tmp_path_factory.mktemp("moco") / "moco.pth", "module.encoder_q.", arch="resnet18")


@pytest.fixture(scope="module")
def gloria(tmp_path_factory):
    return published(tmp_path_factory.mktemp("gloria") / "gloria.ckpt", "gloria.img_encoder.model.")


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "model.pt"
    torch.save(Classifier("A,B", "resnet10t", image_size=40, norm="group").state_dict(), path)
    return path


def test_without_a_checkpoint_it_is_as_asked():
    asked = {
        "encoder": "resnet10t",
        "stem": "cifar",
        "norm": "instance",
        "image_size": 48,
        "output_stride": 0,
        "depth": 0,
    }
    assert build_of(None, **asked) == asked
    network = starting_encoder(None, "resnet10t", "default", "group", 48)
    assert network.description.norm == "group"
    assert network.preprocessing == Preprocessing(48)


def test_a_checkpoint_tells_the_build_and_the_size(moco, gloria, own):
    usual = {"encoder": "densenet121", "image_size": 96, "output_stride": 0, "depth": 0}
    build = {"encoder": "resnet18", "stem": "default", "norm": "batch"}
    assert build_of(moco, **usual) == {**build, "image_size": 320, "output_stride": 0, "depth": 0}
    assert build_of(gloria, **usual) == {**build, "image_size": 224, "output_stride": 0, "depth": 0}
    assert build_of(own, **usual) == {
        "encoder": "resnet10t",
        "stem": "default",
        "norm": "group",
        "image_size": 40,
        "output_stride": 0,
        "depth": 0,
    }


def test_the_encoder_has_its_weights_and_its_input(moco, gloria):
    for path in (moco, gloria):
        network, file = starting_encoder(path, "resnet18", image_size=112), load_encoder(path)
        weights = network.state_dict()
        assert all(torch.equal(weights[key], value) for key, value in file.state_dict().items())
        assert network.description == file.description
        assert network.preprocessing.mean == file.preprocessing.mean
        assert network.preprocessing.channels == 3
    assert starting_encoder(gloria, "resnet18", image_size=224).preprocessing == load_encoder(gloria).preprocessing
    assert network.preprocessing.square == 128  # 256, cropped to 224, halved


def test_what_the_network_saw_comes_back_with_its_weights(gloria, tmp_path):
    network = Classifier("A", starting_encoder(gloria, "resnet18", image_size=56), image_size=56)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    again = load_classifier(tmp_path / "model.pt")
    assert again.encoder.preprocessing == network.encoder.preprocessing
    assert again.encoder.preprocessing.square == 64
    assert again.encoder.description.upsample == 299
    assert input_of(again.encoder, 112) == load_encoder(gloria).preprocessing.at(112)


def test_another_build_is_refused(moco, own):
    with pytest.raises(CxrError, match=r"holds resnet18 .* asks for encoder resnet50; give --encoder resnet18"):
        starting_encoder(moco, "resnet50", image_size=64)
    with pytest.raises(CxrError, match="asks for norm batch; give --norm group"):
        starting_encoder(own, "resnet10t", image_size=64)


def test_a_transformer_keeps_its_size(tmp_path):
    small = encoder("vit_tiny_patch16_224", image_size=32, width=64, depth=1)
    torch.save(Classifier("A", small, image_size=32).state_dict(), tmp_path / "model.pt")
    with pytest.raises(CxrError, match="built for 32 pixels; give --image_size 32"):
        starting_encoder(tmp_path / "model.pt", "vit_tiny_patch16_224", image_size=64)


def test_training_sees_the_part_that_evaluation_sees():
    images = torch.rand(2, 1, 80, 80)
    rule = Preprocessing(56, fit_size=64, mean=(0.0,), std=(1.0,))
    seen = BatchSeenPartd("image", rule)({"image": images})["image"]
    assert seen.shape[-1] == 70
    torch.testing.assert_close(seen, tv.center_crop(images, 70))
    evaluated = preprocess(images, rule)
    shrunk = tv.resize(seen, [56, 56], antialias=True)
    assert (evaluated - shrunk).abs().mean() < 0.05 < (evaluated - tv.resize(images, [56, 56])).abs().mean()
    resized = Preprocessing(56, fit_size=64, then="resize")
    assert BatchSeenPartd("image", resized)({"image": images})["image"].shape[-1] == 80
