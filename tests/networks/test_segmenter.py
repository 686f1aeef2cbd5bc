"""DeepLabV3+ on our encoders: weights come whole, stay under their names, and the last stage is dilated rightly."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cxrmonai.errors import CxrError
from cxrmonai.networks import Classifier, Segmenter, encoder, load_encoder, load_segmenter, make_segmenter
from cxrmonai.networks.feature_maps import FeatureEncoder
from cxrmonai.networks.irnet import make_irnet

SMALL = {"image_size": 64, "atrous_rates": (1, 2, 3), "decoder_channels": 16}
IMAGES = torch.rand(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))


def small(name="resnet10t", **options):
    torch.manual_seed(0)
    return Segmenter("lungs,heart", name, **{**SMALL, **options})


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_b0"])
def test_names_and_values_of_weights_stay_and_all_copies_agree(name, tmp_path):
    plain = encoder(name)
    weights = {key: value.clone() for key, value in plain.state_dict().items()}
    network = small(plain).eval()
    kept = network.encoder.state_dict()
    assert kept.keys() == weights.keys()
    assert all(torch.equal(kept[key], weights[key]) for key in weights)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    read = load_segmenter(tmp_path / "model.pt").eval()
    assert read.class_names == ["lungs", "heart"]
    with torch.no_grad():
        expected = network(IMAGES)
        assert expected.shape == (2, 2, 64, 64)
        assert torch.equal(read(IMAGES), expected)
        assert torch.equal(copy.deepcopy(network)(IMAGES), expected)
        torch.testing.assert_close(torch.jit.script(network)(IMAGES), expected)
    assert copy.deepcopy(network).state_dict().keys() == network.state_dict().keys()


def test_maps_are_those_of_the_encoder_and_the_strided_map_is_a_part_of_the_dilated(tmp_path):
    plain = encoder("resnet18").eval()
    twin = copy.deepcopy(plain)
    with torch.no_grad():
        before = twin.layer3(twin.layer2(quarter := twin.layer1(twin.maxpool(twin.act1(twin.bn1(twin.conv1(IMAGES)))))))
        last = twin.layer4(before)
        as_built = FeatureEncoder(copy.deepcopy(plain), 32)(IMAGES)
        dilated = FeatureEncoder(plain, 16)(IMAGES)
    assert torch.equal(as_built[0], quarter)
    assert torch.equal(as_built[1], last)
    assert torch.equal(dilated[0], quarter)
    assert dilated[1].shape == (2, 512, 4, 4)
    # Without padding's influence, each second value of the dense map is the strided one: compare layer4's first block.
    block, strided = plain.layer4[0], twin.layer4[0]
    with torch.no_grad():
        torch.testing.assert_close(block.conv1(before)[:, :, ::2, ::2], strided.conv1(before))
        dense, sparse = block.conv1(before), strided.conv1(before)
        torch.testing.assert_close(block.conv2(dense)[:, :, ::2, ::2], strided.conv2(sparse))
    assert [module.dilation for module in (block.conv1, block.conv2)] == [(1, 1), (2, 2)]


@pytest.mark.parametrize(("name", "stride"), [("densenet121", 16), ("resnet18d", 16), ("convnext_atto", 32)])
def test_last_maps_have_the_stride_asked_for(name, stride):
    maps = FeatureEncoder(encoder(name), stride)(IMAGES)
    assert [each.shape[-1] for each in maps] == [16, 64 // stride]
    assert small(name, output_stride=stride)(IMAGES).shape == (2, 2, 64, 64)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"name": "vit_tiny_patch16_224"}, "gives no maps from a quarter"),
        ({"name": "convnext_atto"}, "cannot be kept at output_stride 16; give --output_stride 32"),
        ({"stem": "cifar", "name": "resnet18"}, "cannot be kept|no maps"),
        ({"output_stride": 8}, "known are 16, 32"),
        ({"image_size": 100}, "multiple of 32"),
        ({"atrous_rates": [1, 2]}, "three whole numbers"),
        ({"dropout": 1.0}, "0 to below 1"),
    ],
)
def test_what_cannot_be_built_is_refused(options, match):
    with pytest.raises(CxrError, match=match):
        small(**options)


def test_a_classifier_of_three_stages_and_fine_maps_gives_segmenter_and_irnet_their_start(tmp_path):
    """Its encoder ends at a sixteenth of the image by itself, once its strides are back."""
    fine = encoder("test_resnet", output_stride=4, depth=3)
    classifier = Classifier("a,b", fine, image_size=64, pooling="PCAM")
    torch.save(classifier.state_dict(), tmp_path / "model.pt")
    network = make_segmenter("lungs", "test_resnet", tmp_path / "model.pt", **SMALL).eval()
    assert [each.shape[-1] for each in network.encoder(IMAGES)] == [16, 4]
    irnet = make_irnet("a", "auto", tmp_path / "model.pt", image_size=64)
    assert irnet(IMAGES).shape == (2, 1, 16, 16)
    for made in (network, irnet):
        assert made.encoder.description.output_stride == 0
        loaded = made.encoder.state_dict()
        for key, value in classifier.encoder.state_dict().items():
            torch.testing.assert_close(loaded[key], value)
    torch.save(network.state_dict(), tmp_path / "segmenter.pt")
    assert load_segmenter(tmp_path / "segmenter.pt").encoder.channels == network.encoder.channels
    with pytest.raises(CxrError, match="ends at a sixteenth"):
        FeatureEncoder(encoder("test_resnet", depth=3), 32)


def test_encoder_weights_of_a_classifier_come_whole(tmp_path):
    classifier = Classifier("a,b", "resnet10t", image_size=64)
    torch.save(classifier.state_dict(), tmp_path / "model.pt")
    network = make_segmenter("lungs", "resnet10t", tmp_path / "model.pt", **SMALL)
    loaded = network.encoder.state_dict()
    for key, value in classifier.encoder.state_dict().items():
        assert torch.equal(loaded[key], value), key
    assert loaded.keys() == classifier.encoder.state_dict().keys()
    with pytest.raises(CxrError, match=r"holds resnet10t .*give --encoder resnet10t"):
        make_segmenter("lungs", "resnet18", tmp_path / "model.pt", **SMALL)

    def fails(change):
        weights = classifier.state_dict()
        change(weights)
        torch.save(weights, tmp_path / "broken.pt")
        with pytest.raises(CxrError, match=r"do not fit the network: .*layer4\.0\.conv1\.weight"):
            make_segmenter("lungs", "resnet10t", tmp_path / "broken.pt", **SMALL)

    key = "encoder.layer4.0.conv1.weight"
    fails(lambda weights: weights.pop(key))
    fails(lambda weights: weights.update({key: weights[key][:, :3]}))


def test_a_segmenters_own_weights_give_back_its_encoder(tmp_path):
    network = small("efficientnet_b0")
    torch.save(network.state_dict(), tmp_path / "model.pt")
    read = load_encoder(tmp_path / "model.pt")
    assert all(torch.equal(value, network.encoder.state_dict()[key]) for key, value in read.state_dict().items())
    weights = network.state_dict()
    weights.pop("head.bias")
    torch.save(weights, tmp_path / "short.pt")
    with pytest.raises(CxrError, match=r"missing 1: head\.bias|missing.*head\.bias"):
        load_segmenter(tmp_path / "short.pt")
    torch.save(Classifier("a", "resnet10t", image_size=64).state_dict(), tmp_path / "other.pt")
    with pytest.raises(CxrError, match="holds no segmenter"):
        load_segmenter(tmp_path / "other.pt")


def test_three_channels_bring_their_preprocessing(tmp_path):
    network = small(encoder("resnet10t", in_channels=3))
    assert network.encoder.preprocessing.channels == 3
    assert network.encoder.preprocessing.image_size == 64
    torch.save(network.state_dict(), tmp_path / "model.pt")
    assert load_segmenter(tmp_path / "model.pt").encoder.preprocessing == network.encoder.preprocessing
    assert copy.deepcopy(network).encoder.preprocessing == network.encoder.preprocessing


def test_one_image_a_batch_can_be_learned_from():
    network = small().train()
    loss = F.binary_cross_entropy_with_logits(network(IMAGES[:1]), torch.zeros(1, 2, 64, 64))
    loss.backward()
    assert all(value.grad is not None for value in network.parameters() if value.requires_grad)
    unreached = [key for key, value in small("efficientnet_b0").named_parameters() if not value.requires_grad]
    assert {key.split(".")[1] for key in unreached} == {"conv_head", "bn2"}
    assert isinstance(network.decoder, nn.Module)


def test_exports_to_onnx(tmp_path):
    onnx = pytest.importorskip("onnxruntime")
    network = small().eval()
    torch.onnx.export(network, (IMAGES,), tmp_path / "model.onnx", dynamo=False, opset_version=17)
    session = onnx.InferenceSession(tmp_path / "model.onnx")
    (made,) = session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(made), network(IMAGES), rtol=1e-3, atol=1e-4)
