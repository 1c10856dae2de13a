"""The views of the papers' recipes: their operations in order, each operation that is ours, what is drawn."""

import pickle
import random
from collections import Counter
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torchvision.transforms import v2
from transformers import BitImageProcessor

from paco_hf.data.augmentation.batched_transforms import batched_obstacle
from paco_hf.data.augmentation.transforms import VIEWS, GaussianBlur, build_view, rand_augment, view_operations
from paco_hf.data.samplers import EpochIndex
from paco_hf.data.torch_datasets import ImageCollator, ViewsDataset

FILL = (124, 116, 104)
INTERPOLATIONS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
NAMES = [*sorted(VIEWS), "randcls-n2-m10", "stack-n3-m12"]


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """Wider than high, of every value, in colors, with edges."""
    ramp = np.linspace(0, 255, 30 * 44).reshape(30, 44, 1)
    noise = np.random.RandomState(0).randint(-25, 26, (30, 44, 3))
    return Image.fromarray(np.clip(ramp + noise, 0, 255).astype(np.uint8))


# ---- the sequence of operations

PARAMETERS = {
    "FitSquare": ("size",),
    "RandomCrop": ("size", "padding", "fill", "padding_mode", "pad_if_needed"),
    "RandomResizedCrop": ("size", "scale", "ratio", "interpolation"),
    "RandomHorizontalFlip": ("p",),
    "RandomGrayscale": ("p",),
    "ColorJitter": ("brightness", "contrast", "saturation", "hue"),
    "GaussianBlur": ("radius",),
    "AutoAugment": ("policy", "fill"),
    "RandAugment": ("num_layers", "choice_weights"),
    "PILToTensor": (),
    "Cutout": ("side",),
}


def described(operation: object) -> tuple:
    name = type(operation).__name__
    if name == "RandomApply":
        return (operation.p, *map(described, operation.transforms))
    magnitudes = sorted({op.magnitude for op in operation.ops}) if name == "RandAugment" else []
    values = [getattr(operation, parameter) for parameter in PARAMETERS[name]]
    # Up to torchvision 0.24 the names of interpolations are members of an enumeration.
    return (name, *(v.value if isinstance(v, v2.InterpolationMode) else v for v in values), *magnitudes)


def crop(size: int, low: float) -> tuple:
    return ("RandomResizedCrop", (size, size), (low, 1.0), (3 / 4, 4 / 3), "bilinear")


FLIP = ("RandomHorizontalFlip", 0.5)
STRENGTH = (0.6, 1.4)
JITTER = (1.0, ("ColorJitter", STRENGTH, STRENGTH, STRENGTH, None))
HUE_JITTER = (0.8, ("ColorJitter", STRENGTH, STRENGTH, STRENGTH, (-0.1, 0.1)))
GRAY = ("RandomGrayscale", 0.2)
BLUR = (0.5, ("GaussianBlur", (0.1, 2.0)))
WEAK_BLUR = (0.2, ("GaussianBlur", (0.1, 2.0)))
AUTO = ("AutoAugment", v2.AutoAugmentPolicy.CIFAR10, [128, 128, 128])
PADDED_CROP = ("RandomCrop", (32, 32), [4, 4, 4, 4], 0, "constant", False)
TENSOR = ("PILToTensor",)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("randcls-n2-m10", 224, [crop(224, 0.08), FLIP, JITTER, ("RandAugment", 2, None, 10), TENSOR]),
        ("randcls-n5-m0", 224, [crop(224, 0.08), FLIP, JITTER, ("RandAugment", 5, None, 0), TENSOR]),
        ("stack-n12-m10", 224, [crop(224, 0.08), FLIP, JITTER, GRAY, BLUR, ("RandAugment", 12, None, 10), TENSOR]),
        ("stack-n3-m12", 224, [crop(224, 0.08), FLIP, JITTER, GRAY, BLUR, ("RandAugment", 3, None, 12), TENSOR]),
        ("sim", 224, [crop(224, 0.08), JITTER, GRAY, BLUR, FLIP, TENSOR]),
        ("sim02", 224, [crop(224, 0.2), JITTER, GRAY, BLUR, FLIP, TENSOR]),
        ("mocov2", 224, [crop(224, 0.2), HUE_JITTER, GRAY, BLUR, FLIP, TENSOR]),
        ("regular", 224, [crop(224, 0.08), FLIP, JITTER, TENSOR]),
        ("cifar_reg", 32, [("FitSquare", 32), PADDED_CROP, FLIP, AUTO, TENSOR, ("Cutout", 16)]),
        ("cifar_sim", 32, [crop(32, 0.2), FLIP, HUE_JITTER, GRAY, BLUR, TENSOR]),
        ("cifar_sim_weak_blur", 32, [crop(32, 0.2), FLIP, HUE_JITTER, GRAY, WEAK_BLUR, TENSOR]),
    ],
)
def test_operations_are_those_of_the_recipes(name: str, size: int, expected: list[tuple]) -> None:
    assert [described(operation) for operation in view_operations(name, size)] == expected
    assert [described(operation) for operation in build_view(name, size).transforms] == expected


WRONG = ["randcls", "stack-n2", "stack-n0-m10", "stack-n2-m-1", "stack-n2.5-m10", "stack-n2-m9.5", "stack-n02-m10"]
WRONG += ["stack-n٢-m10", "Stack-n2-m10", "stack-n2-m10 ", "stack-n2-m10\n", "sim-n2-m10", ""]


@pytest.mark.parametrize("name", WRONG)
def test_unknown_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"unknown view .*: choose one of cifar_light, .*, sim02, or ") as error:
        build_view(name, 32)
    assert "randcls-n<N>-m<M> or stack-n<N>-m<M> with integers N >= 1 and M >= 0" in str(error.value)
    assert "\n" not in str(error.value)


def test_views_without_batched_ones_are_left_to_pil() -> None:
    pixels = np.zeros((4, 32, 32, 3), np.uint8)
    for name in ("stack-n2-m10", "randcls-n2-m10", "mocov2", "sim02", "cifar_sim_weak_blur"):
        obstacle = batched_obstacle(["cifar_sim", name], 32, pixels)
        assert obstacle.startswith(
            f"'{name}' is only available with the pil backend (the tensor backend has: cifar_light, "
        )


# ---- RandAugment


def signed(r: float, transformed: Callable[[float, Image.Resampling], Image.Image]) -> list[Image.Image]:
    return [transformed(sign * r, interpolation) for sign in (1, -1) for interpolation in INTERPOLATIONS]


def affine(image: Image.Image, *matrix: float, resample: Image.Resampling) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=FILL)


# What each may give at level 10 r, all alike probable.
RESULTS: dict[str, Callable[[Image.Image, float], list[Image.Image]]] = {
    "AutoContrast": lambda im, r: [ImageOps.autocontrast(im)],
    "Equalize": lambda im, r: [ImageOps.equalize(im)],
    "Invert": lambda im, r: [im.point(lambda v: 255 - v)],
    "Rotate": lambda im, r: signed(r, lambda a, i: im.rotate(a * 30, resample=i, fillcolor=FILL)),
    "Posterize": lambda im, r: [im.point(lambda v: v - v % 2 ** (8 - int(4 * r)))],
    "Solarize": lambda im, r: [im.point(lambda v: v if v < int(256 * r) else 255 - v)],
    "SolarizeAdd": lambda im, r: [im.point(lambda v: min(255, v + int(110 * r)) if v < 128 else v)],
    "Color": lambda im, r: [Image.blend(im.convert("L").convert("RGB"), im, 1.8 * r + 0.1)],
    "Contrast": lambda im, r: [ImageEnhance.Contrast(im).enhance(1.8 * r + 0.1)],
    "Brightness": lambda im, r: [Image.blend(Image.new("RGB", im.size), im, 1.8 * r + 0.1)],
    "Sharpness": lambda im, r: [Image.blend(im.filter(ImageFilter.SMOOTH), im, 1.8 * r + 0.1)],
    "ShearX": lambda im, r: signed(r, lambda a, i: affine(im, 1, 0.3 * a, 0, 0, 1, 0, resample=i)),
    "ShearY": lambda im, r: signed(r, lambda a, i: affine(im, 1, 0, 0, 0.3 * a, 1, 0, resample=i)),
    "TranslateXRel": lambda im, r: signed(r, lambda a, i: affine(im, 1, 0, 0.45 * a * 44, 0, 1, 0, resample=i)),
    "TranslateYRel": lambda im, r: signed(r, lambda a, i: affine(im, 1, 0, 0, 0, 1, 0.45 * a * 30, resample=i)),
}


@pytest.mark.parametrize("level", [0, 1.7, 2.5, 6.2, 9.9, 10])
def test_each_of_rand_augments_operations_at_a_level(level: float, image) -> None:
    operations = rand_augment(2, 10).ops
    assert [operation.name for operation in operations] == list(RESULTS)
    for operation in operations:
        operation.prob, operation.magnitude, operation.magnitude_std = 1.0, level, 0.0
        random.seed(0)
        seen = {operation(image).tobytes() for _ in range(40)}
        expected = [result.tobytes() for result in RESULTS[operation.name](image, level / 10)]
        assert seen == set(expected), operation.name
        if level == 6.2:
            assert len(seen) == len(expected)


def applied(n: int, m: int, images: int) -> list[list[tuple[str, float]]]:
    """The operations that RandAugment applies to each of so many images, with their levels."""
    policy, record = rand_augment(n, m), []
    for operation in policy.ops:
        operation.level_fn = lambda level, _, name=operation.name: (name, level)
        operation.aug_fn = lambda _, name, level, **settings: [*_, (name, level)]
    seed_all(0)
    for _ in range(images):
        record.append(policy([]))
    return record


def within(observed: float, p: float, count: int) -> bool:
    return abs(observed / count - p) <= 4.5 * (p * (1 - p) / count) ** 0.5


def test_rand_augment_draws_with_replacement_and_applies_each_half_of_the_time() -> None:
    images = 4000
    record = applied(3, 5, images)
    numbers = Counter(len(drawn) for drawn in record)
    for number, p in enumerate((1 / 8, 3 / 8, 3 / 8, 1 / 8)):
        assert within(numbers[number], p, images)
    names = Counter(name for drawn in record for name, _ in drawn)
    assert all(within(names[name], 1 / 15, names.total()) for name in RESULTS)
    pairs = [drawn for drawn in record if len(drawn) == 2]
    assert within(sum(first[0] == second[0] for first, second in pairs), 1 / 15, len(pairs))


@pytest.mark.parametrize("m", [0, 5, 9, 10, 12])
def test_rand_augment_draws_its_level_around_the_magnitude(m: int) -> None:
    levels = np.array([level for drawn in applied(2, m, 2000) for _, level in drawn])
    for bound in np.arange(-1, 11.1, 0.25):
        p = 0 if bound < 0 else 1 if bound >= 10 else NormalDist(m, 0.5).cdf(bound)
        assert within((levels <= bound).sum(), p, len(levels)), bound


# ---- the other operations


def test_blur_is_pils_of_a_uniform_radius(image, monkeypatch) -> None:
    torch.manual_seed(3)
    blurred = GaussianBlur()(image)
    torch.manual_seed(3)
    radius = torch.empty(()).uniform_(0.1, 2.0).item()
    assert blurred == image.filter(ImageFilter.GaussianBlur(radius))
    radii: list[float] = []
    monkeypatch.setattr(ImageFilter, "GaussianBlur", lambda radius: radii.append(radius) or ImageFilter.BLUR)
    for _ in range(2000):
        GaussianBlur()(image)
    assert (min(radii), max(radii)) == pytest.approx((0.1, 2.0), abs=0.01)
    for quarter in (1, 2, 3):
        assert within(sum(radius < 0.1 + 1.9 * quarter / 4 for radius in radii), quarter / 4, len(radii))


@pytest.mark.parametrize(
    ("name", "place", "p"),
    [
        ("stack-n2-m10", 1, 0.5),
        ("stack-n2-m10", 2, 1.0),
        ("stack-n2-m10", 3, 0.2),
        ("stack-n2-m10", 4, 0.5),
        ("mocov2", 1, 0.8),
        ("cifar_sim_weak_blur", 4, 0.2),
    ],
)
def test_shares_of_images_that_an_operation_changes(name: str, place: int, p: float, image) -> None:
    operation, small = view_operations(name, 32)[place], image.crop((10, 10, 18, 18))
    torch.manual_seed(0)
    results = [operation(small) for _ in range(1000)]
    changed = [result for result in results if result != small]
    assert within(len(changed), p, len(results))
    if place == 3:
        assert changed
        assert all(result == small.convert("L").convert("RGB") for result in changed)


def test_the_hole_of_cutout_is_black_before_normalization() -> None:
    mean, std = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
    *_, to_tensor, cutout = view_operations("cifar_reg", 32)
    white = ViewsDataset([Image.new("RGB", (32, 32), "white")], [0], [v2.Compose([to_tensor, cutout])])
    pixels = ImageCollator(BitImageProcessor(image_mean=mean, image_std=std))([white[0]])["pixel_values"]
    hole = -torch.tensor(mean) / torch.tensor(std)
    assert torch.allclose(pixels.amin((0, 2, 3)), hole, atol=1e-5)
    assert 8 * 8 <= (pixels[0, 0] < 0).sum() <= 16 * 16


# ---- whole views


@pytest.mark.parametrize("name", NAMES)
def test_views_take_images_of_any_size(name: str) -> None:
    size = 32 if name.startswith("cifar") else 224
    view = build_view(name, size)
    for extent in ((1, 1), (20, 300), (500, 333), (size, size)):
        result = view(Image.new("RGB", extent, (200, 30, 90)))
        assert (result.shape, result.dtype) == ((3, size, size), torch.uint8)


@pytest.mark.parametrize("name", ["randcls-n2-m10", "stack-n3-m12"])
def test_rand_augment_views_are_a_function_of_seed_epoch_and_index(name: str, image) -> None:
    def draw(seed: int, epoch: int, index: int) -> torch.Tensor:
        # What the global generators hold does not matter, nor that the view went to a worker.
        seed_all(random.randrange(2**31))
        view = pickle.loads(pickle.dumps(build_view(name, 64)))
        return ViewsDataset([image] * 3, [0] * 3, [view], seed)[EpochIndex(index, epoch)]["pixel_values"]

    keys = [(0, 0, 0), *[(0, epoch, 0) for epoch in range(1, 8)], (1, 0, 0), (0, 0, 1), (0, 0, 2)]
    first = [draw(*key) for key in keys]
    assert all(torch.equal(draw(*key), drawn) for key, drawn in zip(reversed(keys), reversed(first), strict=True))
    assert len({drawn.numpy().tobytes() for drawn in first}) == len(keys)
