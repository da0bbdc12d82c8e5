"""Muon for weight matrices and Adam for everything else, as one optimizer.

Muon [Jordan et al. 2024] replaces the momentum M of a weight matrix by the nearest semi-orthogonal matrix U
V^T, found by five Newton-Schulz iterations: every direction then moves at the same speed. It trains these
small networks several times faster than Adam alone does. The queries' and keys' projections of attention are
excepted: at Muon's step size their logits grow until the softmax looks at one token only.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MOMENTUM = 0.95  # of Muon
BETAS = (0.9, 0.98)  # of Adam


def orthogonalise(matrices: Tensor) -> Tensor:
    """About U V^T of every matrix X = U S V^T in `matrices` [..., m, n].

    An iteration multiplies X by a polynomial Q of its Gram matrix G = X X^T, and so G by Q^2, as Q and G are
    symmetric and commute. So all iterations are done on matrices of the shorter side, and X is read only twice.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    gram = x @ x.mT
    product = factor = _polynomial(gram)
    for _ in range(ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _polynomial(gram)
        product = factor @ product
    x = product @ x
    return x.mT if tall else x


def _gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Those of parameters that all have one."""
    return [p.grad for p in parameters if p.grad is not None]


def _polynomial(gram: Tensor) -> Tensor:
    a, b, c = NEWTON_SCHULZ
    q = c * gram @ gram + b * gram
    q.diagonal(dim1=-2, dim2=-1).add_(a)
    return q


class MuonAdam(torch.optim.Optimizer):
    """Muon on the groups with ``matrix=True``, Adam on the others.

    Each group has its own `lr`. Convolution kernels count as matrices [out, in * height * width]. A matrix
    update is scaled by sqrt(max(1, m / n)), so that one learning rate suits all shapes.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]):
        super().__init__(groups, {"lr": 1e-3, "matrix": False})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            update = self._muon if group["matrix"] else self._adam
            update(parameters, group)
        return loss

    def _muon(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        by_shape: dict[tuple[int, int], list[nn.Parameter]] = {}
        for p in parameters:
            by_shape.setdefault((len(p), p[0].numel()), []).append(p)
        for (m, n), same in by_shape.items():
            momenta = []
            for p in same:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                momenta.append(state["momentum"])
            gradients = _gradients(same)
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            nesterov = torch._foreach_lerp(gradients, momenta, MOMENTUM)
            directions = orthogonalise(torch.stack([x.reshape(m, n) for x in nesterov]))
            steps = [d.view_as(p) for d, p in zip(directions, same, strict=True)]
            torch._foreach_add_(tuple(same), steps, alpha=-group["lr"] * max(1.0, m / n) ** 0.5)

    def _adam(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        if not parameters:
            return
        beta1, beta2 = BETAS
        for p in parameters:
            if not self.state[p]:
                self.state[p].update(mean=torch.zeros_like(p), square=torch.zeros_like(p))
        means, squares = ([self.state[p][name] for p in parameters] for name in ("mean", "square"))
        gradients = _gradients(parameters)
        group["updates"] = step = group.get("updates", 0) + 1
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        roots = torch._foreach_div(squares, 1 - beta2**step)
        torch._foreach_sqrt_(roots)
        torch._foreach_add_(roots, 1e-8)
        torch._foreach_addcdiv_(tuple(parameters), means, roots, -group["lr"] / (1 - beta1**step))


def split_parameters(
    modules: Iterable[nn.Module], matrix_lr: float, vector_lr: float, attention_lr: float
) -> list[dict[str, Any]]:
    """Parameter groups for `MuonAdam`: matrices; queries and keys; biases, norms and embeddings."""
    matrices, attention, vectors = [], [], []
    for module in modules:
        tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
        for name, p in module.named_parameters():
            if not p.requires_grad:
                continue
            if p.ndim < 2 or min(len(p), p[0].numel()) < 2 or id(p) in tables or "embedding" in name:
                vectors.append(p)
            elif "to_q" in name or "to_k" in name or "in_proj" in name:
                attention.append(p)
            else:
                matrices.append(p)
    groups = [
        {"params": matrices, "lr": matrix_lr, "matrix": True},
        {"params": attention, "lr": attention_lr},
        {"params": vectors, "lr": vector_lr},
    ]
    return [group for group in groups if group["params"]]
