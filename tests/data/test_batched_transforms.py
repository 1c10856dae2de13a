"""Batched views: each operation against PIL's, what is drawn against its probabilities, whole views against PIL's."""

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from paco_hf.data.augmentation import batched_functional as batched
from paco_hf.data.augmentation import batched_geometry as geometry
from paco_hf.data.augmentation import batched_policies as policies
from paco_hf.data.augmentation import batched_transforms as batched_views
from paco_hf.data.augmentation.batched_draws import BatchDraws, Draws, ImageDraws, image_keys
from paco_hf.data.augmentation.batched_functional import OPERATIONS
from paco_hf.data.augmentation.batched_transforms import BATCHED_VIEWS, BatchedView, BatchedViews, batched_obstacle
from paco_hf.data.augmentation.transforms import VIEWS, build_view
from paco_hf.data.images import Images
from paco_hf.data.loading import load_data

AUTO = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=[128, 128, 128])
KIND = {name: kind for kind, name in enumerate(OPERATIONS)}


def to_tensor(pictures: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures]).contiguous()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(count: int, kind: str = "image", seed: int = 0) -> Draws:
    if kind == "batch":
        return BatchDraws(generator(seed), count)
    return ImageDraws(image_keys(seed, 0, torch.arange(count)))


@pytest.fixture(params=["image", "batch"])
def source(request) -> Callable[[int], Draws]:
    """Random numbers for so many images, from a key for each or from one generator."""
    return lambda count: draws(count, request.param)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Many small operations on two threads stall where another process keeps a core busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Photographs, and the images that statistics stumble over: flat, black and white, noise, a ramp."""
    images = Images(load_data().train)
    noise = np.random.RandomState(0).randint(0, 256, (32, 32, 3), dtype=np.uint8)
    ramp = np.arange(1024, dtype=np.uint16).reshape(32, 32, 1) // np.array([4, 8, 16], dtype=np.uint16)
    arrays = [noise, ramp.astype(np.uint8), np.where(noise > 250, 255, 0).astype(np.uint8)]
    flat = [Image.new("RGB", (32, 32), color) for color in ((0, 0, 0), (255, 255, 255), (12, 200, 77))]
    return [images[i * 40] for i in range(26)] + [Image.fromarray(array) for array in arrays] + flat


def assert_equal(result: Tensor, expected: list[Image.Image]) -> None:
    assert result.dtype == torch.float32
    assert torch.equal(result, to_tensor(expected).float())


# ---- operations, bit for bit


@pytest.mark.parametrize("size", [32, pytest.param(41, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_policy_operations_are_those_of_pil(name: str, size: int, pictures) -> None:
    pictures = [picture.resize((size, size)) for picture in pictures]
    images = to_tensor(pictures).float()
    magnitudes, signed = batched.SPACE[name]
    for bins, index in [(31, 9)] + [(10, index) for index in range(10)]:
        drawn = magnitudes(bins, size, size)
        magnitude = 0.0 if drawn is None else float(drawn[index])
        for value in {magnitude, -magnitude if signed else magnitude}:
            kind = torch.full((1, len(images)), KIND[name])
            result = policies.augment(images.clone(), kind, torch.full(kind.shape, value, dtype=torch.float64))
            apply = AUTO._apply_image_or_video_transform
            assert_equal(result, [apply(p, name, value, AUTO.interpolation, AUTO._fill) for p in pictures])


def test_each_image_has_its_own_operation(pictures) -> None:
    images = to_tensor(pictures).float()
    kind, magnitude = policies.draw_rand_augment(32, draws(len(images)))
    expected = pictures
    for kinds, magnitudes in zip(kind.tolist(), magnitude.tolist(), strict=True):
        expected = [
            AUTO._apply_image_or_video_transform(p, OPERATIONS[k], m, AUTO.interpolation, AUTO._fill)
            for p, k, m in zip(expected, kinds, magnitudes, strict=True)
        ]
    assert_equal(policies.augment(images, kind, magnitude), expected)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_enhancements_are_those_of_pil(name: str, pictures) -> None:
    factors = torch.linspace(0.1, 1.9, len(pictures))
    adjust = getattr(F, f"adjust_{name}")
    kind = {"brightness": "Brightness", "contrast": "Contrast", "saturation": "Color"}[name]
    result = batched.enhance(to_tensor(pictures).float(), torch.full((len(pictures),), KIND[kind]), factors)
    assert_equal(result, [adjust(p, f) for p, f in zip(pictures, factors.tolist(), strict=True)])


def test_hue_is_that_of_pil_at_colors_of_all_kinds(pictures) -> None:
    levels = torch.tensor([0, 1, 2, 50, 84, 85, 86, 127, 128, 129, 170, 171, 200, 253, 254, 255], dtype=torch.uint8)
    grid = torch.stack(torch.meshgrid(levels, levels, levels, indexing="ij")).view(3, 64, 64)
    colors = Image.fromarray(grid.permute(1, 2, 0).numpy())
    for factor in (-0.5, -0.1, -0.041, 0.0, 0.003, 0.07, 0.1):
        steps = torch.tensor([int(factor * 255)])
        assert_equal(batched.shift_hue(grid[None].float(), steps), [F.adjust_hue(colors, factor)])
        result = batched.shift_hue(to_tensor(pictures).float(), steps.expand(len(pictures)))
        assert_equal(result, [F.adjust_hue(p, factor) for p in pictures])


def test_jitter_is_the_operations_in_the_order_drawn(pictures) -> None:
    parameters = batched.draw_jitter(0.8, 0.1, draws(len(pictures)))
    chosen, kinds, factors, places, steps = parameters
    assert set(places.tolist()) == {0, 1, 2, 3}
    adjust = {"Brightness": F.adjust_brightness, "Contrast": F.adjust_contrast, "Color": F.adjust_saturation}
    expected = []
    for i, picture in enumerate(pictures):
        for place in range(4 if chosen[i] else 0):
            if places[i] == place:
                step = int(steps[i])
                picture = F.adjust_hue(picture, (step + 0.5 * np.sign(step)) / 255)
            if place < 3:
                picture = adjust[OPERATIONS[kinds[i, place]]](picture, factors[i, place].item())
        expected.append(picture)
    assert_equal(batched.color_jitter(to_tensor(pictures).float(), *parameters), expected)


def test_grayscale_is_that_of_pil(pictures) -> None:
    assert_equal(batched.grayscale(to_tensor(pictures).float()), [F.to_grayscale(p, 3) for p in pictures])


@pytest.mark.parametrize("size", [3, 32, 224])
def test_blur_is_that_of_pil(size: int, pictures) -> None:
    pictures = [p.resize((size, size)) for p in pictures[2 if size < 224 else 24 :]]
    radii = torch.linspace(0.1, 2.0, len(pictures))
    expected = [p.filter(ImageFilter.GaussianBlur(r)) for p, r in zip(pictures, radii.tolist(), strict=True)]
    assert_equal(batched.gaussian_blur(to_tensor(pictures).float(), radii), expected)


@pytest.mark.parametrize(("height", "width", "size"), [(32, 32, 32), (40, 48, 32), (90, 50, 32), (260, 300, 224)])
def test_resized_crop_is_that_of_pil(height: int, width: int, size: int, pictures, monkeypatch) -> None:
    monkeypatch.setattr(geometry, "_CHUNK", 2**17)
    pictures = [p.resize((width, height), Image.Resampling.BICUBIC) for p in pictures[: 8 if size > 32 else None]]
    boxes = geometry.draw_boxes(height, width, (0.08, 1.0), draws(len(pictures)))
    boxes[0] = torch.tensor([0, 0, height, width])
    expected = [
        F.resized_crop(p, *(int(v) for v in box), [size, size], antialias=True)
        for p, box in zip(pictures, boxes, strict=True)
    ]
    result = geometry.resized_crop(to_tensor(pictures), boxes, size)
    # Equal with Pillow 13, which does not document the order of its passes; another order is a level off.
    assert (result - to_tensor(expected)).abs().max() <= 1
    assert (result != to_tensor(expected)).float().mean() < 0.05
    if Image.__version__.startswith("13."):
        assert_equal(result, expected)


def test_crop_flip_and_cutout_are_those_of_pil(pictures) -> None:
    images, count = to_tensor(pictures), len(pictures)
    top, left = torch.randint(9, (2, count), generator=generator())
    crops = [F.crop(F.pad(p, [4] * 4), int(t), int(x), 32, 32) for p, t, x in zip(pictures, top, left, strict=True)]
    assert_equal(geometry.shifted_crop(images, top, left, 4).float(), crops)
    where = torch.arange(count) % 3 == 0
    flipped = [F.hflip(p) if w else p for p, w in zip(pictures, where, strict=True)]
    assert_equal(batched.apply_to(images.float(), where, batched.flip), flipped)
    y, x = torch.randint(32, (2, count), generator=generator(1))
    y[:4], x[:4] = torch.tensor([0, 0, 31, 31]), torch.tensor([0, 31, 0, 31])
    expected = images.clone()
    for image, row, column in zip(expected, y.tolist(), x.tolist(), strict=True):
        image[:, max(row - 8, 0) : row + 8, max(column - 8, 0) : column + 8] = 0
    assert torch.equal(geometry.cutout(images.float(), y, x, 16), expected.float())


# ---- what is drawn


def assert_frequency(happened: Tensor, p: float | Tensor) -> None:
    """Within 4.5 standard deviations of a binomial, in each column."""
    p = torch.as_tensor(p, dtype=torch.float64)
    error = (happened.double().mean(0) - p).abs()
    assert (error <= 4.5 * (p * (1 - p) / len(happened)).sqrt() + 1e-9).all(), error


def kolmogorov_smirnov(a: np.ndarray, b: np.ndarray) -> float:
    values = np.concatenate([a, b])
    below = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


@pytest.mark.parametrize(
    ("height", "width", "low"),
    [(32, 32, 0.2), (40, 48, 0.08), pytest.param(24, 96, 0.2, marks=pytest.mark.slow), (96, 24, 0.5)],
)
def test_boxes_are_distributed_as_torchvisions(height: int, width: int, low: float, source) -> None:
    count = 4000
    crop = v2.RandomResizedCrop(32, scale=(low, 1.0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        params = [crop.make_params([torch.empty(3, height, width)]) for _ in range(count)]
    theirs = np.array([[p["top"], p["left"], p["height"], p["width"]] for p in params], dtype=float)
    ours = geometry.draw_boxes(height, width, (low, 1.0), source(count)).numpy()
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, 0] + ours[:, 2] <= height).all()
    assert (ours[:, 1] + ours[:, 3] <= width).all()
    statistics = {
        "area": lambda box: box[:, 2] * box[:, 3],
        "aspect": lambda box: box[:, 3] / box[:, 2],
        "top": lambda box: box[:, 0],
        "left": lambda box: box[:, 1],
    }
    for name, statistic in statistics.items():
        # The distance of two samples from one distribution is larger once in 10,000 times.
        distance = kolmogorov_smirnov(statistic(ours), statistic(theirs))
        assert distance < 2.23 * (2 / count) ** 0.5, name


def test_central_boxes_where_none_fits() -> None:
    for height, width in ((10, 400), (400, 10)):
        crop = v2.RandomResizedCrop(32, scale=(1.0, 1.0))
        params = crop.make_params([torch.empty(3, height, width)])
        box = geometry.draw_boxes(height, width, (1.0, 1.0), draws(3))
        assert box.tolist() == [[params["top"], params["left"], params["height"], params["width"]]] * 3


def test_auto_augment_draws_the_policy(source) -> None:
    count = 40_000
    kind, magnitude = policies.draw_auto_augment(32, source(count))
    assert kind.shape == magnitude.shape == (2, count)
    for step in range(2):
        share: dict[tuple[str, float], float] = {}
        for policy in AUTO._policies:
            name, p, index = policy[step]
            magnitudes, signed = AUTO._AUGMENTATION_SPACE[name]
            drawn = magnitudes(10, 32, 32)
            value = 0.0 if drawn is None else float(drawn[index])
            for entry in [(name, value), (name, -value)] if signed else [(name, value), (name, value)]:
                share[entry] = share.get(entry, 0) + p / 50
        share["Identity", 0.0] = 1 - sum(share.values())
        observed = [(kind[step] == KIND[name]) & (magnitude[step] == value) for name, value in share]
        assert_frequency(torch.stack(observed, 1), torch.tensor(list(share.values())))
        assert torch.stack(observed).any(0).all()
    # The two steps go together: in one sub-policy alone, a rotation comes first.
    second = kind[1][kind[0] == KIND["Rotate"]].unique().tolist()
    assert second == sorted([KIND["Identity"], KIND["TranslateX"]])


def test_rand_augment_draws_each_operation_alike(source) -> None:
    kind, magnitude = policies.draw_rand_augment(32, source(20_000))
    space = v2.RandAugment._AUGMENTATION_SPACE
    assert "Invert" not in space
    assert_frequency(torch.stack([kind[0] == KIND[name] for name in space], 1), torch.full((len(space),), 1 / 14))
    assert_frequency(kind[0] == kind[1], 1 / 14)
    for name, (magnitudes, signed) in space.items():
        drawn, values = magnitudes(31, 32, 32), magnitude[kind == KIND[name]]
        expected = 0.0 if drawn is None else float(drawn[9])
        assert (values.abs() == expected).all()
        if signed:
            assert_frequency(values < 0, 0.5)


def test_jitter_draws(source) -> None:
    chosen, kind, factor, place, steps = batched.draw_jitter(0.8, 0.1, source(20_000))
    assert_frequency(chosen, 0.8)
    assert_frequency(torch.stack([place == i for i in range(4)], 1), torch.full((4,), 0.25))
    orders = kind[:, 0] * 1000 + kind[:, 1]
    assert len(orders.unique()) == 6
    assert_frequency(orders[:, None] == orders.unique(), torch.full((6,), 1 / 6))
    assert (kind.sort(1).values == kind[0].sort().values).all()
    assert (factor.min().item(), factor.max().item()) == pytest.approx((0.6, 1.4), abs=0.001)
    assert_frequency(factor.flatten() < 0.8, 0.25)
    # int() of +-25.5 steps cuts off: 0 is twice as frequent as the others, and 25 half as frequent.
    expected = torch.tensor([0.5, *[1] * 24, 2, *[1] * 24, 0.5]) / 51
    assert_frequency(steps[:, None] == torch.arange(-25, 26), expected)
    assert batched.draw_jitter(1.0, 0.0, draws(5))[4] is None


def test_probabilities_of_the_steps(source) -> None:
    """The shares of images that flip, lose their colors or are blurred, and the places of crops and holes."""
    image = torch.zeros(3, 32, 32)
    image[0, :, :16] = 200
    images = image.expand(4000, -1, -1, -1).clone()
    flipped = batched_views._random_flip(images.clone(), source(4000))
    assert_frequency(flipped[:, 0, 0, 0] == 0, 0.5)
    gray = batched_views._random_grayscale(images.clone(), source(4000))
    assert_frequency(gray[:, 1, 0, 0] > 0, 0.2)
    blurred = batched_views._random_blur(images.clone(), source(4000))
    assert_frequency(blurred[:, 0, 8, 15] < 200, 0.5)
    holes = batched_views._random_cutout(torch.ones(4000, 1, 32, 32), source(4000)) == 0
    rows = torch.tensor([min(i + 8, 31) - max(i - 8, -1) for i in range(32)]) / 32
    assert_frequency(holes[:, 0].any(2), rows)
    assert_frequency(holes[:, 0].any(1), rows)
    crops = batched_views._random_crop(torch.arange(1, 33.0).expand(4000, 1, 32, 32), source(4000), 32)
    assert_frequency(crops[:, 0, 16, 16, None] - 17 == torch.arange(-4, 5), torch.full((9,), 1 / 9))


# ---- whole views


@pytest.mark.parametrize(
    "name",
    [name if name == "cifar_reg" else pytest.param(name, marks=pytest.mark.slow) for name in sorted(BATCHED_VIEWS)],
)
def test_views_are_distributed_as_those_of_pil(name: str, pictures) -> None:
    pictures, times = pictures[:20], 60
    view = build_view(name, 32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torch.stack([torch.stack([view(p) for _ in range(times)]) for p in pictures]).double()
    repeated = to_tensor(pictures).repeat_interleave(times, 0)
    ours = BatchedView(name, 32)(repeated, draws(len(repeated))).view_as(theirs).double()
    statistics = {
        "mean": lambda pixels: pixels.mean((3, 4)),
        "deviation": lambda pixels: pixels.std((3, 4)),
        "color": lambda pixels: pixels.std(2).mean((2, 3)).unsqueeze(2),
        "sharpness": lambda pixels: pixels.diff(dim=4).abs().mean((3, 4)),
        "map": lambda pixels: torch.nn.functional.avg_pool2d(pixels.flatten(0, 1), 4).view(20, times, -1),
    }
    for key, statistic in statistics.items():
        a, b = statistic(ours), statistic(theirs)
        # The images are the same in both; what differs is what is drawn for each: the variance within images.
        variance = (a.var(1) + b.var(1)).sum(0) / (times * 20**2)
        score = (a.mean((0, 1)) - b.mean((0, 1))) / variance.sqrt()
        assert score.abs().max() < 4.5, key
        assert score.square().mean() < 6, key


@pytest.mark.parametrize("name", sorted(BATCHED_VIEWS))
def test_views_are_a_function_of_the_generator_alone(name: str, pictures) -> None:
    images = to_tensor(pictures)
    before = images.clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    view = BatchedView(name, 32)
    result = view(images, generator(5))
    assert result.shape == (len(images), 3, 32, 32)
    assert result.dtype == torch.uint8
    assert torch.equal(images, before)
    assert torch.equal(view(images, generator(5)), result)
    assert not torch.equal(view(images, generator(6)), result)
    source = generator(5)
    view(images, source)
    assert not torch.equal(view(images, source), result)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]


@pytest.mark.parametrize("name", sorted(BATCHED_VIEWS))
def test_views_do_not_depend_on_the_number_of_threads(name: str, pictures) -> None:
    images, results = to_tensor(pictures).repeat(4, 1, 1, 1), []
    for count in (1, 2):
        torch.set_num_threads(count)
        results.append(BatchedView(name, 32)(images, generator()))
    assert torch.equal(*results)


@pytest.mark.parametrize("name", sorted(BATCHED_VIEWS))
def test_views_follow_the_device_of_the_images(name: str) -> None:
    """On "meta" an operation that mixes devices fails, as it does on a GPU; so does one that waits for values."""
    images = torch.empty(200, 3, 32, 32, dtype=torch.uint8, device="meta")
    for drawn in (generator(), ImageDraws(torch.empty(200, dtype=torch.int64, device="meta"))):
        result = BatchedView(name, 32)(images, drawn)
        assert (result.device.type, result.shape, result.dtype) == ("meta", (200, 3, 32, 32), torch.uint8)


def test_large_images() -> None:
    ramp = torch.linspace(0, 255, 300).expand(6, 3, 250, 300).to(torch.uint8)
    for name in ("sim", "regular"):
        result = BatchedView(name, 224)(ramp, generator())
        assert result.shape == (6, 3, 224, 224)
        # Left to right, up or down: crops, colors and blur leave the ramp a ramp.
        steps = result.float().diff(dim=3)
        assert ((steps >= 0).flatten(1).all(1) | (steps <= 0).flatten(1).all(1)).all()
    small = BatchedView("cifar_sim", 32)(ramp, generator())
    assert small.shape == (6, 3, 32, 32)


def test_names_are_those_of_the_views() -> None:
    assert set(BATCHED_VIEWS) <= set(VIEWS)


def test_errors() -> None:
    images = torch.zeros(2, 3, 40, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"unknown view 'cifar': choose one of cifar_light, .*sim"):
        BatchedView("cifar", 32)
    with pytest.raises(ValueError, match=r"takes images of 32x32 pixels, got \(2, 3, 40, 32\)"):
        BatchedView("cifar_reg", 32)(images, generator())
    for wrong in (images.float(), images[0], images[:, :1]):
        with pytest.raises(ValueError, match="must be uint8 "):
            BatchedView("sim", 32)(wrong, generator())


def test_views_of_a_batch_are_normalized_and_a_function_of_the_seed(pictures) -> None:
    images = to_tensor(pictures)[:, :, :32, :32].contiguous()
    views = [BatchedView("cifar_reg", 32), BatchedView("cifar_sim", 32)]
    make = BatchedViews(views, mean=[0.5, 0.4, 0.3], std=[0.25, 0.2, 0.1])
    batch = {"labels": torch.arange(len(images)), "pixel_values": images, "view_seed": 7}
    result = make(batch)
    assert list(batch) == ["labels", "pixel_values", "view_seed"]
    assert list(result) == ["labels", "pixel_values", "key_pixel_values"]
    drawn = generator(7)
    for name, view in zip(("pixel_values", "key_pixel_values"), views, strict=True):
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.5, 0.4, 0.3], [0.25, 0.2, 0.1]))
        assert torch.allclose(result[name], (view(images, drawn) / 255 - mean) / std, atol=1e-5)
        assert torch.equal(result[name], make(batch)[name])
    assert not torch.equal(result["pixel_values"], make({**batch, "view_seed": 8})["pixel_values"])
    keys = image_keys(7, 0, batch["labels"])
    result = make({**batch, "view_seed": keys})
    for i, (name, view) in enumerate(zip(("pixel_values", "key_pixel_values"), views, strict=True)):
        assert torch.allclose(result[name], (view(images, ImageDraws(keys, i)) / 255 - mean) / std, atol=1e-5)
    with pytest.raises(ValueError, match="one or two views, got 3"):
        BatchedViews([*views, views[0]], mean=[0.5] * 3, std=[0.2] * 3)
    one = BatchedViews(views[:1], mean=[0.5, 0.4, 0.3], std=[0.25, 0.2, 0.1])(batch)
    assert list(one) == ["labels", "pixel_values"]


def test_what_stands_in_the_way_of_batches() -> None:
    pixels = np.zeros((4, 32, 32, 3), np.uint8)
    assert batched_obstacle(["cifar_reg", "cifar_sim"], 32, pixels) is None
    assert batched_obstacle(["cifar_sim", "sim"], 24, pixels) is None
    assert "differ in size" in batched_obstacle(["cifar_sim"], 32, None)
    assert batched_obstacle(["cifar_sim", "cifar_light"], 24, pixels) == (
        "'cifar_light' needs images of 24 x 24 pixels, not 32 x 32"
    )
