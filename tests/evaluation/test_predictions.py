"""Per-image results: what they are computed as, and the file that keeps them."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from paco_hf.evaluation.predictions import KEPT, Predictions

LABELS = np.array([0, 3, 3, 11, 5])


def make(temperature: float | None = None) -> tuple[Predictions, np.ndarray]:
    logits = np.random.default_rng(0).normal(size=(5, 12)).astype(np.float32) * 4
    logits[2] = 0  # all alike: the first class
    about = {"split": ["test"] * 5, "file": [f"test/ä b/{i}.jpg" for i in range(5)], "row": np.arange(5)[::-1]}
    names = ["same", "same", *map(str, range(10))]
    return Predictions.from_logits(logits, LABELS, temperature, class_names=names, **about), logits


@pytest.mark.parametrize("temperature", [None, 2.5])
def test_numbers_of_each_image(temperature: float | None) -> None:
    predictions, logits = make(temperature)
    for row, (scores, label) in enumerate(zip(logits.astype(float) / (temperature or 1), LABELS, strict=True)):
        p = np.exp(scores) / np.exp(scores).sum()
        others = np.delete(p, label)
        assert predictions.prediction[row] == scores.argmax()
        np.testing.assert_allclose(predictions.probability[row], p.max(), rtol=1e-5)
        np.testing.assert_allclose(predictions.label_probability[row], p[label], rtol=1e-5)
        np.testing.assert_allclose(predictions.margin[row], p[label] - others.max(), rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(predictions.top_probabilities[row], np.sort(p)[::-1][:KEPT], rtol=1e-5)
        np.testing.assert_allclose(p[predictions.top_classes[row]], predictions.top_probabilities[row], rtol=1e-5)
        assert (predictions.margin[row] > 0) == (p[label] > others.max())


def test_the_file_has_it_all_and_reads_with_other_tools(tmp_path: Path) -> None:
    predictions, _ = make()
    predictions.class_counts, predictions.cross_validated = [9] * 12, True
    predictions.write(tmp_path / "a" / "predictions.parquet")
    again = Predictions.read(tmp_path / "a" / "predictions.parquet")
    for name in vars(predictions):
        np.testing.assert_array_equal(getattr(again, name), getattr(predictions, name))
    frame = pq.read_table(tmp_path / "a" / "predictions.parquet").to_pylist()
    assert frame[1]["label"] == "1"
    assert frame[1]["label_id"] == 3
    assert frame[0] | {"label": "same", "split": "test", "file": "test/ä b/0.jpg", "row": 4} == frame[0]
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["predictions.parquet"]


@pytest.mark.parametrize("content", [b"", b"PAR1 nothing of the kind", b"other table"])
def test_another_file_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "predictions.parquet"
    file.write_bytes(content)
    if content == b"other table":
        import pyarrow as pa

        pq.write_table(pa.table({"a": [1]}), file)
    with pytest.raises(ValueError, match=r"predictions.parquet is damaged or has a different format"):
        Predictions.read(file)
