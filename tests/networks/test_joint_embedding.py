import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.networks import EmbeddingNetwork, JointEmbeddingNetwork, PairProjector, load_encoder, preprocessing
from cxrmonai.networks.heads import HEADS, projection_head
from cxrmonai.networks.jigsaw import JigsawHead

SMALL = {"encoder": "resnet10t", "image_size": 32, "feature_size": 6, "head": "linear"}


def network(**options):
    torch.manual_seed(0)
    return JointEmbeddingNetwork(**{**SMALL, **options})


def images(count, edge=32, seed=1):
    return torch.randn(count, 1, edge, edge, generator=torch.Generator().manual_seed(seed))


def close(left, right):
    torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_moco_compares_view_one_with_the_copy_of_view_two():
    made = network(momentum=0.9).eval()
    first, second = images(3), images(3, seed=2)
    output = made(torch.cat([first, second]))
    assert output.keys() == {"query", "key"}
    close(output["query"], made.head(made.encoder(first))[None])
    close(output["key"], made.momentum(second)[None])
    assert output["query"].requires_grad
    assert not output["key"].requires_grad


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_symmetric_methods_cross_the_views(momentum):
    made = network(momentum=momentum, predictor=5, symmetric=True).eval()
    if momentum:
        with torch.no_grad():
            made.momentum.copy[1][0].weight *= -1
    first, second = images(3), images(3, seed=2)
    output = made(torch.cat([first, second]))
    keys = made.momentum if momentum else made.project
    close(output["query"], torch.stack([made.predictor(made.project(view)) for view in (first, second)]))
    close(output["key"], torch.stack([keys(second), keys(first)]))
    assert not output["key"].requires_grad


def test_one_view_is_its_own_key_and_the_pieces_are_compared_with_it():
    made = network(momentum=0, view_count=1, jigsaw=True).eval()
    whole, pieces = images(2), images(18, edge=9)
    output = made(whole, patches=pieces)
    close(output["query"], made.project(whole)[None])
    close(output["key"], output["query"].detach())
    by_piece = made.jigsaw.piece(made.encoder(pieces))
    for k in range(2):
        joined = torch.cat(list(by_piece[9 * k : 9 * k + 9]))
        close(output["jigsaw"][k], made.jigsaw.whole(joined))


def test_order_of_the_pieces_matters():
    head, features = JigsawHead(4, 3), torch.randn(9, 4)
    assert not torch.allclose(head(features), head(features.flip(0)))


def test_second_encoder_sees_the_second_view():
    made = network(momentum=0, second_encoder=True).eval()
    first, second = images(2), images(2, seed=2)
    output = made(torch.cat([first, second]))
    one, two = made.head(made.encoder(first)), made.second(second)
    close(output["query"], torch.stack([one, two]))
    close(output["key"], torch.stack([two, one]).detach())
    close(PairProjector(made)(torch.cat([first, second])), torch.cat([one, two]))
    assert not torch.equal(made.second[0].conv1[0].weight, made.encoder.conv1[0].weight)
    made.aligned()
    assert torch.equal(made.second[0].conv1[0].weight, made.encoder.conv1[0].weight)


def test_update_moves_the_copy_and_aligning_resets_it():
    made = network(momentum=0.9)
    with torch.no_grad():
        made.head[0].weight += 1
    assert not torch.equal(made.momentum.copy[1][0].weight, made.head[0].weight)
    made.aligned()
    assert torch.equal(made.momentum.copy[1][0].weight, made.head[0].weight)
    assert made.momentum.moves == 0
    made.update()
    assert made.momentum.moves == 1
    network(momentum=0).update()  # nothing to move


def test_what_is_kept_is_the_encoder_asked_for(tmp_path):
    made = network(momentum=0.9)
    with torch.no_grad():
        made.encoder.conv1[0].weight += 1
    for branch, expected in (("online", made.encoder), ("momentum", made.momentum.copy[0])):
        kept = EmbeddingNetwork(made.encoder_of(branch), image_size=32, mean=0.4, std=0.1)
        torch.save(kept.state_dict(), tmp_path / "model.pt")
        assert torch.equal(load_encoder(tmp_path / "model.pt").conv1[0].weight, expected.conv1[0].weight)
        assert preprocessing(tmp_path / "model.pt").mean == (0.4,)
    with pytest.raises(CxrError, match="no momentum copy"):
        network(momentum=0).encoder_of("momentum")
    with pytest.raises(CxrError, match="keep 'both'"):
        made.encoder_of("both")


@pytest.mark.parametrize("kind", HEADS)
def test_heads(kind):
    head = projection_head(8, 5, kind, hidden=7)
    assert head(torch.randn(4, 8)).shape == (4, 5)
    norms = [module for module in head.modules() if isinstance(module, torch.nn.BatchNorm1d)]
    assert len(norms) == {"mlp": 1, "mlp3": 3}.get(kind, 0)


def test_prototypes_are_cosines():
    head = projection_head(8, 5, "prototypes")
    output = head(10 * torch.randn(4, 8))
    expected = torch.nn.functional.cosine_similarity(
        head[:-1](inputs := torch.randn(3, 8))[:, None], head[-1].weight, -1
    )
    torch.testing.assert_close(head(inputs), expected)
    assert output.abs().max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": "cnn"}, "head 'cnn'"),
        ({"view_count": 3}, "view_count 3"),
        ({"view_count": 1}, "momentum 0"),
        ({"second_encoder": True}, "second_encoder: needs"),
        ({"jigsaw": True, "encoder": "vit_tiny_patch16_224", "image_size": 32}, "images of one size"),
    ],
)
def test_faults(options, words):
    with pytest.raises(CxrError, match=words):
        network(**options)
