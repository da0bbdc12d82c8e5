"""The moving average of weights."""

import pytest
import torch
import torch.nn as nn
from hypothesis import given, settings
from hypothesis import strategies as st

from ldm.modules.ema import LitEma


def model_with(value: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Sequential(nn.Linear(1, 1, bias=False)))
    model[1][0].weight.requires_grad_(False)
    nn.init.constant_(model[0].weight, value)
    return model


@settings(deadline=None)
@given(
    values=st.lists(st.floats(-10, 10), min_size=1, max_size=20),
    decay=st.floats(0.0, 1.0),
    warm_up=st.booleans(),
)
def test_average_follows_its_recursion(values, decay, warm_up):
    ema, expected = LitEma(model_with(0.5), decay, warm_up), 0.5
    for n, value in enumerate(values, start=1):
        ema(model_with(value))
        d = min(decay, (1 + n) / (10 + n)) if warm_up else decay
        expected = d * expected + (1 - d) * value
    averaged = model_with(0)
    ema.copy_to(averaged)
    assert averaged[0].weight.item() == pytest.approx(expected, abs=1e-4)


def test_keys_are_those_of_the_checkpoints_and_frozen_weights_are_left_out():
    assert set(LitEma(model_with(1)).state_dict()) == {"decay", "num_updates", "0weight"}


def test_store_and_restore_bring_the_trained_weights_back():
    model = model_with(1.0)
    ema = LitEma(model)
    nn.init.constant_(model[0].weight, 3.0)
    ema.store(model.parameters())
    ema.copy_to(model)
    assert model[0].weight.item() == 1.0
    ema.restore(model.parameters())
    assert model[0].weight.item() == 3.0


def test_average_survives_a_checkpoint_and_can_start_anew():
    model = model_with(2.0)
    ema = LitEma(model)
    for _ in range(5):
        ema(model)
    again = LitEma(model_with(0.0))
    again.load_state_dict(ema.state_dict())
    assert again.num_updates == 5 and torch.equal(again.get_buffer("0weight"), model[0].weight)
    again.reset_num_updates()
    assert again.num_updates == 0


def test_decay_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"decay 1\.5"):
        LitEma(model_with(0), decay=1.5)
