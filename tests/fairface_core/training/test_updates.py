"""Learning rates, parameter groups, clipping, averaging, erasing, mixing and the balanced order, piece by piece."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from fairface_core.config.train_config import TrainConfig, make_config
from fairface_core.model.network import AgeGenderModel
from fairface_core.training.mixing import erase_, make_mixing
from fairface_core.training.schedule import epoch_lr, warmup_share
from fairface_core.training.seeding import balanced_order
from fairface_core.training.updates import Updates, freeze_backbone, parameter_groups

CPU = torch.device("cpu")


def torchs(make: object, epochs: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = make(optimizer)  # type: ignore[operator]
    rates = []
    for _ in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("min_lr", [0.0, 0.01])
def test_the_schedules_are_torchs(warmup: int, min_lr: float) -> None:
    length = 20 - warmup
    expected = {
        "cosine": torchs(lambda o: lr_scheduler.CosineAnnealingLR(o, length, min_lr), length),
        "linear": torchs(lambda o: lr_scheduler.LinearLR(o, 1.0, min_lr / 0.3, length), length),
        "constant": [0.3] * length,
    }
    for schedule, rates in expected.items():
        config = TrainConfig(lr=0.3, min_lr=min_lr, schedule=schedule, warmup_epochs=warmup)
        own = [epoch_lr(config, epoch) for epoch in range(1, 21)]
        assert own[warmup:] == pytest.approx(rates, rel=1e-9)
        assert own[:warmup] == pytest.approx([0.3 * epoch / 3 for epoch in range(1, warmup + 1)])


def test_the_warm_up_rises_by_equal_steps() -> None:
    config = TrainConfig(lr=0.3, warmup_epochs=2)
    rates = [epoch_lr(config, epoch) * warmup_share(epoch, step / 5) for epoch in (1, 2) for step in range(1, 6)]
    assert rates == pytest.approx([0.03 * step for step in range(1, 11)])


def rates_by_name(**changes: object) -> dict[str, tuple[float, float]]:
    """Parameter -> its learning rate as a multiple, and its weight decay."""
    config = make_config({"backbone": "vit_b_16", "image_size": 32, "weight_decay": 0.5, **changes})
    with torch.device("meta"):
        model = AgeGenderModel(config.backbone, 32, 0.2)
    groups, factors = parameter_groups(config, model)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert sum(len(group["params"]) for group in groups) == len(names)
    return {
        names[id(parameter)]: (factor, group.get("weight_decay", 0.5))
        for group, factor in zip(groups, factors, strict=True)
        for parameter in group["params"]
    }


def test_without_a_recipe_there_is_one_group_in_the_models_order() -> None:
    model = AgeGenderModel("mobilenet_v3_small", 32, 0.2)
    groups, factors = parameter_groups(TrainConfig(), model)
    assert factors == [1.0]
    assert list(map(id, groups[0]["params"])) == list(map(id, model.parameters()))
    assert groups[0].keys() == {"params"}


def test_blocks_and_heads_have_their_multiples() -> None:
    found = rates_by_name(layer_decay=0.5, head_lr_factor=3)
    assert found["head_age.0.weight"] == found["head_gender.3.bias"] == (3, 0.5)
    layer = "feature_extractor.encoder.layers.encoder_layer_{}.mlp.0.weight"
    assert [found[layer.format(k)][0] for k in (11, 10, 0)] == [0.5, 0.25, 0.5**12]
    assert found["feature_extractor.conv_proj.weight"][0] == 0.5**13


def test_norms_biases_embeddings_and_tokens_are_not_decayed() -> None:
    found = rates_by_name(no_decay_on_norm_and_bias=True)
    spared = {name for name, (_, decay) in found.items() if decay == 0}
    assert spared == {
        name for name in found
        if name.endswith(("bias", "class_token", "pos_embedding")) or ".ln" in name
    }  # fmt: skip
    assert "feature_extractor.encoder.ln.weight" in spared and "head_age.3.weight" not in spared


def updates(**changes: object) -> tuple[AgeGenderModel, Updates]:
    config = make_config({"backbone": "mobilenet_v3_small", **changes})
    model = AgeGenderModel(config.backbone, 32, 0.2)
    return model, Updates(config, model, CPU, scaled=False)


def test_a_long_gradient_is_cut() -> None:
    moved = []
    for clip in (0.0, 0.5):
        model, own = updates(optimizer="sgd", weight_decay=0, clip_grad_norm=clip)
        own.set_lr(1.0)
        before = [parameter.detach().clone() for parameter in model.parameters()]
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        own.step()
        steps = [(new - old).flatten() for new, old in zip(model.parameters(), before, strict=True)]
        moved.append(torch.cat(steps).norm().item())
    # Nesterov's first step is 1 + 0.9 times the gradient.
    assert moved[1] == pytest.approx(1.9 * 0.5, rel=5e-3)
    assert moved[0] > 1000


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lamb_is_timms_and_clips_as_every_other(weight_decay: float) -> None:
    """timm's own default is to shorten every gradient to 1."""
    model, own = updates(optimizer="lamb", lr=0.1, weight_decay=weight_decay, clip_grad_norm=1.0)
    theirs = copy.deepcopy(model)
    timms = pytest.importorskip("timm").optim.Lamb(theirs.parameters(), lr=0.1, weight_decay=weight_decay)
    _, unclipped = updates(optimizer="lamb")
    (group,) = unclipped.state()["optimizer"]["param_groups"]
    assert group["max_grad_norm"] is None
    for scale in (1.0, 100.0, 1e-5):
        for one, other in zip(model.parameters(), theirs.parameters(), strict=True):
            one.grad = scale * torch.randn_like(one)
            other.grad = one.grad.clone()
        own.step()
        timms.step()
    torch.testing.assert_close(list(model.parameters()), list(theirs.parameters()), rtol=1e-4, atol=1e-6)


def test_the_average_follows_the_weights() -> None:
    model, own = updates(ema_decay=0.8)
    assert own.averaged is not None
    name = "head_age.0.weight"
    expected = model.state_dict()[name].clone()
    for step in range(1, 16):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.add_(1)
        own.step()
        decay = min(0.8, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.state_dict()[name]
    torch.testing.assert_close(own.averaged.state_dict()[name], expected)
    counted = "feature_extractor.features.0.1.num_batches_tracked"
    assert own.averaged.state_dict()[counted] == model.state_dict()[counted] == 15
    running = "feature_extractor.features.0.1.running_mean"
    assert 10 < own.averaged.state_dict()[running][0] < 15


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb"])
def test_a_frozen_backbone_stays_as_it_is_and_starts_as_from_the_first_step(optimizer: str) -> None:
    recipe = {"optimizer": optimizer, "weight_decay": 0, "lr": 1e-2}
    model, own = updates(**recipe, freeze_epochs=1)
    model.train()
    freeze_backbone(model, True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for _ in range(3):
        sum(logits.sum() for logits in model(torch.randn(4, 3, 32, 32))).backward()
        own.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith("head_") for name in changed)
    freeze_backbone(model, False)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    other, fresh = updates(**recipe)
    other.load_state_dict(model.state_dict())
    for network, steps in ((model, own), (other, fresh)):
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        steps.step()
    both = zip(model.feature_extractor.parameters(), other.feature_extractor.parameters(), strict=True)
    assert all(torch.equal(one, its) for one, its in both)


def test_a_share_of_the_images_loses_a_rectangle_each_its_own() -> None:
    images = torch.ones(2000, 3, 32, 32)
    erase_(images, 0.25, torch.Generator().manual_seed(0))
    gone = images[:, 0] == 0
    assert torch.equal(images == 0, gone[:, None].expand_as(images))
    areas = gone.sum((1, 2)) / 32**2
    erased = areas > 0
    assert erased.float().mean().item() == pytest.approx(0.25, abs=0.04)
    # Rounded to whole pixels.
    assert areas[erased].min() > 0.01 and areas[erased].max() < 0.37
    # A rectangle is the product of its rows and columns.
    rows, columns = gone.any(2), gone.any(1)
    assert torch.equal(gone, rows[:, :, None] & columns[:, None, :])
    assert len({tuple(r.tolist() + c.tolist()) for r, c in zip(rows[erased], columns[erased], strict=True)}) > 400


def test_erasing_draws_torchvisions_areas() -> None:
    from torchvision.transforms import v2

    torch.manual_seed(0)
    theirs = [(v2.RandomErasing(p=1.0)(torch.ones(1, 32, 32)) == 0).float().mean().item() for _ in range(2000)]
    images = torch.ones(4000, 3, 32, 32)
    erase_(images, 1.0, torch.Generator().manual_seed(0))
    own = (images[:, 0] == 0).float().mean((1, 2)).numpy()
    quantiles = np.linspace(0.05, 0.95, 19)
    np.testing.assert_allclose(np.quantile(own, quantiles), np.quantile(theirs, quantiles), atol=0.02)


@pytest.mark.parametrize("recipe", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_labels_are_mixed_as_their_images_are(recipe: dict[str, float]) -> None:
    """Images that are one number each say by their mean how much of which is in them."""
    mixing = make_mixing(TrainConfig(**recipe))
    assert mixing is not None
    age, gender = torch.arange(8) % 9, torch.arange(8) % 2
    torch.manual_seed(3)
    shares_seen = set()
    for _ in range(20):
        flat = torch.arange(8.0)[:, None, None, None].expand(8, 3, 32, 32).clone()
        images, age_shares, gender_shares = mixing(flat, age, gender)
        found = images.mean((1, 2, 3))
        torch.testing.assert_close(found, age_shares[:, :8] @ torch.arange(8.0), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(age_shares.sum(1), torch.ones(8))
        torch.testing.assert_close(gender_shares[:, 1], age_shares[:, 1::2].sum(1))
        shares_seen.add(round(age_shares[0, 0].item(), 4))
    assert len(shares_seen) > 10


def test_no_mixing_is_asked_for() -> None:
    assert make_mixing(TrainConfig()) is None


def test_a_balanced_epoch_holds_every_class_alike_often() -> None:
    classes = np.repeat([0, 1, 5], [700, 250, 50])
    epochs = [balanced_order(classes, seed=1, epoch=epoch) for epoch in (1, 2)]
    for order in epochs:
        assert np.bincount(classes[order]).tolist() == [334, 333, 0, 0, 0, 333]
        times = np.bincount(order, minlength=1000)
        assert times[:700].max() == 1
        assert set(times[700:950]) == {1, 2} and set(times[950:]) == {6, 7}
        # The classes come mixed.
        assert 20 < np.bincount(classes[order[:100]], minlength=6)[5] < 47
    assert np.array_equal(epochs[0], balanced_order(classes, seed=1, epoch=1))
    assert len(set(epochs[0]) & set(epochs[1]) & set(range(700))) < 250


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lamb"])
def test_a_scaled_step_is_clipped_as_an_unscaled_one_and_left_out_where_it_overflows(optimizer: str) -> None:
    """float16's scaler, on the CPU."""
    ends = []
    for scaled in (False, True):
        torch.manual_seed(0)
        config = make_config({"backbone": "mobilenet_v3_small", "optimizer": optimizer, "clip_grad_norm": 0.5})
        model = AgeGenderModel(config.backbone, 32, 0.0)
        own = Updates(config, model, CPU, scaled=scaled)
        own.set_lr(0.01)
        images = torch.randn(8, 3, 32, 32)
        own.scaler.scale(sum(logits.square().mean() for logits in model(images))).backward()
        own.step()
        ends.append(torch.cat([parameter.detach().flatten() for parameter in model.head_age.parameters()]))
    torch.testing.assert_close(ends[1], ends[0], rtol=1e-4, atol=1e-6)
    next(model.parameters()).grad = torch.full_like(next(model.parameters()), torch.inf)
    before = model.head_age[0].weight.detach().clone()
    model.head_age[0].weight.grad = torch.ones_like(before)
    own.scaler.scale(torch.zeros(()))
    own.step()
    assert torch.equal(model.head_age[0].weight, before)
