"""Ridge and multinomial logistic regression with k-fold cross-validation, in torch.

Hoerl & Kennard 1970; Bishop 2006, section 4.3.4. Small problems: some thousand rows, some hundred
columns. Knows nothing of latents or faces.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PENALTIES = (3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0)


@dataclass(frozen=True, eq=False)
class Ridge:
    """y = bias + x weights^T. `r2`: of each column of y, on rows that were left out of the fit (0:
    no better than the mean); `penalty`: the one that was best by it."""

    weights: Tensor  # M × d
    bias: Tensor  # M
    noise: Tensor  # M, variance of what is left on rows left out
    r2: Tensor
    penalty: float


@dataclass(frozen=True, eq=False)
class Logistic:
    """Class logits = bias + x weights^T. `accuracy`, and `auc` of each class against the rest (NaN
    where a class is missing), on rows that were left out of the fit."""

    weights: Tensor  # K × d
    bias: Tensor
    accuracy: float
    auc: Tensor
    penalty: float


def fit_ridge(x: Tensor, y: Tensor, folds: int, penalties: Sequence[float] = PENALTIES) -> Ridge:
    """x: N × d, of about unit variance; y: N × M. The penalty (a share of N) is the one with the
    best mean R² over the columns of y."""
    scores = []
    for penalty in penalties:
        left = torch.cat(
            [
                y[test] - _predict(x[test], *_ridge(x[train], y[train], penalty))
                for train, test in _folds(len(x), folds)
            ]
        )
        noise = left.square().mean(0)
        scores.append((noise, 1 - noise / y.var(0, correction=0).clamp_min(1e-12)))
    best = max(range(len(penalties)), key=lambda index: float(scores[index][1].mean()))
    weights, bias = _ridge(x, y, penalties[best])
    noise, r2 = scores[best]
    return Ridge(weights, bias, noise, r2, penalties[best])


def fit_logistic(x: Tensor, labels: Tensor, classes: int, folds: int, penalty: float) -> Logistic:
    """x: N × d; labels: N whole numbers below `classes`; penalty: on the weights' squares."""
    logits = torch.cat(
        [
            _predict(x[test], *_logistic(x[train], labels[train], classes, penalty))
            for train, test in _folds(len(x), folds)
        ]
    )
    order = torch.cat([test for _, test in _folds(len(x), folds)])
    truth = labels[order]
    accuracy = float((logits.argmax(1) == truth).float().mean())
    auc = torch.stack([_auc(logits[:, k], truth == k) for k in range(classes)])
    weights, bias = _logistic(x, labels, classes, penalty)
    return Logistic(weights, bias, accuracy, auc, penalty)


def _folds(count: int, folds: int) -> list[tuple[Tensor, Tensor]]:
    """Pairs of rows to fit and rows to test: every fold-th row; the rows have no order."""
    rows = torch.arange(count)
    return [(rows[rows % folds != fold], rows[rows % folds == fold]) for fold in range(folds)]


def _ridge(x: Tensor, y: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    x_mean, y_mean = x.mean(0), y.mean(0)
    centred = x - x_mean
    normal = centred.T @ centred / len(x)
    normal.diagonal().add_(penalty)
    weights = torch.linalg.solve(normal, centred.T @ (y - y_mean) / len(x)).T
    return weights, y_mean - weights @ x_mean


def _predict(x: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    return x @ weights.T + bias


def _logistic(x: Tensor, labels: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    weights = x.new_zeros(classes, x.shape[1], requires_grad=True)
    bias = x.new_zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([weights, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(_predict(x, weights, bias), labels)
        loss = loss + 0.5 * penalty * weights.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return weights.detach(), bias.detach()


def _auc(scores: Tensor, positive: Tensor) -> Tensor:
    """Chance that a positive scores above a negative (Mann & Whitney 1947)."""
    above, below = scores[positive], scores[~positive]
    if not len(above) or not len(below):
        return scores.new_tensor(float("nan"))
    ranks = torch.argsort(torch.argsort(torch.cat([above, below])))[: len(above)] + 1
    wins = ranks.sum() - len(above) * (len(above) + 1) / 2
    return (wins / (len(above) * len(below))).to(scores)
