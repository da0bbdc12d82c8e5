"""The optimizer of the miniatures' training."""

from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hdpainter.mini.training.base import model_part
from hdpainter.mini.training.optim import MuonAdam, orthogonalise, split_parameters

CONFIGS = Path(__file__).parents[3] / "configs"
shapes = st.tuples(st.integers(2, 40), st.integers(2, 40))


@settings(max_examples=25, deadline=None)
@given(shapes, st.integers(0, 2**31))
def test_orthogonalise_keeps_directions_and_evens_out_strengths(shape, seed):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    strong = s > 0.05 * s[0]  # five iterations do not lift the weakest ones all the way
    result = u.T @ orthogonalise(matrix) @ vt.T
    assert torch.all((result.diagonal()[strong] > 0.4) & (result.diagonal()[strong] < 1.4))
    assert (result - torch.diag(result.diagonal())).abs().max() < 0.15  # bfloat16


def test_optimizer_solves_a_linear_problem():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1))
    optimizer = MuonAdam(split_parameters([net], 0.02, 1e-2, 1e-2))
    x = torch.randn(16, 3, 4, 4)
    target = x.flip(1) + 0.5
    losses = []
    for _ in range(150):
        loss = (net(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


def test_every_parameter_is_in_one_group_and_queries_and_keys_are_not_with_muon():
    unet = model_part(str(CONFIGS / "models/mini-inpainting.yaml")).model
    groups = split_parameters([unet], 0.01, 1e-3, 1e-3)
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in unet.parameters())
    matrices = {id(p) for group in groups if group.get("matrix") for p in group["params"]}
    for name, p in unet.named_parameters():
        if p.ndim < 2 or "to_q" in name or "to_k" in name:
            assert id(p) not in matrices, name
    assert len(matrices) > 100
