import torch
from timm.layers import convert_sync_batchnorm

from cxrmonai import distributed
from cxrmonai.engines import data_parallel, parallel
from cxrmonai.networks import encoder


def test_one_rank_keeps_the_network():
    network = torch.nn.Linear(1, 1)
    assert data_parallel(network, "cpu") is network


def test_sync_batchnorm_keeps_the_activations_of_the_encoder():
    assert parallel.convert_sync_batchnorm is convert_sync_batchnorm
    images = torch.randn(2, 1, 64, 64)
    network = encoder("test_efficientnet").eval()
    with torch.no_grad():
        before = network(images)
        converted = convert_sync_batchnorm(network)
        assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
        torch.testing.assert_close(converted(images), before)


def test_start_without_torchrun_does_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    distributed.start("cpu")
    assert not distributed.is_active()
