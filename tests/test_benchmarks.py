"""The benchmarks run, compare like with like, and say what is wrong with what they are given."""

import ctypes
import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from user_data import folders

from benchmarks import bench, finetuning, growth, growth_commands
from benchmarks.machine import ceilings, peak_memory
from paco_hf.utils.memory import keep_freed_memory

SHORT = ["--quick", "--repeats", "1"]


@pytest.fixture
def small_ceilings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ceilings", lambda: ceilings(64, 1))


@pytest.mark.usefixtures("small_ceilings")
@pytest.mark.slow
def test_rows_are_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "result.json"
    assert bench.main([*SHORT, "--rows", "ema", "loss_c1000", "views", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    # In the order of the table, whatever the order asked for.
    assert [row["name"] for row in result["rows"]] == ["loss_c1000", "ema", "views", "loss_c1000_training"]
    for row in result["rows"]:
        assert set(row["sides"]) == {"ours", "plain"}
        assert all(0 < side["min_s"] <= side["median_s"] for side in row["sides"].values())
        assert row["ratio"]["ours"] == row["sides"]["plain"]["median_s"] / row["sides"]["ours"]["median_s"]
        if row["name"].startswith("loss"):
            assert row["disagrees_with_plain"] == []
    loss = result["rows"][0]
    # The plain side holds several (n, C + N) matrices of float32, ours none.
    assert loss["sides"]["plain"]["peak_bytes"] > 5 * 4 * 128 * (1000 + 256 + 8192)
    assert loss["sides"]["ours"]["peak_bytes"] < 0.25 * loss["sides"]["plain"]["peak_bytes"]
    assert result["ceilings"]["gemm_fp32_gflops"] > 0
    assert "loss_c1000" in capsys.readouterr().out


@pytest.mark.usefixtures("small_ceilings")
def test_another_implementation_can_take_part(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    other = tmp_path / "other.py"
    other.write_text(
        "from benchmarks import plain\n\n\ndef paco_loss(*args):\n    return 1.01 * plain.paco_loss(*args)\n"
    )
    output = str(tmp_path / "result.json")
    assert bench.main([*SHORT, "--rows", "loss_c1000", "--against", str(other), "--output", output]) == 0
    rows = json.loads(Path(output).read_text())["rows"]
    assert all(set(row["ratio"]) == {"ours", "against"} for row in rows)
    assert all(row["disagrees_with_plain"] == ["against"] for row in rows)
    assert "against gives another result than plain" in capsys.readouterr().out
    assert bench.main(["--rows", "ema", "--against", str(other)]) == 2
    assert "the row ema needs its function make_key_update" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "speed"], "--rows speed: no such row; there are loss_c1000"),
        (["--against", "nowhere.py"], "--against nowhere.py: neither a Python file nor a folder"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--output", "nowhere/result.json"], "no such folder"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert bench.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_peak_memory_is_that_of_a_known_sequence() -> None:
    def allocate() -> None:
        first = torch.empty(1_000_000, dtype=torch.uint8)
        second = torch.empty(2_000_000, dtype=torch.uint8)
        del first
        third = torch.empty(500_000, dtype=torch.uint8)
        del second, third

    assert peak_memory(allocate) == 3_000_000


def test_growth(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "growth.json"
    assert growth.main(["--quick", "--axes", "queue", "--output", str(output)]) == 0
    points = json.loads(output.read_text())["curves"]["queue"]
    assert [point["queue"] for point in points] == [256, 1024, 4096]
    assert output.with_suffix(".png").stat().st_size > 10_000
    assert "queue length K" in capsys.readouterr().out


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="needs glibc",
)
def test_allocator_setting_takes_effect() -> None:
    assert keep_freed_memory()


@pytest.mark.slow
def test_steps_are_profiled_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "result.json"
    argv = ["--dataset", str(folders(tmp_path / "photos", {"a": 24, "b": 24})), "--threads", "1", "--batch_size", "8"]
    argv += ["--output", str(output)]
    only = ["--backbones", "mobilenetv2_050", "--sizes", "32", "--precisions", "fp32"]
    finetuning.main(["profile", *argv, *only])
    [row] = json.loads(output.read_text())["rows"]
    assert sum(row["shares"].values()) == pytest.approx(1)
    expected = {"convolution", "BatchNorm", "activation", "optimizer", "key encoder", "views"}
    assert {name for name, share in row["shares"].items() if share > 0} >= expected
    assert row["shares"]["attention"] == 0
    assert "| mobilenetv2_050 | 32 | fp32 |" in capsys.readouterr().out
    turns = ["--before", str(finetuning.ROOT), "--backbone", "mobilenetv2_050", "--size", "32", "--turns", "2"]
    finetuning.main(["pairs", *argv, *turns])
    result = json.loads(output.read_text())
    assert [len(times) for times in result["times"].values()] == [2, 2]
    assert result["wall"]["ratio"] == result["wall"]["before_s"] / result["wall"]["after_s"]
    assert str(tmp_path) not in json.dumps(result)


def test_pairs_need_another_checkout(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        finetuning.parse(["pairs", "--dataset", "photos"])
    assert "pairs needs --before CHECKOUT" in capsys.readouterr().err


def test_commands_grow_with_the_images(tmp_path: Path) -> None:
    counts = growth_commands.long_tail(27_344, 509)
    assert (counts.sum(), counts.min()) == (27_344, 2)
    assert counts[0] > 100 * counts[-1]
    growth_commands.make_images(tmp_path / "images", 60, 6, 6)
    names = [file.name for file in (tmp_path / "images" / "train").rglob("*.jpg")]
    assert len(names) == len({file.read_bytes() for file in (tmp_path / "images").rglob("*.jpg")}) - 6 == 60
    assert (
        growth_commands.measure(["--version"], tmp_path, ROOT)["peak_bytes"] < 200 * 2**20
    )  # not that of this process
    with pytest.raises(RuntimeError, match=r"paco-hf evaluate nowhere ended with 2: .*nowhere"):
        growth_commands.measure(["evaluate", "nowhere"], tmp_path, ROOT)
    record = json.loads(growth_commands.RECORD.read_text(encoding="utf-8"))
    assert growth_commands.table(record) in growth_commands.PAGE.read_text(encoding="utf-8")
