import io
import urllib.error
import urllib.request

import pytest
import timm
import torch

from cxrmonai.errors import CxrError
from cxrmonai.networks import describe_checkpoint, load_encoder, preprocessing, start_from
from cxrmonai.networks.checkpoints import DescribedNetwork
from cxrmonai.networks.encoders import EncoderDescription, encoder
from cxrmonai.networks.published import imagenet
from cxrmonai.transforms.preprocessing import Preprocessing

NAME = "test_resnet"
create = timm.create_model


class Headless(DescribedNetwork):
    def forward(self, x):
        return self.encoder(x)


@pytest.fixture
def reachable(monkeypatch):
    """A network that answers, and a timm that makes up its weights; the model that it gave."""
    monkeypatch.setattr(imagenet.huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO())
    given = []

    def make(name, pretrained=False, **options):
        model = create(name, **options)
        if pretrained:
            given.append(model.eval())
        return model

    monkeypatch.setattr(timm, "create_model", make)
    return given


@pytest.mark.parametrize("tag", ["", ".r160_in1k"])
def test_features_are_those_of_timm(reachable, tag):
    loaded = load_encoder(f"timm:{NAME}{tag}").eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = reachable[0].forward_head(reachable[0].forward_features(images), pre_logits=True)
        torch.testing.assert_close(loaded(images), expected)
    assert loaded.description == EncoderDescription(NAME, in_channels=3)
    network = start_from(Headless(encoder(NAME, in_channels=3), {"image_size": 64}), f"timm:{NAME}{tag}")
    assert network.encoder.description == loaded.description


def test_report(reachable):
    report = describe_checkpoint(f"timm:{NAME}")
    whole = reachable[0].state_dict()
    assert report.used + sum(one.count for one in report.dropped) == len(whole)
    assert [one.what for one in report.dropped] == ["classifier"]
    assert str(report).startswith(f"checkpoint    timm:{NAME}\nlayout        timm's pretrained {NAME}\n")


def test_input_is_the_models_own_but_letterboxed():
    own = timm.get_pretrained_cfg(NAME)
    expected = Preprocessing(own.input_size[1], interpolation=own.interpolation, mean=own.mean, std=own.std)
    assert preprocessing(f"timm:{NAME}") == expected


def test_no_network_is_said_at_once(monkeypatch):
    monkeypatch.setattr(imagenet.huggingface_hub, "try_to_load_from_cache", lambda *_: None)

    def fail(*_, timeout, **__):
        assert timeout <= 10
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    monkeypatch.setattr(timm, "create_model", None)
    with pytest.raises(CxrError, match=rf"timm:{NAME}: the weights cannot be downloaded .*no route.*HF_HOME"):
        load_encoder(f"timm:{NAME}")


def test_cached_weights_need_no_network(reachable, monkeypatch):
    monkeypatch.setattr(imagenet.huggingface_hub, "try_to_load_from_cache", lambda *_: "/cache/model.safetensors")
    monkeypatch.setattr(urllib.request, "urlopen", None)
    load_encoder(f"timm:{NAME}")
    assert len(reachable) == 1


def test_failed_download(reachable, monkeypatch):
    def fail(*_, **__):
        raise OSError("disk is full\nand more")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(CxrError, match=r"cannot be downloaded \(disk is full\); run once"):
        load_encoder(f"timm:{NAME}")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet_50", "there are resnet"), ("resnet18.nonsense", r"there are resnet18\."), ("", "there are")],
)
def test_unknown_weights(name, hint):
    for read in (load_encoder, preprocessing):
        with pytest.raises(CxrError, match=rf"timm:{name}: timm has no such pretrained weights; {hint}"):
            read(f"timm:{name}")


def test_no_projection(reachable):
    with pytest.raises(CxrError, match="has no projection"):
        load_encoder(f"timm:{NAME}", projection=True)
