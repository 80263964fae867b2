"""Losses of classifiers. Each is a mean over the known rows and labels.

Parts of a batch (accumulation, processes) are averaged with equal weight. That is exactly the
batch's loss if they have equally many known labels (for emotions: equal weight), else close to it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...manifests.arrays import Floats
from ..networks.classifier import probabilities
from .tasks import Task

_EPSILON = 1e-6


def label_weights(truth: Floats, power: float = 1.0) -> Floats:
    """(N, L) occurrence, NaN unknown → (L,) weights, larger for rare labels, mean 1.

    w_i = L · r_i^-power / Σ_j r_j^-power, r the share of rows in which label i occurs (ME-GraphAU,
    Luo et al. 2022, arXiv 2205.01782, power 1). A label that never occurs counts as occurring once.
    """
    known = np.isfinite(truth).sum(0)
    rate = np.maximum(np.nansum(truth, 0), 1) / np.maximum(known, 1)
    weights = rate**-power
    return (len(rate) * weights / weights.sum()).astype(np.float32)


def class_weights(truth: Floats, classes: int, power: float = 1.0) -> Floats:
    """(N,) class, NaN unknown → (C,) (N / (C · n_c))^power; power 1: scikit-learn's ``balanced``.

    A class that never occurs has weight 0: it is never the truth.
    """
    known = truth[np.isfinite(truth)].astype(np.int64)
    counts = np.bincount(known, minlength=classes)
    weights = (len(known) / (classes * np.maximum(counts, 1))) ** power
    return np.where(counts > 0, weights, 0).astype(np.float32)


def class_targets(truth: Floats, shares: Floats | None, classes: int) -> Floats:
    """(N,) class, NaN unknown, and (N, C) shares, NaN without votes → (N, C) what is learnt.

    The shares of a row that has them, else 1 for its class; each known row has the sum 1.
    """
    found = np.zeros((len(truth), classes), np.float64)
    known = np.flatnonzero(np.isfinite(truth))
    found[known, truth[known].astype(np.int64)] = 1
    if shares is not None:
        voted = np.isfinite(shares).all(1)
        found[voted] = shares[voted]
    return found


def weighted_asymmetric(logits: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """−mean over known labels of w · [y · log p + (1 − y) · p̄ · log(1 − p)], p̄ detached p.

    Easy negatives get little weight (ME-GraphAU, arXiv 2205.01782).

    Args:
        logits: (B, L).
        truth: (B, L) 0 or 1, NaN unknown.
        weights: (L,).
    """
    known = torch.isfinite(truth)
    y = torch.where(known, truth, torch.zeros_like(truth))
    occurs, absent = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    likely = torch.sigmoid(logits).detach()
    terms = weights * (y * occurs + (1 - y) * likely * absent)
    return -(terms * known).sum() / known.sum().clamp(min=1)


def cross_entropy(
    logits: Tensor,
    truth: Tensor,
    weights: Tensor,
    shares: Tensor | None = None,
    smoothing: float = 0.0,
) -> Tensor:
    """Weighted cross-entropy: Σ w · (−Σ_c q_c · log p_c) / Σ w, w = Σ_c w_c · q_c, of known rows.

    q is the raters' shares of a row that has them, else its class, smoothed (Szegedy et al. 2016).
    A row with shares needs no class.

    Args:
        logits: (B, C).
        truth: (B,) class, NaN unknown.
        weights: (C,).
        shares: (B, C), each row of sum 1, NaN rows without votes; or None.
        smoothing: share of a class that all C get alike.
    """
    known = torch.isfinite(truth)
    wanted = torch.where(known, truth, torch.zeros_like(truth)).long()
    each = functional.cross_entropy(logits, wanted, reduction="none", label_smoothing=smoothing)
    weight = weights[wanted] * known
    if shares is not None:
        voted = torch.isfinite(shares).all(1)
        # Not NaN where unused: its gradient would be NaN, too.
        targets = torch.where(voted[:, None], shares, torch.zeros_like(shares))
        each = torch.where(voted, functional.cross_entropy(logits, targets, reduction="none"), each)
        weight = torch.where(voted, targets @ weights, weight)
    return (each * weight).sum() / weight.sum().clamp(min=_EPSILON)


def squared(levels: Tensor, truth: Tensor) -> Tensor:
    """Mean squared error of the known labels, in levels²; (B, L), NaN unknown."""
    known = torch.isfinite(truth)
    error = torch.where(known, levels - truth, torch.zeros_like(levels))
    return error.square().sum() / known.sum().clamp(min=1)


def huber(levels: Tensor, truth: Tensor) -> Tensor:
    """Mean Huber loss of the known labels, quadratic within one level (Huber 1964).

    ``levels`` and ``truth``: (B, L), NaN unknown; returns ().
    """
    known = torch.isfinite(truth)
    wanted = torch.where(known, truth, levels.detach())
    each = functional.huber_loss(levels, wanted, reduction="none", delta=1.0)
    return each.sum() / known.sum().clamp(min=1)


def icc(levels: Tensor, truth: Tensor) -> Tensor:
    """1 − ICC(3,1) of prediction and truth over the batch, mean over labels that vary in it.

    ``levels`` and ``truth``: (B, L), NaN unknown; returns ().

    ICC(3,1) = (MSR − MSE) / (MSR + MSE) for two raters (Shrout & Fleiss 1979). Unlike the other
    losses it is not a mean over rows, so accumulation and more processes change it.
    """
    known = torch.isfinite(truth)
    count = known.sum(0)  # (L,)
    y = torch.where(known, truth, torch.zeros_like(truth))
    x = torch.where(known, levels, torch.zeros_like(levels))
    n = count.clamp(min=2).float()
    mean_x, mean_y = x.sum(0) / n, y.sum(0) / n
    dx, dy = (x - mean_x) * known, (y - mean_y) * known
    between = ((dx + dy) / 2).square().sum(0) * 2 / (n - 1)  # MSR
    within = ((dx - dy).square().sum(0) / 2) / (n - 1)  # MSE, raters' means removed
    value = (between - within) / (between + within + _EPSILON)
    varies = (count >= 2) & (dy.square().sum(0) > _EPSILON)
    return ((1 - value) * varies).sum() / varies.sum().clamp(min=1)


class ClassifierObjective(nn.Module):
    """The loss of a task, the balance loss of the experts and, optionally, the ICC term.

    Args:
        task: what is predicted.
        truth: of all training rows, to weight rare labels.
        weights: of the losses by name: ``labels``, ``icc``, ``balance``; 0 turns one off.
        power: rare labels or classes get more weight, see ``class_weights``; 0: all alike.
        robust: use Huber instead of squared errors.
        smoothing: of classes without votes, see ``cross_entropy``.
    """

    rare: Tensor

    def __init__(
        self,
        task: Task,
        truth: Floats,
        weights: dict[str, float],
        power: float,
        robust: bool,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.task = task
        self.weights = {name: value for name, value in weights.items() if value > 0}
        self.robust = robust
        self.smoothing = smoothing
        size = len(task.names)
        found = np.ones(size, np.float32)
        if power and task.kind == "action_units":
            found = label_weights(truth, power)
        elif power and task.kind == "emotion":
            found = class_weights(truth, size, power)
        self.register_buffer("rare", torch.from_numpy(found))

    def forward(self, outputs: dict[str, Tensor], batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return every loss by name, (), unweighted, and their weighted sum as ``total``.

        ``outputs`` holds ``logits`` (B, L) and ``balance`` (), ``batch`` the ``truth``: (B, L),
        or (B,) for emotions; NaN unknown; ``shares`` (B, L), if votes are learnt.
        """
        logits, truth = outputs["logits"].float(), batch["truth"]
        found: dict[str, Tensor] = {}
        levels = probabilities("intensity", logits)
        for name in self.weights:
            if name == "balance":
                found[name] = outputs["balance"].float()
            elif name == "icc":
                found[name] = icc(levels, truth)
            elif self.task.kind == "emotion":
                shares = batch.get("shares")
                found[name] = cross_entropy(logits, truth, self.rare, shares, self.smoothing)
            elif self.task.kind == "action_units":
                found[name] = weighted_asymmetric(logits, truth, self.rare)
            else:
                found[name] = (huber if self.robust else squared)(levels, truth)
        total = torch.stack([self.weights[name] * value for name, value in found.items()]).sum()
        return {"total": total, **found}
