import numpy as np
import pytest
import torch

from cxrmonai.errors import CxrError
from cxrmonai.networks.memory import InstanceBank, KeyQueue, make_memories


def unit(rows):
    return [np.array(row) / np.linalg.norm(row) for row in rows]


def keys_of(count, size=4, seed=0):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_queue_keeps_the_newest_and_wraps_around():
    queue = KeyQueue(5, 4).double()
    expected = list(queue.keys.numpy().copy())
    rows, place = [-1] * 5, 0
    for step in range(4):  # three at a time into five places
        keys = keys_of(3, seed=step)
        queue.update(torch.arange(3) + 10 * step, keys)
        for k, key in enumerate(unit(keys.tolist())):
            expected[place], rows[place] = key, 10 * step + k
            place = (place + 1) % 5
        np.testing.assert_allclose(queue.keys.numpy(), expected, rtol=1e-12)
        assert queue.rows.tolist() == rows
        assert queue.place == place


def test_queue_shorter_than_a_batch_keeps_its_end():
    queue = KeyQueue(3, 4).double()
    keys = keys_of(7)
    queue.update(torch.arange(7), keys)
    assert sorted(queue.rows.tolist()) == [4, 5, 6]
    for row, key in zip(queue.rows.tolist(), queue.keys.numpy(), strict=True):
        np.testing.assert_allclose(key, unit(keys.tolist())[row], rtol=1e-12)


def test_queue_marks_an_images_own_older_keys():
    queue = KeyQueue(4, 4)
    queue.update(torch.tensor([7, 8]), keys_of(2))
    positive, negatives, own = queue.contrast(torch.tensor([8, 9]), keys := keys_of(2, seed=3))
    assert positive is keys
    assert negatives.shape == (4, 4)
    assert own.tolist() == [[False, True, False, False], [False] * 4]


def test_bank_moves_by_half_and_back_to_unit_length():
    bank = InstanceBank([3, 5, 9], 4, mix=0.5).double()
    before = bank.embeddings.numpy().copy()
    keys = keys_of(2)
    bank.update(torch.tensor([9, 3]), keys)
    ninth, third = (0.5 * old + 0.5 * new for old, new in zip(before[[2, 0]], unit(keys.tolist()), strict=True))
    np.testing.assert_allclose(bank.embeddings.numpy(), [*unit([third]), before[1], *unit([ninth])], rtol=1e-12)


def test_bank_compares_with_what_it_holds():
    bank = InstanceBank([3, 5, 9], 4)
    positive, negatives, own = bank.contrast(torch.tensor([9, 3]), keys_of(2))
    assert torch.equal(positive, bank.embeddings[[2, 0]])
    assert torch.equal(negatives, bank.embeddings)
    assert own.tolist() == [[False, False, True], [True, False, False]]


def test_bank_draws_negatives_without_repeats():
    bank = InstanceBank(range(50), 4, negatives=8)
    torch.manual_seed(0)
    rows = torch.arange(50)
    _, first, own = bank.contrast(rows, keys_of(50))
    _, second, _ = bank.contrast(rows, keys_of(50))
    assert first.shape == (8, 4)
    assert len(torch.unique(first, dim=0)) == 8
    assert not torch.equal(first, second)
    assert own.sum() == 8  # each drawn one is the own of one image
    drawn = own.nonzero()
    assert torch.equal(first[drawn[:, 1]], bank.embeddings[drawn[:, 0]])


def test_memories_begin_alike_wherever_they_are_made():
    torch.manual_seed(1)
    one = KeyQueue(6, 3)
    torch.manual_seed(2)
    assert torch.equal(one.keys, KeyQueue(6, 3).keys)
    torch.testing.assert_close(one.keys.norm(dim=1), torch.ones(6))


def test_queue_is_cut_to_the_data_with_a_note(capsys):
    (queue,) = make_memories("queue", range(10), 4, queue_size=64)
    assert len(queue.keys) == 10
    assert capsys.readouterr().err == "note: queue_size 64 is cut to 10, the number of training images\n"
    assert len(make_memories("queue", range(10), 4, queue_size=8)[0].keys) == 8
    assert capsys.readouterr().err == ""
    assert [type(each) for each in make_memories("bank", range(10), 4, count=2)] == [InstanceBank, InstanceBank]


def test_faults():
    with pytest.raises(CxrError, match="one training image"):
        make_memories("bank", [4], 4)
    with pytest.raises(CxrError, match="memory 'heap': known are queue, bank"):
        make_memories("heap", range(4), 4)
