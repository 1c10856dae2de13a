"""Labels as tables have them: none is silently read as another class, or as one that is none."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from datasets import Value
from user_data import folders, parquet, png, table

from paco_hf.data.loading import load_data
from paco_hf.workflows.evaluation_data import load_evaluation

LARGE = 2**53


def load(root: Path, labels: list[Any], suffix: str = "csv") -> Any:
    file = table(root, labels, "all.csv", ("file", "label"))
    if suffix == "json":
        rows = [{"file": f"images/all{i}.png", "label": label} for i, label in enumerate(labels)]
        file = root / "all.json"
        file.write_text(json.dumps(rows))
    return load_data(str(file))


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_integers_beyond_floats_are_read_exactly(tmp_path, suffix: str) -> None:
    for labels in ([LARGE, LARGE + 1, LARGE + 2], [10**18, 10**18 + 1], [2**64, 2**64 + 1], [LARGE + 1, 0, LARGE]):
        assert load(tmp_path, labels, suffix).class_names == list(map(str, sorted(labels)))


def test_numbers_of_other_types(tmp_path) -> None:
    file = tmp_path / "0.parquet"
    assert load_data(str(parquet(file, [LARGE + 1, LARGE], Value("int64")))).class_names == [
        str(LARGE),
        str(LARGE + 1),
    ]
    for dtype, limit in (("float16", 2**11), ("float32", 2**24), ("float64", LARGE)):
        assert (
            load_data(str(parquet(tmp_path / f"{dtype}.parquet", [limit - 1, 0], Value(dtype)))).class_names[0] == "0"
        )
        with pytest.raises(
            ValueError,
            match=rf"contains {limit} as {dtype}, .* only for integers below {limit}: store the labels as",
        ):
            load_data(str(parquet(tmp_path / f"{dtype}-.parquet", [limit, 0], Value(dtype))))
    assert load(tmp_path, [f"{LARGE + 1}.0", f"{LARGE}.00"]).class_names == [str(LARGE), str(LARGE + 1)]
    mixed = load(tmp_path, [1, 1.0, 2, 2.0], "json")
    assert (mixed.class_names, mixed.class_counts) == (["1", "2"], [2, 2])


def test_large_numbers_that_are_no_integers(tmp_path) -> None:
    """None is merged with its neighbor, and those that are whole are read."""
    for labels in ([LARGE + 1.0, float(LARGE), 1], [1, 2.0**60]):
        with pytest.raises(ValueError, match=r"as float64, which is exact only for integers below"):
            load(tmp_path, labels, "json")
    assert load(tmp_path, [LARGE - 1.0, LARGE + 1, 0], "json").class_names == ["0", str(LARGE - 1), str(LARGE + 1)]
    numbers = [Decimal(LARGE + 1), Decimal(LARGE), Decimal(10**25)]
    file = parquet(tmp_path / "0.parquet", numbers, Value("decimal128(38, 0)"))
    assert load_data(str(file)).class_names == list(map(str, sorted(numbers)))
    with pytest.raises(ValueError, match=r"must contain text or integers, got decimal128\(4, 1\)"):
        load_data(str(parquet(tmp_path / "1.parquet", [Decimal("0.5"), Decimal("1.5")], Value("decimal128(4, 1)"))))


@pytest.mark.parametrize(
    ("labels", "twin"),
    [
        (["cat", "cat\u200b", "dog"], r"'cat' and 'cat\\u200b'"),
        (["cat", "\ufeffcat", "dog"], r"'cat' and '\\ufeffcat'"),
        (["red fox", "red\u00a0fox", "dog"], r"'red fox' and 'red\\xa0fox'"),
        (["red fox", "red  fox", "dog"], r"'red  fox' and 'red fox'"),
        (["cat", "c\u00adat"], r"'cat' and 'c\\xadat'"),
        (["\u2764", "\u2764\ufe0f"], r"'\\u2764' and '\\u2764\\ufe0f'"),
    ],
)
def test_classes_that_look_alike_are_refused(tmp_path, labels: list[str], twin: str) -> None:
    with pytest.raises(ValueError, match=twin + " of .* differ only in white space or invisible characters"):
        load(tmp_path / "table", labels)
    folders(tmp_path / "photos", dict.fromkeys(labels, 1))
    with pytest.raises(ValueError, match=twin):
        load_data(str(tmp_path / "photos"))


def test_invisible_characters_and_case_are_noted(tmp_path) -> None:
    data = load(tmp_path, ["cat\u200b", "dog", "red\u00a0fox"])
    assert data.class_names == ["cat\u200b", "dog", "red\u00a0fox"]
    assert (
        r"classes with invisible characters or unusual white space in their names: 'cat\u200b', 'red\xa0fox'"
        in data.notes[0]
    )
    assert load(tmp_path, ["\u0645\u06cc\u200c\u062e", "\u2764\ufe0f"]).notes == []  # a part of their spelling
    spaced = load(tmp_path, ["cat ", "cat", "\u00a0dog"])
    assert (spaced.class_names, spaced.class_counts) == (["cat", "dog"], [2, 1])
    assert "white space around labels in label column 'label'" in spaced.notes[0]
    for labels, names in (
        (["Cat", "cat"], "'Cat' and 'cat'"),
        (["a", "B", "b"], "'B' and 'b'"),
        (["É", "é"], "'É'"),
        (["1", "1.0", "x"], "'1' and '1.0'"),
        (["icebear", "ice bear"], "'ice bear' and 'icebear'"),
        (["01", "1", "2"], "'01' and '1'"),
    ):
        assert (
            f"only in case, spaces or number format are kept as separate classes: {names}"
            in load(tmp_path, labels).notes[0]
        )
    with pytest.raises(ValueError, match=r"1 of the 3 rows of .* have no label in 'label', the first is row 1"):
        load(tmp_path, ["cat", "\u200b", "dog"])


@pytest.mark.parametrize(
    ("labels", "cell", "separator"),
    [
        (["a", "b", "a,b"], "a,b", ","),
        (["a", "b", "a|b"], "a|b", "|"),
        (["cat", "dog", "bird", "Dog, cat, bird"], "Dog, cat, bird", ","),
        (["cat", "cat;dog", "bird"], "cat;dog", ";"),  # one class beside a bar or semicolon is enough
        (["cat", "dog", "elk", "cat / dog", "cat/elk"], "cat / dog", "/"),
        (["1", "2", "1,2"], "1,2", ","),
        (["a", "b", "c", "a,b/c"], "a,b/c", ","),
        (["A", "B", "C", "A+B", "B & C"], "A+B", "+"),
        (["猫", "犬", "猫、犬"], "猫、犬", "、"),
        (["cat", "dog", "cat\uff0cdog"], "cat\uff0cdog", "\uff0c"),
        (["cat", "cat\uff1bdog", "bird"], "cat\uff1bdog", "\uff1b"),
        (["cat", "dog", "elk", "cat\\dog", "cat\\dog\\elk"], "cat\\dog", "\\"),
        (["cat", "dog", "cat • dog"], "cat • dog", "•"),
        (["cat", "dog", "'cat', 'dog'"], "'cat', 'dog'", ","),
        (["5", "16 0", "0"], "16 0", " "),  # numbers have no spaces, as names have
        (["7 1 2", "1 2 7"], "7 1 2", " "),
        (["elk", "cat, dog", "dog, cat"], "cat, dog", ","),  # the same in another order
        (["elk", "cat|dog", "Cat | Dog"], "cat|dog", "|"),
    ],
)
def test_several_labels_in_a_cell_are_refused(tmp_path, labels: list[str], cell: str, separator: str) -> None:
    with pytest.raises(ValueError, match="several labels joined") as caught:
        load(tmp_path, labels)
    message = (
        f"row {labels.index(cell)} of column 'label' of {tmp_path / 'all.csv'} has the label {cell!r}, "
        "which looks like several labels joined"
    )
    assert message in str(caught.value)
    assert f"with {separator!r}" in str(caught.value)
    assert "--label_column" in str(caught.value)
    assert str(caught.value).endswith(f"rename it without {separator!r}")


def test_names_with_separators_are_classes(tmp_path) -> None:
    for labels in (
        ["Smith, John", "Smith, Jane", "Doe, John"],
        ["Rosa canina, L.", "Rosa", "Ilex"],
        ["A", "A+", "N/A", "N"],
        ["C", "C++", "salt & pepper", "salt"],
        ["ice", "ice cream", "cream"],
        ["2020 Corvette", "2020", "Corvette"],
        ["D: drive", "drive"],
        ["dog: cat", "cat", "dog"],
        ["16:9", "9:16", "16", "9"],
        ["1/2", "2/1", "3/2", "1", "2", "3"],
        ["3•4", "3", "4"],
        ["black & white", "black", "white"],
        ["black&white", "black", "white"],
        ["cat/dog", "cat", "dog"],
    ):
        data = load(tmp_path, labels)
        assert (data.class_names, data.notes) == (sorted(labels), [])
    data = load(tmp_path, ["Animalia;Aves", "Animalia;Mammalia"])
    assert data.notes == ["each label with ';', such as 'Animalia;Aves', is used as one class"]


@pytest.mark.parametrize(
    ("labels", "note"),
    [
        (
            ["cat", "dog", "elk", "cat dog", "dog elk"],
            "2 labels of {}, such as 'cat dog', are combinations of other labels",
        ),
        (["cat", "dog", "cat/dog", "dog/cat"], "2 labels of {}, such as 'cat/dog', are combinations of other labels"),
        (["cat", "dog", "elk", "cat/dog", "dog/elk", "R&B"], "2 labels of {}, such as 'cat/dog', are combinations of"),
        (["100", "010", "001"], "the labels of {}, such as '001', look like one-hot rows: each is used"),
    ],
)
def test_what_may_be_several_labels_is_noted(tmp_path, labels: list[str], note: str) -> None:
    data = load(tmp_path, labels)
    assert data.class_names == sorted(labels)
    [said] = data.notes
    assert note.format(f"column 'label' of {tmp_path / 'all.csv'}") in said
    for others in (["cat", "dog", "cat dog"], ["100", "010", "110"], ["1000", "0100", "0010"], ["10", "01"]):
        assert load(tmp_path, others).notes == []


def test_columns_of_unequal_length_are_refused(tmp_path) -> None:
    file = tmp_path / "all.json"
    file.write_text(json.dumps({"file": ["0.png"] * 36, "label": ["cat"] * 31, "id": [0] * 31}))
    with pytest.raises(
        ValueError, match=r"all\.json differ in their number of rows: 'file' has 36, 'label' has 31: make them equal"
    ):
        load_data(str(file))


def test_flags_are_told_apart(tmp_path) -> None:
    england, scotland = ("\U0001f3f4" + "".join(chr(0xE0000 + ord(c)) for c in f"gb{r}\x7f") for r in ("eng", "sct"))
    data = load(tmp_path, ["\U0001f3f4", england, scotland])
    assert (len(data.class_names), data.notes) == (3, [])
    with pytest.raises(ValueError, match="differ only in white space or invisible characters"):
        load(tmp_path, ["cat", "cat\U000e0041"])  # tags without a flag


@pytest.mark.parametrize("text", ["['cat', 'dog']", "('cat',)", "{'cat': 1}", "[0 1]", "[1, 0]"])
def test_lists_as_text_are_refused(tmp_path, text: str) -> None:
    with pytest.raises(ValueError, match=r"row 1 of label column 'label' of .* contains a list, .*use one label"):
        load(tmp_path, ["cat", text, "dog"])
    with pytest.raises(ValueError, match=r"row 1 .* contains a list, '\[dog, cat\]'"):
        load(tmp_path, ["cat", "[dog, cat]"])
    assert load(tmp_path, ["[unknown]", "(cat)", "dog"]).class_names == ["(cat)", "[unknown]", "dog"]


def test_columns_of_lists_are_refused(tmp_path) -> None:
    for labels in ([["cat"], ["dog", "cat"]], [[0, 1], [1, 0]], [{"cat": 1}, {"cat": 0}]):
        with pytest.raises(ValueError, match=r"must contain one class per image, got .*: use one label"):
            load(tmp_path, labels, "json")
    with pytest.raises(ValueError, match="contains a list"):
        load(tmp_path, [["cat"], "dog", "dog"], "json")


@pytest.mark.parametrize(
    ("header", "rows", "kind"),
    [
        ("file,cat,dog,class", ["1.0,0.0,0.0", "0.0,1.0,0.0", "0.0,0.0,1.0"], "one-hot"),
        ("file,cat,dog", ["1,1", "0,0", "0,1"], "multi-label"),
    ],
)
def test_columns_of_indicators_are_refused(tmp_path, header: str, rows: list[str], kind: str) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    file = tmp_path / "all.csv"
    file.write_text("\n".join([header, *(f"{i}.png,{row}" for i, row in enumerate(rows))]))
    with pytest.raises(ValueError, match=rf"the columns 'cat', 'dog'.* of .* contain 0 and 1, .*\({kind}\), .*idxmax"):
        load_data(str(file))
    assert len(load_data(str(file), label_column="cat").class_names) == 2


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("file,cat,dog", ["1,0", "1,0", "0,1"]),
        ("file,cat,dog,id", ["True,False,a", "False,True,b", "True,False,c"]),
        ("file,bird,cat,dog", ["0.0,1.0,0.0", "0.0,1.0,0.0", "0.0,0.0,1.0"]),
    ],
)
def test_one_hot_columns_are_read(tmp_path, header: str, rows: list[str]) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    file = tmp_path / "all.csv"
    file.write_text("\n".join([header, *(f"{i}.png,{row}" for i, row in enumerate(rows))]))
    data = load_data(str(file))
    expected = ["cat", "dog", "cat"] if "id" in header else ["cat", "cat", "dog"]
    assert [data.class_names[label] for label in data.train.labels] == expected
    assert any("one-hot columns" in note for note in data.notes)


def test_rows_that_are_not_one_hot_are_named(tmp_path) -> None:
    for split, rows in (("train", ["1,0", "1,0", "0,1"]), ("test", ["1,0", "1,1", "0,1"])):
        for i in range(3):
            (tmp_path / f"{split}{i}.png").write_bytes(png(i + 10 * len(split)))
        lines = ["file,cat,dog", *(f"{split}{i}.png,{row}" for i, row in enumerate(rows))]
        (tmp_path / f"{split}.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=r"row 1 of .* test does not have exactly one 1 in the columns 'cat', 'dog'"):
        load_data(str(tmp_path))


def test_a_label_column_beside_indicators_is_read(tmp_path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    for lines, names in (
        (["file,label,cat,dog", "0.png,cat,1,0", "1.png,dog,0,1", "2.png,cat,1,0"], ["cat", "dog"]),
        (["file,label,target", "0.png,0,0", "1.png,1,1", "2.png,0,0"], ["0", "1"]),
        (["file,label,turned", "0.png,0,1", "1.png,1,0", "2.png,0,1"], ["0", "1"]),
    ):
        (tmp_path / "all.csv").write_text("\n".join(lines))
        assert load_data(str(tmp_path / "all.csv")).class_names == names


# ---- other data of the same or other classes


def known(root: Path, *names: str) -> Path:
    root.mkdir(exist_ok=True)
    (root / "config.json").write_text(json.dumps({"id2label": dict(enumerate(names))}))
    return root


def test_numbers_are_positions_and_the_note_says_so(tmp_path) -> None:
    run = known(tmp_path / "run", "cat", "dog", "elk")
    for labels, note in (
        ([0, 1, 2], "0 as 'cat', 1 as 'dog', 2 as 'elk'"),
        ([2, 0, 2], "0 as 'cat', 2 as 'elk'"),
        ([1, 0], "0 as 'cat', 1 as 'dog'"),
    ):
        split = load_evaluation(run, str(table(tmp_path / "new", labels)))
        assert (split.labels, split.class_names) == (labels, ["cat", "dog", "elk"])
        assert f"are matched to those of {run}: {note}" in split.note
    for labels in ([1, 2, 3], [1, 2], [0, 3], [0, "cat"]):
        with pytest.raises(ValueError, match=r"has a class .* that is not a class of"):
            load_evaluation(run, str(table(tmp_path / "new", labels)))


def test_a_model_without_names(tmp_path) -> None:
    run = known(tmp_path / "run", "LABEL_0", "LABEL_1", "LABEL_2")
    for labels, expected, note in (
        ([1, 2], [1, 2], "1 as 'LABEL_1', 2 as 'LABEL_2'"),
        ([1, 2, 3], [0, 1, 2], "1 as 'LABEL_0', 2 as 'LABEL_1'"),
        (["b", "a", "c"], [1, 0, 2], "a as 'LABEL_0'"),
        (["LABEL_2", "LABEL_1"], [2, 1], "1 of the 3 classes of "),
    ):
        split = load_evaluation(run, str(table(tmp_path / "new", labels)))
        assert split.labels == expected
        assert note in split.note
    for labels in (["a", "b"], [3, 1], ["a", "LABEL_0"]):
        with pytest.raises(ValueError, match=r"that is not a class of"):
            load_evaluation(run, str(table(tmp_path / "new", labels)))


def test_subsets_supersets_and_variants_of_the_models_classes(tmp_path) -> None:
    run = known(tmp_path / "run", "dog", "cat", "elk")
    split = load_evaluation(run, str(table(tmp_path / "new", ["cat", "elk", "cat"])))
    assert (split.labels, split.class_names) == ([1, 2, 1], ["dog", "cat", "elk"])
    assert f"1 of the 3 classes of {run} have no images in" in split.note
    assert "such as 'dog': the scores do not cover them" in split.note
    for labels, hint in (
        (["dog", "Cat", "elk"], "; 'cat' differs from it only in case, white space or invisible characters"),
        (["dog", "cat\u200b"], "; 'cat' differs from it"),
        (["dog", "cat", "elk", "fox"], "pass data with the classes it was trained on$"),
    ):
        with pytest.raises(ValueError, match=hint):
            load_evaluation(run, str(table(tmp_path / "new", labels)))


def test_splits_whose_classes_differ(tmp_path) -> None:
    table(tmp_path, ["cat", "dog", "elk"], "train.csv")
    table(tmp_path, ["elk", "cat"], "test.csv")
    data = load_data(str(tmp_path))
    assert data.test.labels == [2, 0]
    assert data.notes[1:] == [
        "1 of the 3 classes have no images in the split 'test', such as 'dog': its scores do not cover them"
    ]
    for label in ("Cat", "cat\u00ad", "CAT"):
        table(tmp_path, [label], "test.csv")
        with pytest.raises(
            ValueError, match=r"is not in its train split \(1 images\); 'cat' differs from it only in case"
        ):
            load_data(str(tmp_path))
