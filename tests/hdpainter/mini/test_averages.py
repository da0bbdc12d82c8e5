"""Averages whose length is chosen after training: what they are, and that snapshots give them back."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hdpainter.mini.average import combine, main
from hdpainter.mini.training.averages import Snapshots, exponent, products, shares
from ldm.util import UserError


@pytest.mark.parametrize("length", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_the_exponent_gives_the_length(length):
    t = (np.arange(200_000) + 0.5) / 200_000
    p = (exponent(length) + 1) * t ** exponent(length)
    mean = (p * t).mean()
    assert ((p * (t - mean) ** 2).mean()) ** 0.5 == pytest.approx(length, rel=1e-3)


def test_products_are_those_of_the_profiles():
    def profile(length, step, t):
        g = exponent(length)
        return np.where(t <= step, (g + 1) * t**g / step ** (g + 1), 0)

    t = (np.arange(400_000) + 0.5) / 400_000 * 900
    for one, other in (((0.05, 300), (0.1, 900)), ((0.2, 900), (0.05, 600)), ((0.1, 500), (0.1, 500))):
        expected = (profile(*one, t) * profile(*other, t)).mean() * 900
        assert products([one[0]], [one[1]], *other)[0] == pytest.approx(expected, rel=1e-3)


class Line(torch.nn.Module):
    """A network of one weight, whose trainer's task it also is."""

    is_global_zero = True
    device = torch.device("cpu")

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, 2))
        self.network, self.global_step = self, 0


@pytest.fixture
def run(tmp_path):
    """A folder with snapshots of a weight that goes the way f, and f."""
    task, way = Line(), np.stack([np.sin(np.arange(401) / 40), np.sqrt(np.arange(401))], 1)
    callback = Snapshots(tmp_path, (0.05, 0.1, 0.2), minutes=1e9)
    callback.on_train_start(task, task)
    for task.global_step in range(1, 401):
        with torch.no_grad():
            task.weight.copy_(torch.from_numpy(way[None, task.global_step]))
        callback.on_train_batch_end(task, task, None, None, 0)
        if task.global_step % 40 == 0:
            callback.write(task.global_step)
        if task.global_step == 100:  # a run that is interrupted goes on with its averages
            resumed = Snapshots(tmp_path, (0.05, 0.1, 0.2), minutes=1e9)
            resumed.load_state_dict(callback.state_dict())
            resumed.on_train_start(task, task)
            callback = resumed
    return tmp_path, way


def direct(way, length, step):
    t = np.arange(1, step + 1)
    g = exponent(length)
    weights = t ** (g + 1.0) - (t - 1) ** (g + 1.0)
    return (way[1 : step + 1] * weights[:, None]).sum(0) / step ** (g + 1)


@pytest.mark.parametrize("length, step", [(0.05, 400), (0.1, 240), (0.15, 400), (0.07, 400), (0.15, 320)])
def test_snapshots_give_the_average_of_any_length(run, length, step):
    folder, way = run
    found = combine(folder / "snapshots", length, step)["weight"][0].numpy()
    scale = np.abs(way[1 : step + 1] - direct(way, length, step)).mean(0)
    assert np.abs(found - direct(way, length, step)).max() < 0.02 * scale.max()


def test_weights_of_snapshots_sum_to_one_and_find_a_snapshot_itself():
    found = shares([0.05, 0.05, 0.1], [100, 200, 200], 0.1, 200)
    assert found == pytest.approx([0, 0, 1], abs=1e-6)
    assert shares([0.05, 0.1], [100, 200], 0.2, 150).sum() == pytest.approx(1)


def test_the_command_writes_a_whole_model(run, capsys):
    folder, way = run
    rest, out = folder / "rest.safetensors", folder / "whole.safetensors"
    save_file({"model.weight": torch.zeros(1, 2), "other": torch.ones(3, dtype=torch.int64)}, rest)
    main([str(folder), "--length", "0.1", "--rest", str(rest), "--out", str(out)])
    state = load_file(out)
    assert state["model.weight"].dtype == torch.float16 and torch.equal(state["other"], torch.ones(3).long())
    assert state["model.weight"][0].numpy() == pytest.approx(direct(way, 0.1, 400), rel=2e-3)
    for words, problem in (
        (["--length", "0.3"], "at most 0.28"),
        (["--length", "0.1", "--step", "3"], "no snapshot of step 3; there are those of 40, 80, 120,"),
    ):
        with pytest.raises(UserError, match=problem):
            main([str(folder), *words, "--rest", str(rest), "--out", str(out)])
    save_file({"a": torch.zeros(1)}, rest)
    with pytest.raises(UserError, match=r"has no model\.weight"):
        main([str(folder), "--length", "0.1", "--rest", str(rest), "--out", str(out)])
