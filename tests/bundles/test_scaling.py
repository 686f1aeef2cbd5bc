"""Several machines, as two rendezvous agents on this one, and what comes of a run whose rank dies."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from bundle_runs import REPOSITORY, options
from monai.bundle import create_workflow

pytestmark = pytest.mark.slow
CONFIGS = [str(REPOSITORY / f"bundles/simclr/configs/{name}.json") for name in ("train", "multi_gpu_train")]
SMALL = {
    "device": "cpu",
    "batch_size": 8,
    "image_size": 32,
    "stem": "default",
    "encoder": "resnet10t",
    "probe_every": 0,
}


def start(agent, nodes, store, folder, **overrides):
    """One agent of `torchrun`, as it is started on each machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        start.port = free.getsockname()[1] if agent == 0 else start.port
    rendezvous = ["--rdzv_id=test", "--rdzv_backend=c10d", f"--rdzv_endpoint=127.0.0.1:{start.port}"]
    places = {"data_file": store, "ckpt_dir": folder / "models", "output_dir": folder / "eval"}
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes}", "--nproc_per_node=1", *rendezvous,
        "--local_addr=127.0.0.1", "-m", "monai.bundle", "run", "--config_file", str(CONFIGS),
        *options({**SMALL, **places, **overrides}),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=folder, text=True, env=environment, start_new_session=True, **pipes)


@pytest.fixture
def agents():
    """Collects agents, and ends what they leave running."""
    started = []
    yield started
    for process in started:
        if process.poll() is None:
            for pid in [*ranks(process), process.pid]:
                os.kill(pid, signal.SIGKILL)
            process.wait()


def ranks(agent):
    """Process numbers of an agent's ranks."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):  # ended in between
            continue
        found += [int(path.parent.name)] if parent == agent.pid else []
    return found


def test_two_machines_train_one_network_and_one_rank_writes(small_phantom, tmp_path, agents):
    for agent in range(2):
        agents.append(start(agent, 2, small_phantom, tmp_path, max_epochs=1))
    texts = [process.communicate(timeout=300)[0] for process in agents]
    assert [process.returncode for process in agents] == [0, 0], "\n".join(texts)
    assert sum("The pretrained encoder is" in text for text in texts) == 1
    state = torch.load(tmp_path / "models/checkpoint.pt", weights_only=True)
    assert state["state"]["epoch"] == 1
    assert validated_by_one(small_phantom, tmp_path, state["network"]) == pytest.approx(
        state["state"]["best"], rel=1e-5
    )


def validated_by_one(store, folder, network):
    """Validation loss that one rank finds for the weights of a run."""
    places = {"data_file": str(store), "ckpt_dir": str(folder / "one"), "output_dir": str(folder / "one")}
    root = str(REPOSITORY / "bundles/simclr")
    work = create_workflow(
        config_file=CONFIGS[0], workflow_type="train", bundle_root=root, max_epochs=1, **places, **SMALL
    )
    work.initialize()
    work.parser.get_parsed_content("start").load_state_dict(network)
    evaluator = work.parser.get_parsed_content("validate::evaluator")
    evaluator.run()
    return evaluator.state.metrics["val_loss"]


def test_a_rank_that_dies_ends_the_run_and_the_checkpoint_goes_on(small_phantom, tmp_path, agents):
    """The other rank does not hang, and the same command with `resume` ends what was begun."""
    for agent in range(2):
        agents.append(start(agent, 2, small_phantom, tmp_path, max_epochs=500))
    checkpoint = tmp_path / "models/checkpoint.pt"
    limit = time.time() + 240
    while not checkpoint.exists() and time.time() < limit:
        time.sleep(0.2)
    assert checkpoint.exists()
    (rank,) = ranks(agents[1])
    os.kill(rank, signal.SIGKILL)
    texts = [process.communicate(timeout=300)[0] for process in agents]
    assert all(process.returncode for process in agents)
    assert "SIGKILL" in texts[1]
    assert "error: rank 0 has lost another rank" in texts[0]
    done = torch.load(checkpoint, weights_only=True)["state"]["epoch"]
    last = done + 1
    pair = [start(agent, 2, small_phantom, tmp_path, max_epochs=last, resume=True) for agent in range(2)]
    agents.extend(pair)
    texts = [process.communicate(timeout=300)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], "\n".join(texts)
    assert torch.load(checkpoint, weights_only=True)["state"]["epoch"] == last
