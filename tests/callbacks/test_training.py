import dataclasses
import math
import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning import Callback

from jitlab.callbacks.checkpointing import Checkpointing
from jitlab.callbacks.evaluation import Evaluation
from jitlab.callbacks.run_log import RunFolder
from jitlab.callbacks.sample_grid import SampleGrid
from jitlab.callbacks.stop import StoppedError, StopRequest
from jitlab.diffusion.objective import Objective
from jitlab.errors import RunError, UserError
from jitlab.metrics import features
from tests.callbacks.runs import BatchKeys, Run, equal, tiny_config, train
from tests.inception import write_inception

ARMS = ("x", "v", "eps")


class RecordingObjective(Objective):
    drawn: list[tuple[torch.Tensor, ...]]

    def draw(self, x, y, seed, position):
        drawn = super().draw(x, y, seed, position)
        self.drawn.append((x, y, *drawn))
        return drawn


class Draws(Callback):
    """Records what the objective draws at every step."""

    def __init__(self) -> None:
        self.drawn: list[tuple[torch.Tensor, ...]] = []

    def on_fit_start(self, trainer, pl_module) -> None:
        pl_module.objective = RecordingObjective(**dataclasses.asdict(pl_module.objective))
        object.__setattr__(pl_module.objective, "drawn", self.drawn)


class Weights(Callback):
    """Records the raw weights before the first step and after every one."""

    def __init__(self) -> None:
        self.history: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer, pl_module) -> None:
        self._add(pl_module)

    def on_train_batch_end(self, trainer, pl_module, *args: Any) -> None:
        self._add(pl_module)

    def _add(self, module: Any) -> None:
        self.history.append({name: tensor.detach().clone() for name, tensor in module.network.named_parameters()})


class Spoil(Callback):
    """Makes the gradients of one step NaN."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer, pl_module, optimizer) -> None:
        if trainer.global_step + 1 == self.step:
            next(pl_module.network.parameters()).grad.fill_(math.nan)


@pytest.fixture(scope="module")
def arms(shards, tmp_path_factory):
    runs: dict[str, Any] = {}
    for arm in ARMS:
        torch.manual_seed(len(runs))
        changes = {"evaluation__every_steps": 3, "evaluation__held_out_every_steps": 2}
        config = tiny_config(shards, arm, train__steps=5, **changes, data__flip=True)
        keys, draws, weights = BatchKeys(), Draws(), Weights()
        runs[arm] = train(config, tmp_path_factory.mktemp(arm), [keys, draws, weights]), keys, draws, weights
    return runs


@pytest.mark.parametrize("other", ["v", "eps"])
def test_arms_see_the_same_batch_noise_t_and_dropped_labels_at_every_step(arms, other):
    (first, first_keys, first_draws, _), (second, second_keys, second_draws, _) = arms["x"], arms[other]
    assert len(first_keys.keys) == len(first_draws.drawn) == 5
    assert first_keys.keys == second_keys.keys
    for ours, theirs in zip(first_draws.drawn, second_draws.drawn, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)
    assert equal(first.initial, second.initial)
    assert not equal(first.weights, second.weights)


def test_steps_differ_in_batch_noise_and_t(arms):
    _, keys, draws, _ = arms["x"]
    for step in range(1, 4):
        assert not set(keys.keys[step]) & set(keys.keys[0])
        assert not any(torch.equal(draws.drawn[step][place], draws.drawn[0][place]) for place in (2, 3, 4))


def test_about_a_tenth_of_the_labels_is_dropped(arms):
    _, _, draws, _ = arms["x"]
    dropped = torch.cat([y != labels for _, labels, _, _, y in draws.drawn])
    assert 0.05 < dropped.float().mean() < 0.15
    assert all((y[y != labels] == 10).all() for _, labels, _, _, y in draws.drawn)


def test_all_arms_log_the_same_keys_at_the_same_steps(arms):
    points = {arm: run.logged().keys() for arm, (run, *_) in arms.items()}
    assert points["x"] == points["v"] == points["eps"]
    assert all(math.isfinite(value) for run, *_ in arms.values() for value in run.logged().values())


def test_points_are_logged_where_the_settings_say(arms):
    points = arms["x"][0].logged()

    def steps(key):
        return [step for step, name in points if name == key]

    assert steps("train/loss") == steps("train/x_mse") == steps("train/learning_rate") == [2, 4, 5]
    assert steps("eval/fd_pixels") == steps("eval/off_manifold_ema0.9") == [3, 5]
    assert steps("val/v_mse") == steps("val/x_mse_t0.1") == steps("val/eps_mse_t0.9_ema0.9") == [2, 4, 5]
    assert steps("throughput/images_per_second") == [2, 4]
    assert points[5, "train/images"] == 5 * 400
    assert points[5, "train/epochs"] == 5 / 4
    assert points[2, "train/initial_share_ema0.9"] == pytest.approx(0.81)


def test_held_out_mean_is_the_mean_of_its_bins(arms):
    points = arms["v"][0].logged("val/")
    bins = [points[5, f"val/v_mse_t{t}"] for t in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert points[5, "val/v_mse"] == pytest.approx(sum(bins) / 5)


def test_loss_is_the_error_in_the_loss_space(arms):
    for run, *_ in arms.values():
        points = run.logged("train/")
        assert points[4, "train/loss"] == pytest.approx(points[4, "train/v_mse"], rel=1e-5)


def test_checkpoint_has_raw_weights_in_its_state_and_averages_under_their_own_key(arms):
    run, _, _, weights = arms["x"]
    checkpoint = run.checkpoint
    assert checkpoint["global_step"] == 5
    state = {name.removeprefix("network."): tensor for name, tensor in checkpoint["state_dict"].items()}
    assert equal(state, run.weights)
    assert checkpoint["ema"].keys() == {"0.5", "0.9"}
    assert len(weights.history) == 6
    for decay in (0.5, 0.9):
        for name, average in checkpoint["ema"][str(decay)].items():
            expected = weights.history[0][name]
            for step in weights.history[1:]:
                expected = decay * expected + (1 - decay) * step[name]
            torch.testing.assert_close(average, expected, rtol=1e-4, atol=1e-6)


def test_evaluations_and_grids_do_not_change_training(shards, tmp_path, arms):
    config = tiny_config(
        shards,
        train__steps=5,
        data__flip=True,
        evaluation__every_steps=1,
        evaluation__held_out_every_steps=1,
        evaluation__grid_every_steps=1,
        train__log_every_steps=3,
        train__checkpoint_every_steps=1,
    )
    watched = train(config, tmp_path)
    assert_equal_training(watched, arms["x"][0])
    last = {key: value for (step, key), value in arms["x"][0].logged("eval/").items() if step == 5}
    assert last == {key: value for (step, key), value in watched.logged("eval/").items() if step == 5}


def test_with_dropout_evaluations_do_not_change_training_either(shards, tmp_path):
    dropout: dict[str, Any] = {"train__steps": 4, "model__dropout": 0.3, "model__depth": 4}
    every: dict[str, Any] = {
        "evaluation__every_steps": 1,
        "evaluation__held_out_every_steps": 1,
        "evaluation__grid_every_steps": 1,
    }
    unwatched = train(tiny_config(shards, **dropout), tmp_path / "unwatched")
    watched = train(tiny_config(shards, **dropout, **every), tmp_path / "watched")
    assert len(watched.logged("eval/fd_pixels_ema0.9")) == 4
    assert len(unwatched.logged("eval/fd_pixels_ema0.9")) == 1
    assert_equal_training(watched, unwatched)
    plain = train(tiny_config(shards, train__steps=4, model__depth=4), tmp_path / "plain")
    assert not equal(plain.weights, watched.weights)


@pytest.mark.slow
def test_inception_does_not_change_training_either(shards, tmp_path, monkeypatch):
    # Its forward has the full size that this says, of which some tens of seconds would be black images.
    monkeypatch.setattr(features, "FORWARD_BATCH", 5)
    monkeypatch.setenv("JITLAB_INCEPTION_WEIGHTS", str(write_inception(tmp_path / "inception.pth")))
    few: dict[str, Any] = {"train__steps": 2, "evaluation__images": 10, "evaluation__reference_images": 10}
    plain = train(tiny_config(shards, **few), tmp_path / "plain")
    watched = train(
        tiny_config(shards, **few, evaluation__features="inception", evaluation__every_steps=1), tmp_path / "watched"
    )
    assert_equal_training(watched, plain)
    found = watched.logged("eval/")
    assert all(found[step, f"eval/fid{average}"] > 0 for step in (1, 2) for average in ("", "_ema0.9"))
    assert "published" in watched.output
    # Of the patches, which are the same whatever the features.
    for name in ("off_manifold", "seams", "off_manifold_ema0.9"):
        assert found[2, f"eval/{name}"] == plain.logged()[2, f"eval/{name}"]


def assert_equal_training(ours: Run, theirs: Run) -> None:
    first, second = ours.checkpoint, theirs.checkpoint
    assert equal(first["state_dict"], second["state_dict"])
    assert first["ema"].keys() == second["ema"].keys() == {"0.5", "0.9"}
    assert all(equal(first["ema"][decay], second["ema"][decay]) for decay in first["ema"])
    assert equal_states(first["optimizer_states"], second["optimizer_states"])


def equal_states(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal_states(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal_states, first, second))
    return bool(first == second)


def test_evaluation_warns_while_more_than_a_tenth_of_the_initial_weights_is_in_an_average(shards, tmp_path):
    config = tiny_config(shards, train__steps=4, evaluation__every_steps=3, train__ema_decays=[0.5, 0.999])
    warnings = [line for line in train(config, tmp_path).output.splitlines() if "initial weights" in line]
    # 0.5³ is more than a tenth, 0.5⁴ is not.
    assert ["step 3" in line for line in warnings] == [True, True, False]
    assert ["decay 0.5 " in line for line in warnings] == [True, False, False]
    assert "decay 0.999 still holds 100%" in warnings[2]


def test_checkpoints_are_saved_at_multiples_and_at_the_last_step(shards, tmp_path):
    run = train(tiny_config(shards, train__steps=5, train__checkpoint_every_steps=2), tmp_path)
    assert run.saved == [2, 4, 5]
    assert not run.stopped


def test_a_stop_request_saves_the_step_and_stops(shards, tmp_path):
    run = train(tiny_config(shards, train__steps=5, train__checkpoint_every_steps=2), tmp_path, stop_after=3)
    assert run.stopped
    assert run.saved == [2, 3]
    assert run.checkpoint["global_step"] == 3


def test_a_stop_request_at_the_last_step_saves_it(tmp_path):
    stop, saved = StopRequest(), list[int]()
    stop.handle(signal.SIGINT, None)
    alone = SimpleNamespace(broadcast=lambda word: word)
    trainer = cast(
        Any, SimpleNamespace(global_step=7, max_steps=7, strategy=alone, save_checkpoint=lambda path: path.touch())
    )
    with pytest.raises(StoppedError):
        Checkpointing(tmp_path / "last.ckpt", [100], stop, saved.append).on_train_batch_end(trainer, cast(Any, None))
    assert saved == [7]
    assert (tmp_path / "last.ckpt").exists()


def test_a_stop_request_during_an_evaluation_saves_the_step(shards, tmp_path):
    config = tiny_config(shards, train__steps=5, evaluation__every_steps=2)
    run = train(config, tmp_path, stop_after=2)
    assert run.stopped
    assert run.saved == [2]


@pytest.mark.parametrize("look", [Evaluation, SampleGrid])
@pytest.mark.parametrize("step", [2, 4])
def test_what_a_stop_cut_off_after_a_checkpoint_is_made_up_for(shards, tmp_path, monkeypatch, look, step):
    config = tiny_config(
        shards,
        train__steps=4,
        evaluation__every_steps=2,
        evaluation__grid_every_steps=2,
        train__checkpoint_every_steps=2,
    )
    whole = train(config, tmp_path / "whole")
    original = look.look

    def cut_off(self, trainer, module):
        if trainer.global_step == step:
            raise StoppedError
        original(self, trainer, module)

    with monkeypatch.context() as patched:
        patched.setattr(look, "look", cut_off)
        assert train(config, tmp_path / "cut").stopped
    resumed = train(config, tmp_path / "cut")
    assert resumed.logged("eval/") == whole.logged("eval/")
    assert resumed.logged("val/") == whole.logged("val/")
    pictures = [sorted(path.name for path in (run.folder / "samples").iterdir()) for run in (whole, resumed)]
    assert pictures[0] == pictures[1]


def test_means_of_a_window_survive_a_checkpoint_in_its_middle(shards, tmp_path):
    config = tiny_config(shards, train__steps=4, train__log_every_steps=4)
    whole = train(config, tmp_path / "whole").logged("train/")
    assert [key for step, key in whole if step != 4] == []
    assert train(config, tmp_path / "resumed", stop_after=3).logged("train/") == {}
    assert train(config, tmp_path / "resumed").logged("train/") == whole


def test_means_of_a_window_are_means_of_its_steps(shards, tmp_path):
    single = train(tiny_config(shards, train__steps=4, train__log_every_steps=1), tmp_path / "single").logged("train/")
    window = train(tiny_config(shards, train__steps=4, train__log_every_steps=4), tmp_path / "window").logged("train/")
    for key in ("train/loss", "train/x_mse", "train/grad_norm"):
        assert window[4, key] == pytest.approx(sum(single[step, key] for step in range(1, 5)) / 4)


def test_non_finite_gradient_names_its_step_and_keeps_weights_and_the_last_checkpoint(shards, tmp_path):
    config = tiny_config(shards, train__steps=4, train__checkpoint_every_steps=2)
    weights = Weights()
    with pytest.raises(RunError, match="step 3"):
        train(config, tmp_path, [Spoil(3), weights])
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 2
    assert equal(weights.history[-1], weights.history[2])
    saved = {name.removeprefix("network."): tensor for name, tensor in checkpoint["state_dict"].items()}
    assert all(torch.equal(saved[name], tensor) for name, tensor in weights.history[2].items())
    rows = list(RunFolder(tmp_path).rows())
    assert all(math.isfinite(value) for row in rows for value in row["metrics"].values())
    assert max(row["step"] for row in rows) == 2


def test_resuming_with_other_decays_is_refused_and_names_the_setting(shards, tmp_path):
    train(tiny_config(shards, train__steps=2), tmp_path, stop_after=1)
    with pytest.raises(UserError, match=r"0\.75.*train\.ema_decays") as caught:
        train(tiny_config(shards, train__steps=2, train__ema_decays=[0.5, 0.75]), tmp_path)
    assert len(str(caught.value).splitlines()) == 1


def test_resuming_from_a_damaged_checkpoint_is_refused(shards, tmp_path):
    config = tiny_config(shards, train__steps=2)
    train(config, tmp_path, stop_after=1)
    content = (tmp_path / "last.ckpt").read_bytes()
    (tmp_path / "last.ckpt").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"last\.ckpt.*--fresh"):
        train(config, tmp_path)
