"""Mixtures of experts: small parallel networks, and gates that weight their outputs.

Dense soft gates (Jacobs et al. 1991) need no balancing at small batches. ``top`` keeps the largest
gates (Shazeer et al. 2017, arXiv 1701.06538), with the balance loss of the Switch Transformer
(Fedus et al. 2021, arXiv 2101.03961, equation 4), as in Norface.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class MixtureOutput(NamedTuple):
    """The outputs of a mixture, and how it used its experts.

    Attributes:
        tokens: (B, N, D).
        gates: (B, N, E) weights of the experts, each row summing to 1; E is 1 without a mixture.
        balance: (), balance loss: 1 if all experts are used equally, up to E if only one is used.
    """

    tokens: Tensor
    gates: Tensor
    balance: Tensor


class Experts(nn.Module):
    """E two-layer networks of the same shape, all run on all tokens."""

    def __init__(self, width: int, hidden: int, experts: int) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.empty(experts, width, hidden))
        self.first_bias = nn.Parameter(torch.zeros(experts, hidden))
        self.second = nn.Parameter(torch.empty(experts, hidden, width))
        self.second_bias = nn.Parameter(torch.zeros(experts, width))
        for weight in (self.first, self.second):
            for expert in weight:
                nn.init.xavier_uniform_(expert)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) → (B, N, E, D)."""
        hidden = torch.einsum("bnd,edh->bneh", x, self.first) + self.first_bias
        made = torch.einsum("bneh,ehd->bned", functional.gelu(hidden), self.second)
        return made + self.second_bias


class Mixture(nn.Module):
    """A mixture of experts: each token's output is a weighted mean of theirs.

    Args:
        width: D of the tokens.
        hidden: width of an expert's hidden layer.
        experts: number of experts; 1 is a dense network without a gate.
        top: experts used per token; 0 uses all.
        labels: if there is one token per label, each label has its own gate; 0 shares one gate.
    """

    def __init__(
        self, width: int, hidden: int, experts: int, top: int = 0, labels: int = 0
    ) -> None:
        super().__init__()
        self.experts = Experts(width, hidden, experts)
        self.top = top
        if experts > 1:
            self.gate = nn.Parameter(torch.zeros(max(1, labels), width, experts))
            nn.init.normal_(self.gate, std=width**-0.5)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> MixtureOutput:
        """Compute all tokens.

        Args:
            x: (B, N, D).
            seen: (B, N) bool, which tokens count for the balance; None for all.
        """
        outputs = self.experts(x)  # (B, N, E, D)
        count = outputs.shape[2]
        if count == 1:
            ones = x.new_ones((*x.shape[:2], 1))
            return MixtureOutput(outputs[:, :, 0], ones, x.new_ones(()))
        logits = torch.einsum("bnd,nde->bne", x, self.gate.expand(x.shape[1], -1, -1))
        likely = logits.float().softmax(-1)
        gates = keep_top(likely, self.top) if self.top else likely
        tokens = torch.einsum("bne,bned->bnd", gates.to(outputs.dtype), outputs)
        return MixtureOutput(tokens, gates, balance(likely, gates, seen))


def keep_top(likely: Tensor, top: int) -> Tensor:
    """(..., E) probabilities → the ``top`` largest of each row, summing to 1, the others 0."""
    best = likely.topk(min(top, likely.shape[-1]), -1).indices
    kept = torch.zeros_like(likely).scatter(-1, best, likely.gather(-1, best))
    return kept / kept.sum(-1, keepdim=True)


def balance(likely: Tensor, gates: Tensor, seen: Tensor | None = None) -> Tensor:
    """Return E · Σ f_e · P_e: each expert's share of tokens times its mean probability.

    Args:
        likely: (B, N, E) probabilities.
        gates: (B, N, E) the gates used. Without ``top`` all experts process all tokens, and the
            share is that of their weights.
        seen: (B, N) bool, which tokens count.
    """
    flat, used = likely.flatten(0, -2), gates.detach().flatten(0, -2)
    chosen = (used > 0).float()
    share = used if bool(chosen.all()) else chosen / chosen.sum(-1, keepdim=True)
    if seen is not None:
        weight = seen.flatten().float().unsqueeze(-1)
        total = weight.sum().clamp(min=1)
        mean_share, mean_likely = (share * weight).sum(0) / total, (flat * weight).sum(0) / total
    else:
        mean_share, mean_likely = share.mean(0), flat.mean(0)
    return likely.shape[-1] * (mean_share * mean_likely).sum()
