"""Each operation against torchvision's own, image by image; the distributions of the draws; both formulations."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageDraw
from scipy import stats
from torch import Tensor
from torchvision import transforms

from fairface_core.training import augment as ours
from fairface_core.training.augment import (
    MEAN,
    STD,
    AugmentParams,
    augment,
    augment_eager,
    crop_batch,
    crop_each,
    draw_params,
    prepare_eval,
)
from fairface_core.training.jitter import (
    BRIGHTNESS,
    CONTRAST,
    HUE,
    JITTER,
    SATURATION,
    blend_coefficients,
    color_jitter_,
    shift_hue_,
)

TENSOR_OPS = {
    BRIGHTNESS: TF.adjust_brightness,
    CONTRAST: TF.adjust_contrast,
    SATURATION: TF.adjust_saturation,
    HUE: TF.adjust_hue,
}


def picture(size_px: int, seed: int) -> Image.Image:
    """Draw something with smooth areas, edges, saturated colors, grays and clipped whites."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(
        (size_px, size_px), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(image)
    for _ in range(6):
        x, y = rng.integers(0, size_px, 2)
        color = tuple(int(c) for c in rng.choice([0, 64, 128, 200, 255], 3))
        draw.ellipse([x, y, x + size_px // 4, y + size_px // 5], fill=color)
    return image


def pictures(count: int, size_px: int) -> Tensor:
    """uint8 [B, 3, S, S] in the memory layout of the cache."""
    arrays = np.stack([np.asarray(picture(size_px, seed)) for seed in range(count)])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2)


def as_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def levels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def params_of(
    count: int,
    size_px: int,
    *,
    box: tuple[int, int, int, int] | None = None,
    flip: bool = False,
    order: tuple[int, ...] = (0, 1, 2, 3),
    factor: tuple[float, ...] = (1.0, 1.0, 1.0, 0.0),
) -> AugmentParams:
    return AugmentParams(
        size_px=size_px,
        box=torch.tensor([box or (0, 0, size_px, size_px)] * count),
        flip=torch.full((count,), flip),
        order=torch.tensor([order] * count),
        factor=torch.tensor([factor] * count),
    )


def one_operation(kind: int, value: float) -> tuple[float, ...]:
    neutral = [1.0, 1.0, 1.0, 0.0]
    neutral[kind] = value
    return tuple(neutral)


def jitter(pixels: Tensor, params: AugmentParams) -> Tensor:
    """Run the color operations alone on float images in 0..255 whose orders have hue at one place."""
    hue_at = int((params.order[0] == HUE).int().argmax())
    result = pixels.clone()
    color_jitter_(result, blend_coefficients(params.order, params.factor), params.factor[:, HUE], hue_at)
    return result


def denormalize(batch: Tensor) -> Tensor:
    """Back to 0..255."""
    return (batch * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255


# --- each color operation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BRIGHTNESS, CONTRAST, SATURATION, HUE])
@pytest.mark.parametrize("strength", [-1.0, -0.4, 0.0, 0.7, 1.0])
def test_an_operation_equals_torchvisions_on_float_tensors(kind: int, strength: float) -> None:
    value = (0.0 if kind == HUE else 1.0) + strength * JITTER[kind]
    images = pictures(6, 48).float()
    got = jitter(images, params_of(6, 48, factor=one_operation(kind, value)))
    for image, result in zip(images, got, strict=True):
        expected = TENSOR_OPS[kind](image / 255, value) * 255
        # A thousandth of a gray level: float32 rounding, at 255, of a few operations.
        torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


# Gray levels by which the Pillow operations differ: they cut to uint8, contrast rounds the mean gray first, and hue
# goes through 8-bit HSV, where even a shift of 0 moves colors by up to 6. It takes whole steps of 1/255 turn, as here.
@pytest.mark.parametrize(
    ("kind", "values", "largest", "mean"),
    [
        (BRIGHTNESS, [0.8, 0.93, 1.1, 1.2], 1.0, 0.6),
        (CONTRAST, [0.8, 0.93, 1.1, 1.2], 1.2, 0.6),
        (SATURATION, [0.9, 0.97, 1.05, 1.1], 1.2, 0.6),
        (HUE, [k / 255 for k in (-5, -3, 0, 2, 5)], 6.5, 0.7),
    ],
)
def test_an_operation_equals_torchvisions_on_pillow_images(
    kind: int, values: list[float], largest: float, mean: float
) -> None:
    images = pictures(6, 48)
    for value in values:
        got = jitter(images.float(), params_of(6, 48, factor=one_operation(kind, value)))
        for image, result in zip(images, got, strict=True):
            # A hair more, or the cut of 5 / 255 * 255 to a whole number could be 4.
            peer = TENSOR_OPS[kind](as_pil(image), value * (1 + 1e-9))
            difference = (result - levels(peer)).abs()
            assert difference.max() <= largest
            assert difference.mean() <= mean


def test_hue_is_exact_on_every_kind_of_color() -> None:
    grid = torch.tensor(list(itertools.product([0.0, 0.2, 0.5, 0.9, 1.0], repeat=3)))
    colors = grid.t().reshape(3, -1, 5)
    for turn in (-1 / 6, -0.1, -0.02, 0.003, 0.02, 1 / 6):
        got = colors[None].clone()
        shift_hue_(got, torch.tensor([turn]))
        torch.testing.assert_close(got[0], TF.adjust_hue(colors, turn), atol=3e-6, rtol=0)


def test_hue_leaves_gray_value_and_saturation_alone() -> None:
    images = pictures(4, 32).float()
    images[0] = images[0, :1]
    turned = images.clone()
    shift_hue_(turned, torch.full((4,), 0.02))
    assert torch.equal(turned[0], images[0])
    assert torch.equal(turned.amax(1), images.amax(1))
    assert torch.equal(turned.amin(1), images.amin(1))
    assert not torch.equal(turned[1], images[1])


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_every_order_of_operations_equals_torchvisions(order: tuple[int, ...]) -> None:
    factor = (1.2, 0.8, 1.1, -0.02)
    images = pictures(3, 32)
    got = jitter(images.float(), params_of(3, 32, order=order, factor=factor))
    for image, result in zip(images, got, strict=True):
        expected = image / 255
        for kind in order:
            expected = TENSOR_OPS[kind](expected, factor[kind])
        torch.testing.assert_close(result, expected * 255, atol=2e-3, rtol=0)


# --- crop, resize, flip ---------------------------------------------------------------------------------------

BOXES = [(0, 0, 64, 64), (3, 10, 40, 50), (20, 0, 18, 16), (63, 63, 1, 1), (0, 5, 64, 7), (31, 2, 33, 62)]


@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize("out_px", [64, 32, 96])
def test_crop_and_resize_equal_torchvisions(box: tuple[int, int, int, int], out_px: int) -> None:
    images = pictures(2, 64)
    for flip in (False, True):

        def reference(image: Any, flip: bool = flip) -> Any:
            cropped = TF.resized_crop(image, *box, [out_px, out_px], antialias=True)
            return TF.hflip(cropped) if flip else cropped

        params = params_of(2, 64, box=box, flip=flip)
        each = crop_each(images, params, out_px)
        batch = crop_batch(images, params.box.float(), params.flips, 64, out_px)
        for i in range(2):
            # One level: all round to uint8; torchvision's path for another memory layout has coarser weights.
            assert (each[i] - reference(images[i]).float()).abs().max() <= 1
            assert (each[i] - levels(reference(as_pil(images[i])))).abs().max() <= 1
            torch.testing.assert_close(batch[i], reference(images[i].float()), atol=2e-3, rtol=0)


def test_enlarging_first_equals_resize_then_crop_on_pillow_images() -> None:
    images, box = pictures(3, 64), (10, 31, 70, 61)
    each = crop_each(images, params_of(3, 112, box=box), 112)
    params = params_of(3, 112, box=box)
    batch = crop_batch(images, params.box.float(), params.flips, 112, 112)
    for i in range(3):
        expected = levels(TF.resized_crop(TF.resize(as_pil(images[i]), [112, 112]), *box, [112, 112]))
        # Two roundings to uint8 each.
        assert (each[i] - expected).abs().max() <= 2
        assert (batch[i] - expected).abs().max() <= 2


@pytest.mark.parametrize("out_px", [64, 96])
def test_evaluation_input_equals_torchvisions(out_px: int) -> None:
    images = pictures(3, 64)
    chain = transforms.Compose(
        [transforms.Resize((out_px, out_px)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    expected = torch.stack([chain(as_pil(image)) for image in images])
    got = prepare_eval(images, out_px)
    assert got.dtype == torch.float32
    # Without a resize only float rounding; with one, a level of uint8.
    tolerance = 2e-6 if out_px == 64 else 1.01 / 255 / min(STD)
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)
    in_lines = prepare_eval(images, out_px, torch.channels_last)
    assert in_lines.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(in_lines, got), "the layout changes no bit"


# --- the whole ------------------------------------------------------------------------------------------------


def through_pillow(image: Image.Image, params: AugmentParams, row: int, out_px: int) -> Tensor:
    """The original's chain with the parameters of one image."""
    image = TF.resize(image, [params.size_px, params.size_px])
    image = TF.resized_crop(image, *params.box[row].tolist(), [out_px, out_px])
    image = TF.hflip(image) if params.flip[row] else image
    for kind in params.order[row].tolist():
        image = TENSOR_OPS[kind](image, float(params.factor[row, kind]))
    return TF.normalize(TF.to_tensor(image), MEAN, STD)


@pytest.mark.parametrize(("source_px", "out_px"), [(64, 64), (64, 96), (96, 64)])
def test_the_whole_equals_the_original_chain_image_by_image(source_px: int, out_px: int) -> None:
    images = pictures(40, source_px)
    params = draw_params(40, out_px, torch.Generator().manual_seed(5))
    got = augment(images, params, out_px)
    expected = torch.stack([through_pillow(as_pil(images[i]), params, i, out_px) for i in range(40)])
    difference = (denormalize(got) - denormalize(expected)).abs()
    # Pillow rounds, or cuts, to uint8 after each of six steps, and its hue has 256 steps of 1.4 degrees.
    assert difference.mean() < 1.6
    assert np.quantile(difference.numpy(), 0.99) < 6.5
    assert difference.max() < 20


def test_the_formulation_for_gpus_equals_the_one_for_cpus() -> None:
    for source_px, out_px in ((64, 64), (64, 80)):
        images = pictures(32, source_px)
        params = draw_params(32, out_px, torch.Generator().manual_seed(1))
        each = denormalize(augment(images, params, out_px))
        batch = denormalize(augment_eager(images, params, out_px))
        difference = (each - batch).abs()
        # The crop's rounding to uint8, one level at most, two where it is enlarged first, times factors of up to 1.6.
        assert difference.max() < (3.2 if out_px == source_px else 5)
        assert difference.mean() < 0.4


def test_chunks_do_not_change_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    images, params = pictures(20, 32), draw_params(20, 32, torch.Generator().manual_seed(2))
    whole = augment(images, params, 32)
    monkeypatch.setattr(ours, "_CPU_CHUNK", 1)
    torch.testing.assert_close(augment(images, params, 32), whole, atol=1e-5, rtol=0)


def test_the_result_is_normalized_float32_and_the_input_is_untouched() -> None:
    images = pictures(8, 32)
    before = images.clone()
    result = augment(images, draw_params(8, 32, torch.Generator().manual_seed(0)), 32)
    assert result.dtype == torch.float32
    assert result.shape == (8, 3, 32, 32)
    pixels = denormalize(result)
    assert pixels.min() > -1e-3
    assert pixels.max() < 255.001
    assert torch.equal(images, before)


def test_float_images_are_refused() -> None:
    with pytest.raises(AssertionError):
        augment(torch.zeros(2, 3, 8, 8), draw_params(2, 8, torch.Generator()), 8)


def test_the_memory_layout_of_the_images_does_not_matter() -> None:
    images, params = pictures(6, 32), draw_params(6, 32, torch.Generator().manual_seed(4))
    assert torch.equal(augment(images.contiguous(), params, 32), augment(images, params, 32))


# --- the draws ------------------------------------------------------------------------------------------------


def test_every_image_has_its_own_parameters() -> None:
    image = pictures(1, 32).expand(16, -1, -1, -1)
    result = augment(image, draw_params(16, 32, torch.Generator().manual_seed(0)), 32)
    distances = torch.cdist(result.flatten(1), result.flatten(1))
    assert distances[~torch.eye(16, dtype=torch.bool)].min() > 1


def test_the_generator_decides_everything() -> None:
    torch.manual_seed(0)
    first = draw_params(32, 64, torch.Generator().manual_seed(3))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    second = draw_params(32, 64, torch.Generator().manual_seed(3))
    other = draw_params(32, 64, torch.Generator().manual_seed(4))
    for name in ("box", "flip", "order", "factor"):
        assert torch.equal(getattr(first, name), getattr(second, name))
    assert not torch.equal(first.factor, other.factor)
    assert torch.equal(torch.get_rng_state(), state)


def test_two_half_batches_draw_what_one_batch_draws() -> None:
    generator = torch.Generator().manual_seed(9)
    halves = [draw_params(5, 64, generator), draw_params(11, 64, generator)]
    whole = draw_params(16, 64, torch.Generator().manual_seed(9))
    for name in ("box", "flip", "order", "factor"):
        assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(whole, name))


def test_the_draws_are_frozen() -> None:
    """A change here changes every trained model: results of one version would not repeat in the next."""
    params = draw_params(2, 224, torch.Generator().manual_seed(42))
    expected = [[0.8609, 0.9060, 0.9261, -0.0099], [1.0502, 0.9106, 0.9022, 0.0089]]
    assert params.box.tolist() == [[10, 103, 90, 74], [42, 10, 136, 109]]
    assert params.flip.tolist() == [True, False]
    assert params.order.tolist() == [[1, 2, 0, 3], [2, 3, 0, 1]]
    torch.testing.assert_close(params.factor, torch.tensor(expected), atol=5e-5, rtol=0)


NUM_DRAWS = 20_000
# With fixed seeds these tests cannot flicker; the threshold says how unlikely the draw would be if it were right.
UNLIKELY = 1e-3


@pytest.fixture(scope="module")
def draws() -> AugmentParams:
    return draw_params(NUM_DRAWS, 224, torch.Generator().manual_seed(123))


def test_factors_are_uniform_and_independent(draws: AugmentParams) -> None:
    for kind, spread in enumerate(JITTER):
        low = (0.0 if kind == HUE else 1.0) - spread
        assert stats.kstest(draws.factor[:, kind].numpy(), stats.uniform(low, 2 * spread).cdf).pvalue > UNLIKELY
    correlation = np.corrcoef(draws.factor.t().numpy()) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(NUM_DRAWS)


def test_every_order_is_equally_likely(draws: AugmentParams) -> None:
    assert torch.equal(draws.order.sort(dim=1).values, torch.arange(4).expand(NUM_DRAWS, 4))
    codes = (draws.order * torch.tensor([64, 16, 4, 1])).sum(1)
    counts = torch.unique(codes, return_counts=True)[1]
    assert len(counts) == 24
    assert stats.chisquare(counts.numpy()).pvalue > UNLIKELY


def test_half_of_the_images_are_flipped(draws: AugmentParams) -> None:
    assert stats.binomtest(int(draws.flip.sum()), NUM_DRAWS, 0.5).pvalue > UNLIKELY


@pytest.mark.parametrize("size_px", [64, 224, 384])
def test_boxes_are_distributed_as_torchvisions(size_px: int) -> None:
    torch.manual_seed(7)
    crop = transforms.RandomResizedCrop(size_px)
    image = torch.empty(1, size_px, size_px)
    peer = np.array([crop.get_params(image, crop.scale, crop.ratio) for _ in range(4000)])
    box = draw_params(NUM_DRAWS, size_px, torch.Generator().manual_seed(11)).box.numpy()
    assert (box[:, :2] >= 0).all()
    assert (box[:, :2] + box[:, 2:] <= size_px).all()
    for name, of in {
        "top": lambda b: b[:, 0],
        "left": lambda b: b[:, 1],
        "area": lambda b: b[:, 2] * b[:, 3],
        "ratio": lambda b: b[:, 3] / b[:, 2],
    }.items():
        assert stats.ks_2samp(of(peer), of(box)).pvalue > UNLIKELY, name


def test_the_output_is_distributed_as_the_original_chains() -> None:
    """Every random step at once: moments of the whole output, over many draws for one image."""
    count, size_px = 600, 64
    image = picture(size_px, 3)
    chain = transforms.Compose(
        [
            transforms.Resize((size_px, size_px)),
            transforms.RandomResizedCrop(size_px),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(*JITTER),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    torch.manual_seed(0)
    peer = torch.stack([chain(image) for _ in range(count)])
    batch = levels(image).byte()[None].expand(count, -1, -1, -1)
    own = augment(batch, draw_params(count, size_px, torch.Generator().manual_seed(21)), size_px)

    def features(outputs: Tensor) -> Tensor:
        halves = torch.stack([outputs[..., :32].mean((1, 2, 3)), outputs[..., :32, :].mean((1, 2, 3))], dim=1)
        return torch.cat([outputs.mean((2, 3)), outputs.std((2, 3)), halves], dim=1)

    for ours_of, peer_of in zip(features(own).t(), features(peer).t(), strict=True):
        assert stats.ks_2samp(ours_of.numpy(), peer_of.numpy()).pvalue > UNLIKELY


@pytest.mark.gpu
def test_cuda_equals_the_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    for source_px, out_px in ((64, 64), (224, 384)):
        images, params = pictures(16, source_px), draw_params(16, out_px, torch.Generator().manual_seed(1))
        on_cpu = denormalize(augment_eager(images, params, out_px))
        on_cuda = denormalize(augment(images.cuda(), params, out_px).cpu())
        torch.testing.assert_close(on_cuda, on_cpu, atol=0.5, rtol=0)
        torch.testing.assert_close(
            prepare_eval(images.cuda(), out_px).cpu(), prepare_eval(images, out_px), atol=1.01 / 255 / min(STD), rtol=0
        )
