"""`splits.json`: large splits in little space, and files of before read as they were."""

import json
from pathlib import Path

import pytest
from user_data import folders

from paco_hf.data import manifest_file
from paco_hf.data.loading import load_data
from paco_hf.data.manifest_file import count_known, parse_ranges, ranges_text, read_manifest, write_manifest
from paco_hf.data.split_manifest import public_manifest, select_again
from paco_hf.data.splitting import divide
from paco_hf.runs.folder import RunFolder
from paco_hf.utils.files import write_json


@pytest.fixture
def division(tmp_path: Path):
    data = load_data(str(folders(tmp_path / "images", {"cat": 30, "dög": 12, "x y": 5})))
    return divide(data, 0, 0.2, 0.2)


def test_a_large_split_is_written_compactly_and_selects_the_same_images(
    division, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, file = division.manifest, tmp_path / "splits.json"
    (tmp_path / "before").mkdir()
    write_json(tmp_path / "before" / "splits.json", manifest)  # as it was written once
    assert RunFolder(tmp_path / "before").manifest == manifest
    write_manifest(file, manifest)
    assert json.loads(file.read_text(encoding="utf-8")) == manifest  # small ones have their lists
    assert len(file.read_text(encoding="utf-8").splitlines()) < 50
    monkeypatch.setattr(manifest_file, "LARGE", 3)
    write_manifest(file, manifest)
    written = json.loads(file.read_text(encoding="utf-8"))["splits"]
    assert {type(written[role]["rows"]) for role in written} == {str}
    assert [one["folder"] for one in written["test"]["files"]] == ["cat", "dög", "x y"]
    assert "files" not in written["train"]
    read = RunFolder(tmp_path).manifest
    assert read["splits"]["test"] == manifest["splits"]["test"]
    assert read["splits"]["validation"] == manifest["splits"]["validation"]
    assert read["splits"]["train"]["rows"] == manifest["splits"]["train"]["rows"]
    for role, expected in (("test", division.data.test), ("validation", division.validation)):
        again = select_again(load_data(division.data.train.dataset).train, read, role)
        assert (again.rows, again.labels) == (expected.rows, expected.labels)
    # Names are known still; what travels has none of them, in either form.
    names = [name for role in ("train", "test") for name in manifest["splits"][role]["files"]]
    assert count_known(read, names) == count_known(manifest, names) == len(names)
    assert count_known(read, ["other/1.png", "cat/none.png"]) == 0
    write_manifest(file, public_manifest(read))
    public = file.read_text(encoding="utf-8")
    assert ".png" not in public
    assert "file_digests" not in public
    assert read_manifest(file)["splits"]["train"]["rows"] == manifest["splits"]["train"]["rows"]


def test_rows_as_ranges() -> None:
    for rows, text in (([], ""), ([4], "4"), ([0, 1, 2, 5, 7, 8], "0-2 5 7-8"), ([9, 3, 4], "9 3-4")):
        assert ranges_text(rows) == text
        assert parse_ranges(text) == rows


@pytest.mark.parametrize(
    "part", [{"rows": "1-x"}, {"rows": "1", "files": [{"folder": "a"}]}, {"file_digests": "%%%"}, [3]]
)
def test_a_damaged_file_is_named(part, tmp_path: Path) -> None:
    write_json(tmp_path / "splits.json", {"splits": {"train": part}})
    with pytest.raises(ValueError, match=r"splits\.json is damaged \(.*: restore it"):
        read_manifest(tmp_path / "splits.json")
