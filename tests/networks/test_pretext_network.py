"""The network of a pretext task: its answers, its decoder, its checkpoint."""

import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.networks import PretextNetwork, load_encoder, load_pretext, pretext_like
from cxrmonai.networks.pretext import PairHead, split_answers

HEADS = [("rotation", 4), ("shift_x", 3), ("shift_y", 3)]


def make(**options):
    torch.manual_seed(0)
    return PretextNetwork(**{"encoder": "resnet10t", "image_size": 32, "heads": HEADS, **options}).eval()


def test_heads_answer_in_order_and_the_features_are_the_encoders():
    network, images = make(), torch.rand(2, 1, 32, 32)
    answers = split_answers(network(images), HEADS)
    features = network.encoder(images)
    for name, size in HEADS:
        assert answers[name].shape == (2, size)
        torch.testing.assert_close(answers[name], network.heads[name](features))
    embedding = make(output="features")
    torch.testing.assert_close(embedding(images), embedding.encoder(images))


def test_answers_of_another_task_are_refused():
    with pytest.raises(CxrError, match="10 answers for a task of 4"):
        split_answers(torch.zeros(2, 10), HEADS[:1])
    with pytest.raises(CxrError, match="a head or a picture"):
        make(heads=())


def test_a_pair_in_the_other_order_is_the_same_pair_and_the_opposite_order():
    head, features = PairHead(5), torch.rand(8, 5)
    there, back = head(features), head(features.roll(4, 0))
    torch.testing.assert_close(there[:, 0], back[:, 0])
    torch.testing.assert_close(there[:, 1], -back[:, 1])
    assert head(features[:4].repeat(2, 1))[:, 1].abs().max() == 0  # an image is not before itself


@pytest.mark.parametrize(
    ("encoder", "size"), [("resnet10t", 32), ("vit_tiny_patch16_224", 32), ("swin_tiny_patch4_window7_224", 64)]
)
def test_a_picture_from_maps_tokens_and_channels_last(encoder, size):
    network = make(encoder=encoder, image_size=size, heads=[("findings", 2)], picture=True)
    answers = split_answers(network(torch.rand(2, 1, size, size)), [("findings", 2)], size)
    assert answers["picture"].shape == (2, 1, size, size)
    answers["picture"].sum().backward()
    first = next(value for value in network.encoder.parameters() if value.ndim == 4)
    assert first.grad.abs().sum() > 0


def test_findings_beside_a_picture_come_of_the_encoders_features():
    network, images = make(heads=[("findings", 2)], picture=True), torch.rand(2, 1, 32, 32)
    answers = split_answers(network(images), [("findings", 2)], 32)
    torch.testing.assert_close(answers["findings"], network.heads["findings"](network.encoder(images)))


@pytest.mark.parametrize("encoder", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_every_weight_that_is_trained_has_a_gradient(encoder):
    """One without would stop DDP."""
    network = make(encoder=encoder, heads=(), picture=True).train()
    network(torch.rand(4, 1, 32, 32)).sum().backward()
    assert [name for name, value in network.named_parameters() if value.requires_grad and value.grad is None] == []


def test_checkpoints_are_read_whole_or_for_their_encoder(tmp_path):
    network = make(task={"name": "rotation_shift", "shift": 0.1})
    torch.save(network.state_dict(), tmp_path / "model.pt")
    images = torch.rand(2, 1, 32, 32)
    again = load_pretext(tmp_path / "model.pt").eval()
    assert again.settings == network.settings
    torch.testing.assert_close(again(images), network(images))
    torch.testing.assert_close(load_encoder(tmp_path / "model.pt").eval()(images), network.encoder(images))
    torch.testing.assert_close(pretext_like(tmp_path / "model.pt", make()).eval()(images), network.encoder(images))
    other = make()
    assert pretext_like(tmp_path / "absent.pt", other) is other


def test_a_checkpoint_of_another_bundle_is_refused(tmp_path):
    from cxrmonai.networks import ContrastiveNetwork

    torch.save(ContrastiveNetwork("resnet10t", image_size=32).state_dict(), tmp_path / "model.pt")
    with pytest.raises(CxrError, match="no network of the bundle ssl_pretext"):
        load_pretext(tmp_path / "model.pt")
