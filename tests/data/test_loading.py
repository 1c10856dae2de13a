"""Counts, selections, carves, the data sets, and views that are a function of (seed, epoch, index)."""

import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, golden
from datasets import ClassLabel, Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from transformers import BitImageProcessor
from user_data import encoded, folders

from paco_hf.data import class_counts, long_tailed_counts, long_tailed_indices, stratified_split
from paco_hf.data.augmentation.transforms import VIEWS, Cutout, build_view
from paco_hf.data.images import Images
from paco_hf.data.loading import load_data
from paco_hf.data.samplers import EpochIndex, EpochSampler
from paco_hf.data.torch_datasets import ImageCollator, ViewsDataset, WholeImages

CIFAR_FOLDER = ROOT.parent / "shared" / "data" / "cifar100_lt"


def test_selection_is_the_references_index_for_index() -> None:
    tensors, metadata = golden("cifar_lt_split.safetensors")
    assert len(metadata) == 5
    for case, text in metadata.items():
        settings = json.loads(text)
        classes, per_class = settings["cls_num"], settings["per_class"]
        ordered = np.repeat(np.arange(classes), per_class)
        targets = np.random.RandomState(settings["targets_seed"]).permutation(ordered)
        factor = {0.01: 100, 0.02: 50, 0.1: 10}[settings["imb_factor"]]
        counts = long_tailed_counts(per_class, classes, factor, settings["imb_type"])
        assert counts == tensors[f"{case}.counts"].tolist()
        selected = long_tailed_indices(targets, counts, settings["rand_number"])
        assert selected == tensors[f"{case}.selected_index"].tolist()


def test_counts() -> None:
    assert [sum(long_tailed_counts(500, 100, factor)) for factor in (100, 50, 10)] == [10847, 12608, 19573]
    assert [sum(long_tailed_counts(5000, 10, factor)) for factor in (100, 50, 10)] == [12406, 13996, 20431]
    assert long_tailed_counts(500, 4, 100, "step") == [500, 500, 5, 5]
    assert long_tailed_counts(500, 5, 100, "step") == [500, 500, 500, 5, 5]
    pareto = long_tailed_counts(500, 10, 100, "pareto")
    assert (pareto[0], pareto[-1]) == (500, 5)
    assert pareto[1] == int(500 * 2**-2.0)
    assert long_tailed_counts(7, 1, 10) == [7]
    assert long_tailed_counts(7, 3, 1) == [7, 7, 7]
    assert [long_tailed_counts(49, 10, 49, kind)[-1] for kind in ("exp", "step", "pareto")] == [1, 1, 1]
    for arguments, message in (
        ((500, 10, 0.01), "for 0.01 in the reference implementation, use 100"),
        ((500, 10, 1000), "at most"),
        ((500, 10, 10, "flat"), "exp, step or pareto"),
        ((0, 10, 10), "at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            long_tailed_counts(*arguments)


def test_class_counts() -> None:
    assert class_counts([0, 2, 0, 1], 3) == [2, 1, 1]
    assert class_counts([0, 2], 3, allow_empty=True) == [1, 0, 1]
    for labels, message in (
        ([0, 3], "label 3 of row 1 is out of range"),
        ([0, -1], "label -1 of row 1"),
        ([0, 0], "1 of 2 classes have no training image.*class 1|2 of 3 classes have no training image"),
        ([], "empty"),
        ([0.5], "must be integers"),
    ):
        with pytest.raises(ValueError, match=message):
            class_counts(labels, 3)


def test_carve_is_stratified_and_leaves_every_class_an_image() -> None:
    labels = np.repeat(np.arange(6), [100, 40, 10, 3, 2, 1])
    train, validation = stratified_split(labels, 0.1, seed=0)
    assert sorted(train + validation) == list(range(len(labels)))
    assert np.bincount(labels[validation], minlength=6).tolist() == [10, 4, 1, 1, 1, 0]
    assert stratified_split(labels, 0.1, seed=0) == (train, validation)
    assert stratified_split(labels, 0.1, seed=1) != (train, validation)
    assert stratified_split(labels, 0)[1] == []
    assert np.bincount(labels[stratified_split(labels, 0.95)[0]], minlength=6).min() == 1
    with pytest.raises(ValueError, match="validation_fraction"):
        stratified_split(labels, 1.0)


def test_builtin_data() -> None:
    data = load_data()
    assert data.class_counts == long_tailed_counts(250, 20, 50)
    assert len(data.train.labels) == 1313
    assert class_counts(data.test.labels, 20) == [100] * 20
    assert data.class_names[:3] == ["apple", "bed", "bowl"]
    images = Images(data.test)
    assert images.decoded is not None
    assert images[3].size == (32, 32)
    assert np.array_equal(np.asarray(images[3]), np.asarray(images.split.open(3)))
    folder = ROOT / "paco_hf" / "data" / "builtin"
    assert all(file.stat().st_size < 4 * 2**20 for file in folder.iterdir())


@pytest.mark.skipif(not CIFAR_FOLDER.is_dir(), reason="the CIFAR-100 folder does not lie beside the checkout")
@pytest.mark.parametrize(("factor", "total", "last"), [(100, 10847, 5), (50, 12608, 10), (10, 19573, 50)])
def test_cifar100_lt_from_a_folder(factor: int, total: int, last: int) -> None:
    data = load_data("cifar100-lt", dataset_path=str(CIFAR_FOLDER), imbalance_factor=factor)
    assert (len(data.train.labels), data.class_counts[0], data.class_counts[-1]) == (total, 500, last)
    assert data.train.labels == sorted(data.train.labels)
    assert len(data.test.labels) == 10000


def write_parquet(folder: Path, labels: list, features: Features, images: list | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    columns = list(features)
    rows = {columns[0]: images or [encoded(8 * i) for i in range(len(labels))], columns[1]: labels}
    for split in ("train", "test"):
        Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}-0.parquet")
    return folder


def test_full_cifar_columns_give_the_references_selection(tmp_path, monkeypatch) -> None:
    from paco_hf.data import published as benchmarks

    small = benchmarks.Benchmark("nobody/none", "img", "fine_label", n_max=10, num_classes=3)
    monkeypatch.setitem(benchmarks.BENCHMARKS, "cifar100-lt", small)
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(3), 10)).tolist()
    features = Features({"img": ImageFeature(), "fine_label": ClassLabel(names=["a", "b", "c"])})
    folder = write_parquet(tmp_path / "cifar", labels, features)
    data = load_data("cifar100-lt", dataset_path=str(folder), imbalance_factor=5)
    assert data.class_counts == [10, 4, 2]
    kept = long_tailed_indices(labels, [10, 4, 2])
    assert [np.asarray(image)[0, 0, 0] for image in Images(data.train)] == [8 * i for i in kept]


def test_any_parquet_folder(tmp_path) -> None:
    features = Features({"picture": ImageFeature(), "kind": ClassLabel(names=["cat", "dog"])})
    images = [encoded(9), encoded(100, "L"), {"bytes": encoded(0)["bytes"], "path": None}]
    data = load_data(str(write_parquet(tmp_path / "mine", [0, 1, 0], features, images)))
    assert (data.class_names, data.class_counts, data.train.image_column) == (["cat", "dog"], [2, 1], "picture")
    assert data.image_size is None
    assert [image.mode for image in Images(data.train)] == ["RGB"] * 3


def test_splits_of_parquet_may_differ_in_columns(tmp_path) -> None:
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])})
    folder = write_parquet(tmp_path / "mine", [0, 1, 0], features)
    train = Dataset.from_parquet(str(folder / "train-0.parquet")).add_column("rank", [0, 0, 1])
    train.to_parquet(folder / "train-0.parquet")
    assert load_data(str(folder)).class_counts == [2, 1]


def test_labels_of_splits_are_matched_by_name(tmp_path) -> None:
    folder = tmp_path / "mine"
    for split, names in (("train", ["cat", "dog", "owl"]), ("test", ["owl", "cat", "dog"])):
        features = Features({"image": ImageFeature(), "label": ClassLabel(names=names)})
        write_parquet(tmp_path / split, [0, 1, 2], features)
        folder.mkdir(exist_ok=True)
        (tmp_path / split / f"{split}-0.parquet").rename(folder / f"{split}-0.parquet")
    data = load_data(str(folder))
    assert data.class_names == ["cat", "dog", "owl"]
    assert data.test.labels == [2, 0, 1]
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog", "elk"])})
    write_parquet(tmp_path / "strange", [0, 1, 2], features)
    (tmp_path / "strange" / "test-0.parquet").rename(folder / "test-0.parquet")
    with pytest.raises(ValueError, match=r"'test' of .* has a class 'elk'"):
        load_data(str(folder))


def test_a_validation_split_of_its_own_is_kept_apart(tmp_path) -> None:
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])})
    folder = write_parquet(tmp_path / "mine", [0, 1, 0], features)
    assert load_data(str(folder)).validation is None
    (folder / "validation-0.parquet").write_bytes((folder / "test-0.parquet").read_bytes())
    data = load_data(str(folder))
    assert (data.validation.labels, data.test.labels) == ([0, 1, 0], [0, 1, 0])
    (folder / "test-0.parquet").unlink()
    data = load_data(str(folder))
    assert (data.validation, data.test.name) == (None, f"{folder} validation")


def test_image_folder(tmp_path) -> None:
    for split in ("train", "test"):
        for name, count in (("cat", 3), ("dog", 1)):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (40, 30), (i, 0, 0)).save(tmp_path / split / name / f"{i}.png")
    data = load_data(str(tmp_path))
    assert (data.class_names, data.class_counts, len(data.test.labels)) == (["cat", "dog"], [3, 1], 4)


def test_bad_data_is_named(tmp_path) -> None:
    features = Features({"image": ImageFeature(), "label": Value("int64")})
    good = write_parquet(tmp_path / "good", [0, 1, 2], features)
    with pytest.raises(ValueError, match=r"no column 'color' \(columns: image, label\): set --label_column"):
        load_data(str(good), label_column="color")
    with pytest.raises(ValueError, match=r"label -3 of row 1 of .* is out of range: labels must not be negative"):
        load_data(str(write_parquet(tmp_path / "negative", [0, -3, 1], features)))
    broken = write_parquet(
        tmp_path / "broken", [0, 1, 1], features, [encoded(), {"bytes": b"no image", "path": "b.png"}, encoded()]
    )
    with pytest.raises(ValueError, match=r"image 1 of .* \(b\.png\) cannot be decoded"):
        Images(load_data(str(broken)).train)
    carved = load_data(str(broken)).train.select([1, 2], role="validation", split_off=True).select([0])
    with pytest.raises(ValueError, match=r"image 1 of .*broken train, split off "):
        Images(carved)
    with pytest.raises(ValueError, match=r"column 'label' of .* must contain images"):
        load_data(str(good), image_column="label")
    with pytest.raises(OSError, match=r"'nobody/nothing' is not a local folder, and cannot be loaded from the Hub"):
        load_data("nobody/nothing")
    with pytest.raises(OSError, match="is not a folder"):
        load_data("cifar100-lt", dataset_path=str(tmp_path / "none"))
    with pytest.raises(ValueError, match="--dataset_path is for"):
        load_data("builtin2", dataset_path=str(good))


# ---- views


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    pixels = np.random.RandomState(0).randint(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    return [Image.fromarray(p) for p in pixels]


@pytest.mark.parametrize("name", sorted(VIEWS))
def test_views_are_a_function_of_seed_epoch_and_index(name: str, images) -> None:
    dataset = ViewsDataset(images, [0] * 6, [build_view(name, 32)] * 2, seed=7)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    item = dataset[EpochIndex(2, 5)]
    assert item["pixel_values"].shape == (3, 32, 32)
    assert item["pixel_values"].dtype == torch.uint8
    after = random.random(), np.random.rand(), torch.rand(1).item()
    batch = dataset.__getitems__([EpochIndex(i, 5) for i in (4, 2)])
    for key in ("pixel_values", "key_pixel_values"):
        assert torch.equal(batch[1][key], item[key])
    assert not torch.equal(item["pixel_values"], item["key_pixel_values"])
    epochs = [dataset[EpochIndex(2, epoch)]["pixel_values"] for epoch in range(6)]
    assert any(not torch.equal(epochs[0], other) for other in epochs[1:])
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert after == (random.random(), np.random.rand(), torch.rand(1).item())


def test_seeds_of_a_batch_of_whole_images() -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (6, 8, 10, 3)).astype(np.uint8)

    def batch(indices: list[int], epoch: int = 3, seed: int = 7, draws: str = "batch") -> dict:
        dataset = WholeImages(pixels, [0, 1, 2, 3, 4, 5], seed, draws)
        return dataset.__getitems__([EpochIndex(i, epoch) for i in indices])

    one = batch([4, 1])
    assert one["labels"].tolist() == [4, 1]
    assert one["pixel_values"].shape == (2, 3, 8, 10)
    assert np.array_equal(one["pixel_values"][1].permute(1, 2, 0).numpy(), pixels[1])
    assert ImageCollator(BitImageProcessor())(one) is one
    assert batch([4, 1])["view_seed"] == one["view_seed"]
    others = [batch([4, 1], epoch=4), batch([4, 1], seed=8), batch([1, 4]), batch([4, 2])]
    assert len({one["view_seed"], *(other["view_seed"] for other in others)}) == 5
    # A key for each image is the same in any batch.
    keys = batch([0, 1, 2, 3, 4, 5], draws="image")["view_seed"].tolist()
    assert batch([4, 1], draws="image")["view_seed"].tolist() == [keys[4], keys[1]]
    others = [batch([0, 1, 2, 3, 4, 5], **more, draws="image") for more in ({"epoch": 4}, {"seed": 8})]
    assert len({*keys, *(key for other in others for key in other["view_seed"].tolist())}) == 18
    with pytest.raises(ValueError, match="draws must be image or batch, got 'images'"):
        batch([0], draws="images")


def test_sampler_order_is_a_function_of_seed_and_epoch() -> None:
    sampler = EpochSampler(20, seed=3)
    first = [int(i) for i in sampler]
    assert sorted(first) == list(range(20))
    sampler.set_epoch(4)
    later = list(sampler)
    assert [int(i) for i in later] != first
    assert {i.epoch for i in later} == {4}
    again = EpochSampler(20, seed=3)
    again.set_epoch(4)
    assert list(again) == later
    copy = pickle.loads(pickle.dumps(later[0]))
    assert (copy, copy.epoch) == (later[0], 4)


def test_cutout_is_a_clipped_black_square_with_a_uniform_center() -> None:
    white = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    holes, rows = [], torch.zeros(32)
    for _ in range(2000):
        hole = Cutout(16)(white.clone()) == 0
        assert torch.equal(hole[0], hole[1])
        holes.append(int(hole[0].sum()))
        rows += hole[0].any(1)
    assert (min(holes), max(holes)) == (64, 256)
    # A row is cut where the center is within 8: 16 of 32 centers for an inner row, 8 or 9 at the borders.
    assert (rows[16] / 2000).item() == pytest.approx(0.5, abs=0.05)
    assert (rows[0] / 2000).item() == pytest.approx(9 / 32, abs=0.05)


def test_cifar_views_have_the_references_operations() -> None:
    names = {
        name: [type(op).__name__ for op in build_view(name, 32).transforms] for name in ("cifar_reg", "cifar_sim")
    }
    assert names["cifar_reg"] == [
        "FitSquare",
        "RandomCrop",
        "RandomHorizontalFlip",
        "AutoAugment",
        "PILToTensor",
        "Cutout",
    ]
    assert names["cifar_sim"] == [
        "RandomResizedCrop",
        "RandomHorizontalFlip",
        "RandomApply",
        "RandomGrayscale",
        "RandomApply",
        "PILToTensor",
    ]
    crop, _, jitter, gray, blur, _ = build_view("cifar_sim", 32).transforms
    assert (tuple(crop.scale), jitter.p, gray.p, blur.p) == ((0.2, 1.0), 0.8, 0.2, 0.5)
    assert build_view("cifar_reg", 32).transforms[1].padding == [4, 4, 4, 4]
    with pytest.raises(ValueError, match=r"unknown view 'cifar'.*cifar_reg"):
        build_view("cifar", 32)


def test_small_views_see_the_whole_of_a_large_image() -> None:
    ramp = np.linspace(0, 255, 300).astype(np.uint8)
    image = Image.fromarray(np.repeat(np.tile(ramp, (280, 1))[..., None], 3, axis=2))
    view = build_view("cifar_light", 32)
    seen = torch.stack([view(image) for _ in range(20)]).float()
    assert seen.max() > 200
    assert view(Image.new("RGB", (20, 20))).shape == (3, 32, 32)


def test_collator_normalizes_views_and_processes_images(images) -> None:
    mean, std = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
    processor = BitImageProcessor(size={"shortest_edge": 32}, crop_size=32, image_mean=mean, image_std=std)
    collator = ImageCollator(processor)
    plain = ViewsDataset(
        images, list(range(6)), [lambda image: torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)]
    )
    views = collator([plain[i] for i in range(6)])
    whole = collator([{"image": image, "labels": i} for i, image in enumerate(images)])
    assert views["labels"].tolist() == whole["labels"].tolist() == list(range(6))
    assert torch.allclose(views["pixel_values"], whole["pixel_values"], atol=1e-5)


@pytest.mark.parametrize("spec", [5, None, [], b"photos"])
def test_what_names_no_data_set_is_refused(spec: object) -> None:
    with pytest.raises(TypeError, match=r"^spec must be a DataSpec, or the name or path of a dataset, got "):
        load_data(spec)


def test_a_path_is_a_data_set(tmp_path: Path) -> None:
    assert load_data(folders(tmp_path / "photos", {"a": 3, "b": 3})).class_names == ["a", "b"]
