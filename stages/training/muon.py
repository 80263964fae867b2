"""Muon: steps whose matrices have all singular values alike; for the weights inside a network."""

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
_LEAST_SIDE = 16
_READ_OUT = (*Reading._fields, "head")  # names of layers
#: Of a matrix with norm 1. Momentum without a gradient falls below 1e-38 within 1,700 steps, and a
#: CPU multiplies such matrices 100 times as slowly: 0.9 s for 0.01 s a step of ``compact``.
_NOTHING = 1e-15


class Muon(Optimizer):
    """Nesterov momentum, made orthogonal.

    ``torch.optim.Muon`` takes matrices alone and computes in bf16, which CPUs without AMX are slow
    at. Here a convolution (out, in, h, w) counts as a matrix (out, in * h * w), and the numbers are
    the weight's own.

    Args:
        parameters: with two or more dimensions.
        lr: spectral norm of a step, times the root of rows / columns for tall matrices.
        weight_decay: decoupled, times ``lr``.
        momentum: how much of the last gradients is kept.
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
        """Take one step; weights without a gradient stay as they are."""
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

    Every step of the iteration is a polynomial of the Gram matrix times the last result. The
    polynomials are multiplied first: they are as small as the shorter side.
    """
    wide = matrix if matrix.size(0) <= matrix.size(1) else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    wide = wide.where(wide.abs() > _NOTHING, 0)
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
    """Weights of linear layers and convolutions that neither see the picture nor read out.

    Those, like biases, norms and learned tokens, are what Muon is not made for.
    """
    found: list[nn.Parameter] = []
    for name, layer in module.named_modules():
        reads_out = name.rpartition(".")[2] in _READ_OUT
        if not isinstance(layer, nn.Linear | nn.Conv2d) or reads_out:
            continue
        if min(len(layer.weight), layer.weight[0].numel()) >= _LEAST_SIDE:
            found.append(cast("nn.Parameter", layer.weight))
    return found
