"""ONNX files in float32, float16 and int8: what they hold, what is said of them, and `predict --onnx`."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from miniature import picture
from user_data import complaint

from paco_hf.cli import main
from paco_hf.conversion.onnx_forms import FORM_FILES, write_int8
from paco_hf.data.images import Images
from paco_hf.inference.load_model import load_classifier, load_processor
from paco_hf.inference.onnx_model import load_onnx
from paco_hf.workflows.evaluation_data import load_evaluation
from paco_hf.workflows.onnx_forms import calibration_rows

EXPORT = ["--to", "onnx", "--forms"]


@pytest.fixture(scope="module")
def exported(paco_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms") / "out"
    assert main(["export", str(paco_run), str(folder), *EXPORT, "fp32", "fp16", "int8"]) == 0
    return folder


@pytest.fixture(scope="module")
def logits(paco_run: Path, exported: Path) -> dict[str, np.ndarray]:
    """Of each file, by onnxruntime alone, on the test images."""
    import onnxruntime

    images = Images(load_evaluation(paco_run))
    processor = load_processor(paco_run)
    pixels = processor([images[i] for i in range(len(images))], return_tensors="np")["pixel_values"]
    result = {}
    for form, name in FORM_FILES.items():
        session = onnxruntime.InferenceSession(exported / "onnx" / name, providers=["CPUExecutionProvider"])
        parts = [session.run(["logits"], {"pixel_values": batch})[0] for batch in np.split(pixels, 20)]
        result[form] = np.concatenate(parts)
    return result


@pytest.mark.slow
def test_files_are_what_they_are_called(exported: Path) -> None:
    import onnx

    assert {str(file.relative_to(exported)) for file in exported.rglob("*") if file.is_file()} == {
        *(f"onnx/{name}" for name in FORM_FILES.values()),
        *("onnx/forms.json", "config.json", "preprocessor_config.json"),
    }
    loaded = {form: onnx.load(exported / "onnx" / name) for form, name in FORM_FILES.items()}
    described = [{entry.key: entry.value for entry in model.metadata_props} for model in loaded.values()]
    assert described[0] == described[1] == described[2]
    assert json.loads(described[0]["id2label"]) == json.loads((exported / "config.json").read_text())["id2label"]
    share: dict[str, float] = {}
    kind = {"fp32": onnx.TensorProto.FLOAT, "fp16": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}
    for form, model in loaded.items():
        sizes = [(tensor.data_type, int(np.prod(tensor.dims))) for tensor in model.graph.initializer]
        share[form] = sum(n for data_type, n in sizes if data_type == kind[form]) / sum(n for _, n in sizes)
        assert [value.type.tensor_type.elem_type for value in model.graph.input] == [onnx.TensorProto.FLOAT]
    assert min(share.values()) > 0.95
    weights = {form: (exported / "onnx" / name).stat().st_size for form, name in FORM_FILES.items()}
    assert weights["fp16"] < 0.6 * weights["fp32"]
    assert weights["int8"] < 0.5 * weights["fp32"]


@pytest.mark.slow
def test_what_is_said_of_them_is_so(paco_run: Path, exported: Path, logits: dict[str, np.ndarray]) -> None:
    record = json.loads((exported / "onnx" / "forms.json").read_text())
    images, config = load_evaluation(paco_run), load_classifier(paco_run).config
    labels, counts = np.asarray(images.labels), np.asarray(config.group_counts)
    groups = {"many": counts > 100, "medium": (counts >= 20) & (counts <= 100), "few": counts < 20}
    assert (record["images"], record["selection"]) == (len(labels), images.selection)
    assert record["int8"] == {
        "kind": "static",
        "calibration": {"images": 256, "split": load_evaluation(paco_run, split="train").public_name},
    }
    best = {form: values.argmax(1) for form, values in logits.items()}
    for form, about in record["forms"].items():
        right = best[form] == labels
        by_class = np.array([right[labels == c].mean() for c in range(len(counts))])
        assert about["scores"]["accuracy"] == pytest.approx(right.mean(), abs=2e-3)  # ties of another order of sums
        assert about["scores"]["balanced_accuracy"] == pytest.approx(by_class.mean(), abs=2e-3)
        for name, members in groups.items():
            assert about["scores"][name] == pytest.approx(by_class[members].mean(), abs=1e-2)
        assert about["bytes"] == (exported / about["file"]).stat().st_size
        assert about["images_per_second"] > 0
        if form != "fp32":
            changed = about["changed"]
            assert len(changed["rows"]) == changed["images"]
            assert abs(changed["images"] - (best[form] != best["fp32"]).sum()) <= 4
            for row in changed["rows"]:
                assert row["fp32"] != row["form"]
                assert row["label"] == images.class_names[labels[images.source_rows.index(row["row"])]]
            worse = [one for one in changed["rows"] if one["fp32"] == one["label"]]
            assert changed["right_to_wrong"]["all"] == len(worse)
            assert sum(changed["right_to_wrong"][name] for name in groups) == len(worse)
    scores = json.loads((paco_run / "metrics.json").read_text())["test"]
    assert record["forms"]["fp32"]["scores"]["accuracy"] == pytest.approx(scores["accuracy"], abs=2e-3)
    assert record["forms"]["int8"]["changed"]["images"] > record["forms"]["fp16"]["changed"]["images"]


@pytest.mark.slow
def test_predict_by_a_file(paco_run: Path, exported: Path, tmp_path: Path, capsys) -> None:
    for i in range(3):
        picture(i, (40, 32)).save(tmp_path / f"{i}.png")
    (tmp_path / "bad.png").write_bytes(b"nothing")
    capsys.readouterr()
    answers = []
    for source in ([str(paco_run)], *(["--onnx", str(exported / "onnx" / name)] for name in FORM_FILES.values())):
        assert main(["predict", *source, str(tmp_path), "--json", "--top", "20"]) == 1  # one cannot be decoded
        answers.append(json.loads(capsys.readouterr().out))
    run, full, _, small = answers
    assert [entry["file"] for entry in run] == [entry["file"] for entry in full]
    assert [entry["label"] for entry in run] == [entry["label"] for entry in full]
    scores = [[{one["label"]: one["score"] for one in entry["top"]} for entry in answer] for answer in answers]
    for expected, exact, halved, quantized in zip(*scores, strict=True):
        assert exact == pytest.approx(expected, abs=1e-5)
        assert halved == pytest.approx(expected, abs=1e-2)
        assert quantized == pytest.approx(expected, abs=0.2)
        assert not expected or exact != halved != quantized
    assert [entry.get("error") for entry in run] == [entry.get("error") for entry in small]
    assert "bad.png cannot be decoded" in small[-1]["error"]
    file = str(exported / "onnx" / "model.onnx")
    picture_file = str(tmp_path / "0.png")
    assert "export the run with --prior_input" in complaint(
        capsys, "predict", "--onnx", file, picture_file, "--prior", "training"
    )
    assert "an ONNX file has a fixed precision" in complaint(
        capsys, "predict", f"--onnx={file}", picture_file, "--precision", "bf16"
    )


@pytest.mark.slow
def test_int8_of_products_alone(paco_run: Path, exported: Path, tmp_path: Path, capsys) -> None:
    argv = [
        "export",
        str(paco_run),
        str(tmp_path / "out"),
        *EXPORT,
        "int8",
        "--int8",
        "dynamic",
        "--split",
        "validation",
    ]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "int8: dynamic\n" in out
    assert "builtin train, split off" in out
    record = json.loads((tmp_path / "out" / "onnx" / "forms.json").read_text())
    assert record["forms"]["fp32"]["file"] is None
    assert [file.name for file in (tmp_path / "out" / "onnx").glob("*.onnx")] == ["model_quantized.onnx"]
    # The convolutions stay as they are.
    assert record["forms"]["int8"]["bytes"] > 0.9 * record["forms"]["fp32"]["bytes"]
    with pytest.raises(ValueError, match="onnxruntime cannot create the int8 form of this model"):
        write_int8(exported / "onnx" / "model.onnx", tmp_path / "x.onnx", "static", [np.zeros((1, 1), np.float32)])
    assert not list(tmp_path.glob("x*"))


def test_calibration_images_are_of_all_classes_alike() -> None:
    labels = np.random.RandomState(1).permutation(np.repeat(range(40), [300, *[60] * 9, *[5] * 30]))
    rows = calibration_rows(labels.tolist())
    assert len(set(rows)) == len(rows) == 256
    counts = np.bincount(labels[rows], minlength=40)
    assert set(counts[10:]) == {5}
    assert counts[:10].max() - counts[:10].min() <= 1
    assert rows != sorted(rows)
    assert len(calibration_rows(list(range(400)))) == 400
    assert len(calibration_rows(list(range(2000)))) == 1024
    assert sorted(calibration_rows([0, 1, 1])) == [0, 1, 2]


def test_refusals(paco_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    import onnx

    out, image = str(tmp_path / "out"), tmp_path / "a.png"
    picture(1, (40, 32)).save(image)
    bare = tmp_path / "bare"
    load_classifier(paco_run).save_pretrained(bare)
    load_processor(paco_run).save_pretrained(bare)
    for run, flags, message in (
        (paco_run, ["--to", "onnx", "--forms", "int4"], "invalid choice: 'int4'"),
        (paco_run, ["--to", "timm", "--forms", "fp32"], "--forms is for --to onnx"),
        (paco_run, ["--to", "onnx", "--int8", "static"], "are for --forms int8: add it"),
        (paco_run, [*EXPORT, "fp16", "--int8", "static"], "remove them, or add int8"),
        (paco_run, [*EXPORT, "int8", "--int8", "dynamic", "--calibration_split", "train"], "remove one of them"),
        (paco_run, [*EXPORT, "fp16", "--prior_input"], "remove --prior_input or --forms"),
        (bare, [*EXPORT, "fp16"], "are evaluated on images: "),
        (bare, [*EXPORT, "int8"], "no recipe.yaml that names its data: set --dataset"),
    ):
        assert message in complaint(capsys, "export", str(run), out, *flags), flags
    assert not Path(out).exists()
    damaged, foreign = tmp_path / "damaged.onnx", tmp_path / "foreign.onnx"
    damaged.write_bytes(b"nothing")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [result])
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), foreign)
    for file, message in (
        (damaged, "damaged.onnx cannot be run by onnxruntime"),
        (foreign, "foreign.onnx has no metadata about its classes"),
        (tmp_path / "none.onnx", "none.onnx does not exist: pass a file from `paco-hf export"),
        (tmp_path, "is a folder: pass a file from `paco-hf export --to onnx`"),
    ):
        assert message in complaint(capsys, "predict", "--onnx", str(file), str(image)), file
    assert "the following arguments are required: images" in complaint(capsys, "predict", "--onnx", str(foreign))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(ImportError, match=re.escape("pip install 'paco-hf[onnx]'")):
            load_onnx(foreign)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "pip install 'paco-hf[onnx]'" in complaint(capsys, "export", str(paco_run), out, *EXPORT, "fp16")
