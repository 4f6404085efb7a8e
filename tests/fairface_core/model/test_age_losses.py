"""The losses of ordered age groups against their papers' formulas, and probabilities that are none of their own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from fairface_core.model.age_losses import ConditionalToClasses, CumulativeToClasses, age_loss_sum
from fairface_core.model.network import AgeGenderModel

TRUTH = torch.arange(36) % 9
WEIGHTS = torch.linspace(0.5, 1.5, 9)


def scores(columns: int, spread: float = 3.0) -> Tensor:
    return torch.randn(36, columns, generator=torch.Generator().manual_seed(0)) * spread


def loss(name: str, log_prob: Tensor) -> Tensor:
    return age_loss_sum(name, log_prob, TRUTH, WEIGHTS, 0.0)


def coral() -> CumulativeToClasses:
    layer = CumulativeToClasses()
    with torch.no_grad():
        layer.gaps.copy_(torch.linspace(-2, 2, 7))
    return layer


@pytest.mark.parametrize(("layer", "columns"), [(ConditionalToClasses(), 8), (coral(), 1)], ids=["corn", "coral"])
@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_the_head_gives_log_probabilities_and_finite_gradients(layer: nn.Module, columns: int, spread: float) -> None:
    raw = scores(columns, spread).requires_grad_()
    log_prob = layer(raw)
    assert log_prob.shape == (36, 9)
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(36))
    loss("coral" if columns == 1 else "corn", log_prob).backward()
    assert raw.grad is not None and raw.grad.isfinite().all()


def test_corns_loss_is_its_papers_over_the_images_that_reach_each_task() -> None:
    raw = scores(8)
    expected = torch.zeros(())
    for image, group in enumerate(TRUTH.tolist()):
        for task in range(min(group + 1, 8)):  # images of a group of at least `task`
            target = torch.tensor(float(group > task))
            expected += WEIGHTS[group] * functional.binary_cross_entropy_with_logits(raw[image, task], target)
    torch.testing.assert_close(loss("corn", ConditionalToClasses()(raw)), expected)
    # P(y > k) is the product of the conditional probabilities.
    above = 1 - ConditionalToClasses()(raw).exp().cumsum(1)[:, :-1]
    torch.testing.assert_close(above, raw.sigmoid().cumprod(1), atol=1e-6, rtol=1e-4)


def test_corals_loss_is_its_papers_and_its_cuts_fall() -> None:
    layer, raw = coral(), scores(1)
    widths = functional.softplus(layer.gaps)
    falls = torch.cat([torch.zeros(1), widths.cumsum(0)])
    cuts = falls.mean() - falls
    assert (cuts.diff() < 0).all()
    targets = (TRUTH[:, None] > torch.arange(8)).float()
    tasks = functional.binary_cross_entropy_with_logits(raw + cuts, targets, reduction="none").sum(1)
    torch.testing.assert_close(loss("coral", layer(raw)), (WEIGHTS[TRUTH] * tasks).sum(), rtol=1e-4, atol=1e-4)
    above = 1 - layer(raw).exp().cumsum(1)[:, :-1]
    torch.testing.assert_close(above, (raw + cuts).sigmoid(), atol=1e-5, rtol=1e-4)


def test_soft_labels_are_a_normal_distribution_around_the_true_group() -> None:
    log_prob = scores(9).log_softmax(1)
    expected = 0.0
    for image, group in enumerate(TRUTH.tolist()):
        shares = [math.exp(-((k - group) ** 2) / (2 * 0.5**2)) for k in range(9)]
        cross_entropy = -sum(s * log_prob[image, k].item() for k, s in enumerate(shares)) / sum(shares)
        expected += WEIGHTS[group].item() * cross_entropy
    assert loss("soft_labels", log_prob).item() == pytest.approx(expected, rel=1e-5)


def test_mean_variance_is_its_papers_sum() -> None:
    logits = scores(9)
    expected = 0.0
    for image, group in enumerate(TRUTH.tolist()):
        prob = logits[image].softmax(0).tolist()
        mean = sum(k * p for k, p in enumerate(prob))
        variance = sum(p * (k - mean) ** 2 for k, p in enumerate(prob))
        expected += WEIGHTS[group].item() * (-math.log(prob[group]) + 0.2 * (mean - group) ** 2 / 2 + 0.05 * variance)
    assert loss("mean_variance", logits).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("age_loss", ["soft_labels", "coral", "mean_variance", "corn"])
def test_an_answer_far_off_costs_more_than_a_near_one(age_loss: str) -> None:
    """What cross-entropy does not know. CORN is one too: its order lies in the head, not in the loss."""
    truth = torch.tensor([2])

    def cost(answer: int) -> float:
        log_prob = torch.full((1, 9), math.log(0.02)).index_fill(1, torch.tensor([answer]), math.log(0.84))
        return age_loss_sum(age_loss, log_prob, truth, torch.ones(9), 0.0).item()

    assert (cost(3) < cost(8)) == (age_loss != "corn")
    assert cost(2) < cost(3)


@pytest.mark.parametrize("age_loss", ["cross_entropy", "coral", "corn"])
def test_the_network_keeps_its_contract(age_loss: str) -> None:
    model = AgeGenderModel("mobilenet_v3_small", 32, 0.2, age_loss=age_loss).eval()
    prefixes = ("feature_extractor.", "head_age.", "head_gender.")
    assert all(name.startswith(prefixes) for name in model.state_dict())
    age, gender = model(torch.randn(2, 3, 32, 32))
    assert (age.shape, gender.shape) == ((2, 9), (2, 2))
    assert torch.allclose(age.exp().sum(1), torch.ones(2)) == (age_loss != "cross_entropy")
