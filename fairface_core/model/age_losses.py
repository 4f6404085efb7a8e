"""The losses of the age groups, which are ordered: all but cross-entropy know it.

The age head gives nine class logits under every loss: what `coral` and `corn` learn is turned into log-probabilities of
the nine groups by the head's last layer, within the network. So whatever reads logits (evaluation, prediction, exports,
ensembles, conformal sets) knows nothing of the loss, and the answer is the most probable group as everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fairface_core.labels import AGE_GROUPS

_CUTS = len(AGE_GROUPS) - 1
# Deviation of the soft labels, in age groups: each neighbour of the true group then gets 0.11.
_DEVIATION = 0.5
# Weights of the mean and of the variance loss beside the cross-entropy: the paper's.
_MEAN_SHARE, _VARIANCE_SHARE = 0.2, 0.05


class ConditionalToClasses(nn.Module):
    """CORN's logits of P(y > k | y > k - 1), `float [B, 8]`, to log-probabilities of the groups, `[B, 9]`.

    Source: Shi, Cao and Raschka, "Deep Neural Networks for Rank-Consistent Ordinal Regression Based On Conditional
    Probabilities" (2111.08851): P(y > k) is the product of the conditional probabilities up to k.
    """

    inputs = _CUTS

    def forward(self, logits: Tensor) -> Tensor:
        """Return `log P(y = k) = sum of log P(y > j | y > j - 1) over j < k, + log P(not y > k | y > k - 1)`."""
        reached = _sums_before(functional.logsigmoid(logits))
        return reached + functional.pad(functional.logsigmoid(-logits), (0, 1))


class CumulativeToClasses(nn.Module):
    """CORAL's one score of an image, `float [B, 1]`, to log-probabilities of the groups, `[B, 9]`.

    `P(y > k) = sigmoid(score + b_k)`. Source: Cao, Mirjalili and Raschka, "Rank Consistent Ordinal Regression for Neural
    Networks with Application to Age Estimation" (1901.07884). At the optimum, its theorem says, the b_k fall; here
    they fall always, each by `softplus(gap)`, so that no group ever has a negative probability.
    """

    inputs = 1

    def __init__(self) -> None:
        super().__init__()
        self.gaps = nn.Parameter(torch.zeros(_CUTS - 1))

    def forward(self, score: Tensor) -> Tensor:
        """Return `log(sigmoid(a) - sigmoid(b))` of neighbouring cuts a > b: `log s(a) + log s(-b) + log(1 - exp(b - a))`."""
        widths = functional.softplus(self.gaps)
        falls = _sums_before(widths)
        above = score + falls.mean() - falls
        within = functional.pad((-torch.expm1(-widths)).log(), (1, 1))
        return (
            functional.pad(functional.logsigmoid(above), (1, 0))
            + functional.pad(functional.logsigmoid(-above), (0, 1))
            + within
        )


def _sums_before(values: Tensor) -> Tensor:
    """Return for each of n + 1 places the sum of the values before it: `[..., n]` to `[..., n + 1]`.

    On CUDA cumsum has no deterministic kernel, and a matrix product would be made one of 8-bit numbers by the exports.
    """
    places = values.shape[-1]
    before = torch.ones(places, places + 1, dtype=values.dtype, device=values.device).triu(1)
    return (values[..., None] * before).sum(-2)


def class_layer(age_loss: str) -> ConditionalToClasses | CumulativeToClasses | None:
    """Return the last layer of the age head, or None where the linear layer before it gives the class logits."""
    return {"corn": ConditionalToClasses, "coral": CumulativeToClasses}.get(age_loss, lambda: None)()


def age_loss_sum(age_loss: str, logits: Tensor, truth: Tensor, weights: Tensor, label_smoothing: float) -> Tensor:
    """Return the loss of a batch, summed over its images, each times the weight of its true group.

    Args:
        age_loss: A value of TrainConfig.age_loss.
        logits: float32 [B, 9].
        truth: int64 [B], or with `cross_entropy` and `soft_labels` shares of the groups, float32 [B, 9], each row of sum 1.
        weights: float32 [9]. An image of several true groups counts as a share of an image of each.
        label_smoothing: Of `cross_entropy`.

    `corn`'s loss is the sum of its tasks' binary cross-entropies over the images that reach each task: by the chain rule
    the cross-entropy of the groups' probabilities. The paper divides by all pairs of image and task, here it is the mean
    over images, on the scale of the other head's. `soft_labels`: Gao et al., "Deep Label Distribution Learning With Label
    Ambiguity" (1611.01731), a normal distribution around the true group. `mean_variance`: Pan et al.,
    "Mean-Variance Loss for Deep Age Estimation from a Face", CVPR 2018, in groups instead of years.
    """
    if age_loss in ("cross_entropy", "corn"):
        return functional.cross_entropy(logits, truth, weights, reduction="sum", label_smoothing=label_smoothing)
    log_prob = logits.log_softmax(1)
    if age_loss == "soft_labels":
        shares = truth if truth.is_floating_point() else functional.one_hot(truth, len(AGE_GROUPS)).float()
        return -((shares * weights) @ _soft_labels(logits.device) * log_prob).sum()
    if age_loss == "coral":
        return weights[truth] @ _cumulative_loss(log_prob, truth)
    assert age_loss == "mean_variance", age_loss
    prob, groups = log_prob.exp(), torch.arange(len(AGE_GROUPS), device=logits.device)
    mean = prob @ groups.float()
    variance = (prob * (groups - mean[:, None]).square()).sum(1)
    plain = functional.nll_loss(log_prob, truth, reduction="none")
    return weights[truth] @ (plain + _MEAN_SHARE * (mean - truth).square() / 2 + _VARIANCE_SHARE * variance)


def _soft_labels(device: torch.device) -> Tensor:
    """Return for each true group the shares of all groups, float32 [9, 9]."""
    groups = torch.arange(len(AGE_GROUPS), device=device)
    return torch.softmax(-((groups[:, None] - groups) / _DEVIATION).square() / 2, dim=1)


def _cumulative_loss(log_prob: Tensor, truth: Tensor) -> Tensor:
    """Return CORAL's loss of each image: the sum of the eight binary cross-entropies of y > k."""
    groups = torch.arange(len(AGE_GROUPS), device=truth.device)
    is_above = groups[:, None] > groups[:-1]
    # Of each cut the groups on the side of the truth: [B, 8, 9].
    side = is_above[truth][:, :, None] == is_above.t()
    return -torch.where(side, log_prob[:, None], -torch.inf).logsumexp(2).sum(1)
