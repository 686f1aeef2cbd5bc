import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from monai.optimizers import WarmupCosineSchedule
from torch import nn

from cxrmonai.engines import CheckpointHandler, EpochSeed, checkpointing
from cxrmonai.errors import CxrError
from cxrmonai.networks import ContrastiveNetwork, load_encoder

STEPS = 3


class Run:
    """A tiny training run with random augmentation, a schedule by step, and a validation that reads out `scores`."""

    def __init__(self, folder, max_epochs=4, scores=None, steps=STEPS, network=None, metric="val_loss", **options):
        torch.manual_seed(0)
        self.network = network or nn.Sequential(nn.Flatten(), nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.05)
        self.schedule = WarmupCosineSchedule(self.optimizer, warmup_steps=2, t_total=max_epochs * steps)
        self.rates, self.losses = [], []
        self.validator = None if scores is None else Engine(lambda *_: None)
        objects = {"optimizer": self.optimizer, "lr_scheduler": self.schedule}
        self.handler = CheckpointHandler(folder, self.network, objects, self.validator, metric, **options)
        random = torch.Generator().manual_seed(1)
        data = [
            {"image": torch.rand(6, 4, generator=random), "label": torch.rand(6, 1, generator=random)}
            for _ in range(steps)
        ]
        self.trainer = SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=max_epochs,
            train_data_loader=data,
            network=self.network,
            optimizer=self.optimizer,
            loss_function=nn.MSELoss(),
            prepare_batch=lambda batch, *_, **__: (batch["image"] + torch.rand(6, 4), batch["label"]),
            decollate=False,
            train_handlers=[EpochSeed(0), LrScheduleHandler(self.schedule, print_lr=False, epoch_level=False)],
        )
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self.note)
        if scores is not None:
            self.trainer.add_event_handler(Events.EPOCH_COMPLETED, self.validate, scores)
        self.handler.attach(self.trainer)

    def note(self, engine):
        self.losses.append(engine.state.output["loss"].item())
        self.rates.append(self.optimizer.param_groups[0]["lr"])

    def validate(self, engine, scores):
        self.validator.state.metrics["val_loss"] = scores[engine.state.epoch - 1]

    def run(self):
        self.trainer.run()
        return self

    def stop_after(self, epoch):
        """As if the process were killed when that epoch is saved."""

        class KilledError(Exception):
            pass

        def kill(engine):
            raise KilledError

        self.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=epoch), kill)
        with pytest.raises(KilledError):
            self.trainer.run()
        return self

    def state(self):
        return {key: value.clone() for key, value in self.network.state_dict().items()}


def read(path):
    return torch.load(path, weights_only=True)


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize(
    ("mode", "scores", "best"),
    [
        ("min", [3.0, 1.0, 2.0, 1.0], 2),
        ("max", [3.0, 1.0, 4.0, 2.0], 3),
        ("min", [float("nan"), 5.0, 4.0, 6.0], 3),
        ("max", [1.0, float("nan"), 0.5, float("nan")], 1),
    ],
)
def test_best_is_kept_by_the_metric(tmp_path, mode, scores, best):
    run = Run(tmp_path, scores=scores, mode=mode)
    states = []
    run.trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: states.append(run.state()))
    run.run()
    assert (run.handler.best, run.handler.best_epoch) == (scores[best - 1], best)
    assert equal(read(run.handler.best_path), states[best - 1])
    assert not equal(states[best - 1], states[-1])
    assert equal(read(tmp_path / "model_final.pt"), states[-1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "model.pt", "model_final.pt"]


@pytest.mark.parametrize("options", [{}, {"scores": [1.0, 2.0], "metric": "another"}])
def test_without_a_metric_the_newest_is_the_best(tmp_path, options):
    run = Run(tmp_path, max_epochs=2, **options).run()
    assert equal(read(tmp_path / "model.pt"), run.state())
    assert run.handler.best_epoch == 2


@pytest.mark.parametrize("epoch", [1, 3])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, epoch):
    scores = [3.0, 1.0, 2.0, 1.5]
    whole = Run(tmp_path / "whole", scores=scores).run()
    Run(tmp_path / "cut", scores=scores).stop_after(epoch)
    resumed = Run(tmp_path / "cut", scores=scores, resume=True).run()
    assert resumed.losses == whole.losses[epoch * STEPS :]
    assert resumed.rates == whole.rates[epoch * STEPS :]
    assert len(set(whole.rates)) > STEPS
    assert equal(resumed.state(), whole.state())
    assert (resumed.trainer.state.epoch, resumed.trainer.state.iteration) == (4, 4 * STEPS)
    assert (resumed.handler.best, resumed.handler.best_epoch) == (1.0, 2)
    for name in ("model.pt", "model_final.pt"):
        assert equal(read(tmp_path / "cut" / name), read(tmp_path / "whole" / name))
    ours, theirs = (read(tmp_path / name / "checkpoint.pt") for name in ("cut", "whole"))
    assert ours["state"] == theirs["state"]
    assert ours["lr_scheduler"] == theirs["lr_scheduler"]
    for k, state in theirs["optimizer"]["state"].items():
        assert equal(ours["optimizer"]["state"][k], state)


def test_nothing_to_resume_from_is_said(tmp_path, capsys):
    run = Run(tmp_path, max_epochs=1, resume=True).run()
    assert f"no {tmp_path / 'checkpoint.pt'} to resume from" in capsys.readouterr().out
    assert run.trainer.state.epoch == 1


def test_complete_run_is_refused_and_can_be_made_longer(tmp_path):
    Run(tmp_path, max_epochs=2).run()
    with pytest.raises(CxrError, match=r"checkpoint\.pt: has run 2 of 2 epochs; raise --max_epochs"):
        Run(tmp_path, max_epochs=2, resume=True).run()
    longer = Run(tmp_path, max_epochs=4, resume=True).run()
    whole = Run(tmp_path / "whole", max_epochs=4).run()
    assert longer.rates == whole.rates[2 * STEPS :]  # the schedule has the new length, and does not rise again
    assert longer.rates[-1] == pytest.approx(0, abs=1e-9)


def test_other_number_of_steps_is_refused(tmp_path):
    Run(tmp_path, max_epochs=1).run()
    with pytest.raises(CxrError, match=r"checkpoint\.pt: was made with 3 steps an epoch and this run has 2"):
        Run(tmp_path, max_epochs=2, steps=2, resume=True).run()


def test_checkpoint_of_another_network_is_refused(tmp_path):
    Run(tmp_path, max_epochs=1).run()
    other = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    with pytest.raises(CxrError, match=r"checkpoint\.pt: the weights do not fit the network: left over"):
        Run(tmp_path, max_epochs=2, network=other, resume=True).run()


def test_checkpoint_without_a_part_is_refused(tmp_path):
    Run(tmp_path, max_epochs=1).run()
    content = read(tmp_path / "checkpoint.pt")
    del content["optimizer"]
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(CxrError, match=r"checkpoint\.pt: holds no state of optimizer"):
        Run(tmp_path, max_epochs=2, resume=True).run()


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "other"])
def test_broken_checkpoint(tmp_path, damage):
    Run(tmp_path, max_epochs=1).run()
    path = tmp_path / "checkpoint.pt"
    if damage == "other":
        torch.save({"a": torch.zeros(1)}, path)
    else:
        data = path.read_bytes()
        path.write_bytes({"empty": b"", "text": b"hello", "cut": data[: len(data) // 2]}[damage])
    with pytest.raises(CxrError, match=r"checkpoint\.pt: not a .*start anew with --resume False"):
        Run(tmp_path, max_epochs=2, resume=True).run()


@pytest.mark.parametrize(("patience", "stopped"), [(1, 3), (2, 4), (0, 6), (5, 6)])
def test_patience(tmp_path, capsys, patience, stopped):
    run = Run(tmp_path, max_epochs=6, scores=[3.0, 2.0, 2.0, 2.5, 2.0, 2.2], patience=patience).run()
    assert run.trainer.state.epoch == stopped
    assert ("stopped after" in capsys.readouterr().out) == (stopped < 6)
    assert equal(read(tmp_path / "model_final.pt"), run.state())


@pytest.mark.parametrize("when", ["during model.pt", "between the files", "during checkpoint.pt"])
def test_a_kill_while_saving_leaves_whole_files(tmp_path, monkeypatch, when):
    whole = Run(tmp_path / "whole", max_epochs=3).run()
    folder = tmp_path / "cut"
    Run(folder, max_epochs=3).stop_after(1)
    old = {name: (folder / name).read_bytes() for name in ("checkpoint.pt", "model.pt")}
    saved = []

    def dying_save(content, path):
        saved.append(path)
        if when == "between the files" and len(saved) == 2:
            raise KeyboardInterrupt
        if (when, len(saved)) in (("during model.pt", 1), ("during checkpoint.pt", 2)):
            path.write_bytes(b"half of it")
            raise KeyboardInterrupt
        torch_save(content, path)

    torch_save = torch.save
    monkeypatch.setattr(checkpointing.torch, "save", dying_save)
    with pytest.raises(KeyboardInterrupt):
        Run(folder, max_epochs=3, resume=True).run()
    monkeypatch.undo()
    assert (folder / "checkpoint.pt").read_bytes() == old["checkpoint.pt"]
    assert ((folder / "model.pt").read_bytes() == old["model.pt"]) == (when == "during model.pt")
    read(folder / "model.pt")
    resumed = Run(folder, max_epochs=3, resume=True).run()
    assert equal(resumed.state(), whole.state())


def test_wrapped_network_is_saved_bare_and_its_encoder_loads(tmp_path):
    network = ContrastiveNetwork("resnet18", feature_size=2)
    engine = Engine(lambda *_: None)
    wrapped = nn.Module()
    wrapped.module = network
    CheckpointHandler(tmp_path, wrapped).attach(engine)
    engine.run([0], max_epochs=1)
    assert equal(load_encoder(tmp_path / "model.pt").state_dict(), network.encoder.state_dict())


def test_only_rank_0_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    Run(tmp_path, max_epochs=1, scores=[1.0]).run()
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CxrError, match="cannot write here"):
        Run(tmp_path / "file" / "models", max_epochs=1).run()


def test_unknown_mode():
    with pytest.raises(CxrError, match="mode 'best': must be min or max"):
        CheckpointHandler("models", nn.Linear(1, 1), mode="best")
