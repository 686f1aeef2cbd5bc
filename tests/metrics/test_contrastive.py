import pytest
import torch

from cxrmonai.metrics.contrastive import contrastive_accuracy


def test_pairs_that_lie_together_are_all_found():
    first = torch.eye(6)
    assert contrastive_accuracy(torch.cat([first, 5 * first + 0.1])) == 1


def test_pairs_that_lie_apart_are_not_found():
    first = torch.eye(6)
    assert contrastive_accuracy(torch.cat([first, first.roll(1, 0)])) == 0


def test_share_of_planted_pairs():
    second = torch.eye(8)[:, [0, 1, 2, 4, 3, 5, 6, 7]]  # two of eight pairs are swapped
    assert contrastive_accuracy(torch.cat([torch.eye(8), second])).item() == pytest.approx(6 / 8)


def test_nearness_need_not_be_mutual():
    """Pairs are 0 with 2 and 1 with 3. 0 and 3 find their partners, 2 and 1 find each other."""
    degrees = torch.deg2rad(torch.tensor([0.0, 35.0, 20.0, 180.0]))
    embeddings = torch.stack([degrees.cos(), degrees.sin()], 1)
    assert contrastive_accuracy(embeddings).item() == pytest.approx(2 / 4)


def test_half_precision_and_no_graph():
    embeddings = torch.cat([torch.eye(4), torch.eye(4)]).bfloat16().requires_grad_()
    accuracy = contrastive_accuracy(embeddings)
    assert accuracy.dtype == torch.float32
    assert not accuracy.requires_grad
    assert accuracy == 1
