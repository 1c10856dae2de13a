"""The numbers that views are drawn by: SplitMix64's, even and independent, a function of the image alone."""

from collections.abc import Iterator

import pytest
import torch
from synchronization import Transfers
from torch import Tensor

from paco_hf.data.augmentation.batched_draws import BatchDraws, ImageDraws, image_keys, mixed
from paco_hf.data.augmentation.batched_transforms import BATCHED_VIEWS, BatchedView

GAMMA = 0x9E3779B97F4A7C15 - 2**64


def numbers(seed: int = 0, epoch: int = 0, view: int = 0, count: int = 4096) -> Tensor:
    """The first 32 numbers of images `(32, N)`."""
    return ImageDraws(image_keys(seed, epoch, torch.arange(count)), view).rand(32, -1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_the_published_numbers_of_splitmix64() -> None:
    expected = {
        1234567: [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431],
        0: [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC],
    }
    for seed, values in expected.items():
        result = mixed(torch.arange(1, 5) * GAMMA + seed)
        assert [value % 2**64 for value in result.tolist()] == values


def test_numbers_are_even_and_do_not_go_together() -> None:
    first = numbers()
    assert (first.min() >= 0, first.max() < 1) == (True, True)
    others = {
        "seed": numbers(seed=1),
        "epoch": numbers(epoch=1),
        "view": numbers(view=1),
        "image": first.roll(1, 1),
        "number": first.roll(1, 0),
        "far number": first.roll(16, 0),
        "seed and epoch": numbers(seed=1, epoch=1),
    }
    for name, other in others.items():
        # Pairs in a grid of 16 x 16: the chi-square of 255 degrees of freedom is above 362 once in 100,000 times.
        cells = ((first * 16).long() * 16 + (other * 16).long()).flatten()
        expected = len(cells) / 256
        assert ((cells.bincount(minlength=256) - expected) ** 2 / expected).sum() < 362, name
        # And the lowest of the 24 bits.
        low = [(values * 2**24).long() & 15 for values in (first, other)]
        cells = (low[0] * 16 + low[1]).flatten()
        assert ((cells.bincount(minlength=256) - expected) ** 2 / expected).sum() < 362, name
    ordered, steps = first.flatten().double().sort().values, torch.arange(1, first.numel() + 1) / first.numel()
    assert (ordered - steps).abs().max() < 2.3 / first.numel() ** 0.5  # Kolmogorov-Smirnov, once in 20,000 times


def test_whole_numbers_and_wide_ones() -> None:
    drawn = ImageDraws(image_keys(0, 0, torch.arange(50_000)))
    whole = drawn.randint(9, 2, -1)
    assert (whole.dtype, whole.shape) == (torch.int64, (2, 50_000))
    count = whole.flatten().bincount()
    assert len(count) == 9
    assert ((count - 1e5 / 9) ** 2 / (1e5 / 9)).sum() < 40  # 8 degrees of freedom
    wide = drawn.rand(2, -1, dtype=torch.float64)
    assert wide.dtype == torch.float64
    assert (wide * 2**53 == (wide * 2**53).floor()).all()
    assert (wide * 2**24 != (wide * 2**24).floor()).float().mean() > 0.99
    assert wide.mean().item() == pytest.approx(0.5, abs=0.004)
    assert drawn.rand(-1, 3).shape == (50_000, 3)
    assert drawn.rand(-1).shape == (50_000,)


def test_numbers_depend_on_their_image_and_place_alone() -> None:
    keys = image_keys(3, 2, torch.arange(100))
    all_at_once = ImageDraws(keys).rand(200, -1)
    some = torch.tensor([70, 3, 41])
    one_by_one = ImageDraws(keys[some])
    assert torch.equal(torch.stack([one_by_one.rand(-1) for _ in range(200)]), all_at_once[:, some])
    assert torch.equal(image_keys(3, 2, some), keys[some])
    whole, one_by_one = ImageDraws(keys).randint(9, 200, -1), ImageDraws(keys[some])
    assert torch.equal(torch.stack([one_by_one.randint(9, -1) for _ in range(200)]), whole[:, some])
    in_parts = ImageDraws(keys)
    assert torch.equal(torch.cat([in_parts.rand(size, -1) for size in (1, 39, 30, 50, 80)]), all_at_once)


@pytest.fixture(scope="module")
def images() -> Tensor:
    ramp = torch.linspace(0, 255, 48).expand(8, 3, 48, 48).clone()
    ramp[::2] += torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(0)) * 40
    return ramp.clamp(0, 255).to(torch.uint8).repeat(2, 1, 1, 1)


@pytest.mark.parametrize("name", sorted(BATCHED_VIEWS))
def test_views_are_the_same_in_any_batch(name: str, images) -> None:
    keys, view = image_keys(0, 5, torch.arange(16)), BatchedView(name, 48)
    together = view(images, ImageDraws(keys))
    for size in (1, 4, 8):
        parts = [view(*part) for part in zip(images.split(size), map(ImageDraws, keys.split(size)), strict=True)]
        assert torch.equal(torch.cat(parts), together)
    # Which is what a generator for the whole batch does not give.
    one = [BatchDraws(torch.Generator().manual_seed(0), size) for size in (16, 8)]
    assert not torch.equal(view(images, one[0])[:8], view(images[:8], one[1]))


@pytest.mark.parametrize(
    ("name", "size"), [(name, 48) for name in sorted(BATCHED_VIEWS)] + [("sim", 24), ("cifar_sim", 24)]
)
def test_views_without_looking_at_values_are_the_same(name: str, size: int, images, monkeypatch) -> None:
    """As on a GPU, where each operation is computed for all images and then chosen from."""
    many = images.repeat(12, 1, 1, 1)
    tall = many if size == 48 else many[..., :20]  # boxes that are resized vertically first
    keys, view = image_keys(0, 0, torch.arange(len(tall))), BatchedView(name, size)
    expected = view(tall, ImageDraws(keys))
    monkeypatch.setattr(torch.Tensor, "is_cpu", property(lambda tensor: False))
    assert torch.equal(view(tall, ImageDraws(keys)), expected)


@pytest.mark.parametrize("name", sorted(BATCHED_VIEWS))
def test_views_are_drawn_where_the_images_are(name: str) -> None:
    """On "meta", where looking at a value is an error: tables travel once, and then nothing does."""
    images = torch.empty(20, 3, 32, 32, dtype=torch.uint8, device="meta")
    keys, view = torch.empty(20, dtype=torch.int64, device="meta"), BatchedView(name, 32)
    view(images, ImageDraws(keys))
    with Transfers() as transfers:
        assert view(images, ImageDraws(keys)).shape == images.shape
    assert transfers.found == []
    with Transfers() as transfers:
        view(images, torch.Generator().manual_seed(0))
    assert transfers.found
