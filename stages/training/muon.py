"""The Muon optimizer: orthogonalized updates, for the weights inside a network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..networks.base import Reading

# Quintic Newton-Schulz iteration of Jordan et al., https://kellerjordan.github.io/posts/muon/
_FIRST, _THIRD, _FIFTH = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_MIN_SIDE = 16
_COLOURS = 3
_OUTPUT_LAYERS = (*Reading._fields, "head")
#: Set to 0 below this, in a matrix of norm 1. Without a gradient, momentum falls below 1e-38 within
#: 1,700 steps, and a CPU multiplies such numbers 100 times as slowly: a step of ``compact`` takes
#: 0.9 s instead of 0.01 s.
_NEGLIGIBLE = 1e-15


class Muon(Optimizer):
    """Orthogonalized Nesterov momentum.

    ``torch.optim.Muon`` takes matrices only and computes in bf16, slow on CPUs without AMX.
    a convolution (out, in, h, w) counts as a matrix (out, in * h * w), in the weight's own dtype.

    Args:
        parameters: with two or more dimensions.
        lr: spectral norm of a step, times the root of rows / columns for tall matrices.
        weight_decay: decoupled, times ``lr``.
        momentum: share of the running gradient that each step keeps.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step; weights without a gradient do not change."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                kept: Tensor = state["momentum"]
                kept.lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(kept, group["momentum"]).flatten(1)
                tall = max(1.0, ahead.size(0) / ahead.size(1)) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonal(ahead).reshape(weight.shape), alpha=-group["lr"] * tall)


def orthogonal(matrix: Tensor) -> Tensor:
    """(M, N) → (M, N) with the same singular vectors and singular values between 0.7 and 1.2.

    Each step of the iteration is a polynomial of the Gram matrix times the last result. The
    polynomials are multiplied first, because they are only as large as the shorter side.
    """
    wide = matrix if matrix.size(0) <= matrix.size(1) else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    wide = wide.where(wide.abs() > _NEGLIGIBLE, 0)
    gram = wide @ wide.T
    product = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    for turn in range(_ITERATIONS):
        factor = torch.addmm(gram, gram, gram, beta=_THIRD, alpha=_FIFTH)
        factor.diagonal().add_(_FIRST)
        product = factor @ product
        if turn < _ITERATIONS - 1:
            gram = factor @ gram @ factor
    wide = product @ wide
    return wide if matrix.size(0) <= matrix.size(1) else wide.T


def inner_weights(module: nn.Module) -> list[nn.Parameter]:
    """Return weights of linear layers and convolutions, except the first and the output layers.

    Muon is not meant for those, nor for biases, norms and learned tokens.
    """
    found: list[nn.Parameter] = []
    for name, layer in module.named_modules():
        is_output = name.rpartition(".")[2] in _OUTPUT_LAYERS
        sees_picture = isinstance(layer, nn.Conv2d) and layer.in_channels <= _COLOURS
        if not isinstance(layer, nn.Linear | nn.Conv2d) or is_output or sees_picture:
            continue
        if min(len(layer.weight), layer.weight[0].numel()) >= _MIN_SIDE:
            found.append(cast("nn.Parameter", layer.weight))
    return found
