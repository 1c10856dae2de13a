"""`benchmarks.unknown`: classes are left out, scores compared, and the tables are those of the records."""

import json
from pathlib import Path

import pytest
import timm
from timm.models import save_for_hf
from user_data import folders

from benchmarks.unknown import BEGIN, END, SCORES, draw, main

GROUPS = ("overall", "many", "medium", "few")


def test_draws_differ_and_are_repeatable() -> None:
    classes = [f"class {i}" for i in range(40)]
    draws = [draw(classes, 10, seed) for seed in range(3)]
    assert all(len(set(one)) == 10 and set(one) < set(classes) for one in draws)
    assert draws[0] != draws[1] != draws[2]
    assert draw(classes, 10, 1) == draws[1]


def test_tables_are_means_and_deviations_of_the_records(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "records" / "made-up"
    folder.mkdir(parents=True)
    for seed, value in enumerate((0.8, 0.9, 1.0)):
        scores = {name: {kind: dict.fromkeys(GROUPS, value) for kind in ("auroc", "fpr")} for name in SCORES}
        for kind in scores["energy"].values():
            del kind["many"]
        record = {"data": "Made up", "classifier": "cosine", "draw": seed, "left_out": ["a", "b"], "accuracy": value}
        record |= {"known_images": dict.fromkeys(GROUPS, 30 + seed), "unknown_images": 20, "scores": scores}
        (folder / f"cosine-draw{seed}.json").write_text(json.dumps({**record, "machine": {"cpu": "a CPU"}}))
    output = tmp_path / "out.md"
    output.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    main(["--records", str(tmp_path / "records"), "table", "--output", str(output)])
    text = output.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "3 draws of 2 classes left out; 30 to 32 test images of known classes" in text
    assert "| maximum logit |" + " 90.0 ± 10.0 |" * 8 in text
    assert "| energy | 90.0 ± 10.0 | - |" in text


@pytest.mark.slow
def test_a_draw_is_trained_and_measured(tmp_path: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=7, pretrained=False)
    model.pretrained_cfg |= {"input_size": (3, 64, 64)}
    save_for_hf(model, str(tmp_path / "weights"), safe_serialization=True)
    for start, split in ((0, "train"), (1000, "test")):
        folders(tmp_path / "photos" / split, dict.fromkeys("abcde", 6), start, (60, 48))
    flags = ["--dataset", str(tmp_path / "photos"), "--name", "Mine", "--backbone", str(tmp_path / "weights")]
    more = "--image_size 64 --image_fit crop --num_train_epochs 2 --cross_validation 2"
    records = ["--records", str(tmp_path / "records")]
    main([*records, "run", *flags, "--left_out", "2", "--draws", "1", "--more", more])
    by_classifier = {
        name: json.loads((tmp_path / f"records/mine/{name}-draw0.json").read_text()) for name in ("cosine", "linear")
    }
    for record in by_classifier.values():
        assert len(record["left_out"]) == 2
        assert (record["known_images"]["overall"], record["unknown_images"]) == (18, 12)
        assert all(0 <= score["auroc"]["overall"] <= 1 for score in record["scores"].values())
    # Of a cosine classifier the largest logit is the cosine to the nearest center; of a linear one it is not.
    scores = by_classifier["cosine"]["scores"]
    assert scores["max_logit"]["auroc"] == pytest.approx(scores["center"]["auroc"], abs=0.01)
    with pytest.raises(SystemExit, match="must leave two of the 5 classes"):
        main([*records, "run", *flags, "--left_out", "4"])
