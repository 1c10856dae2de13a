"""The HTML reports: right numbers, nothing loaded from elsewhere, nothing executed, a browser without complaint."""

import html
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape
from pages import CHROMIUM, assert_self_contained, assert_well_formed, browse, in_chromium, on_paper, rows_of
from PIL import Image

from paco_hf.evaluation.abstention import precision_bound
from paco_hf.evaluation.summary import summarize
from paco_hf.reports.evaluation_report import write_report
from paco_hf.reports.plots import COUNTS_NAME, FREQUENCY_NAME, PRIOR_NAME, RELIABILITY_NAME

GROUPS = ("many", "medium", "few")
NASTY = ["<script>alert(1)</script>", "mouse, house", "Ærø & Ørsted", "\"quoted\" 'name'", "山猫", "{{ 7 * 7 }}"]


def interval(value: float | None, width: float = 0.012) -> dict[str, float] | None:
    return None if value is None else {"value": value, "low": value - width, "high": value + width}


def bins_of(confidence: np.ndarray, right: np.ndarray) -> dict[str, Any] | None:
    if not len(confidence):
        return None
    edges, bins, ece = np.linspace(0, 1, 16), [], 0.0
    place = np.clip(np.ceil(confidence * 15).astype(int) - 1, 0, 14)
    for i in range(15):
        inside = place == i
        n = int(inside.sum())
        mean, accuracy = (float(x[inside].mean()) if n else None for x in (confidence, right))
        bins.append(dict(low=edges[i], high=edges[i + 1], images=n, confidence=mean, accuracy=accuracy))
        ece += n / len(confidence) * abs(mean - accuracy) if n else 0
    return dict(images=len(confidence), ece=ece, confidence=confidence.mean(), accuracy=float(right.mean()), bins=bins)


def example(row: int, predicted: int) -> list[dict[str, Any]]:
    return [{"row": row, "predicted": predicted, "confidence": 0.61, "file": f"test/<b>/{row}.jpg"}]


def make_results(
    classes: int = 100,
    most: int = 500,
    least: int = 5,
    per_class: int = 40,
    counts: bool = True,
    temperature: float | None = None,
) -> dict[str, Any]:
    """What an evaluation of a plausible model says: rare classes are recognized less, and confidences are too high."""
    rng = np.random.default_rng(0)
    numbers = np.geomspace(most, least, classes).round().astype(int)
    chance = np.clip(0.25 + 0.22 * np.log10(numbers) + rng.normal(0, 0.1, classes), 0.02, 0.98)
    true = np.repeat(np.arange(classes), per_class)
    right = rng.random(true.size) < chance[true]
    guess = np.where(right, true, (rng.power(0.4, true.size) * classes).astype(int))
    right = guess == true
    confidence = np.clip(0.35 + 0.4 * right + rng.normal(0.1, 0.15, true.size), 1 / classes, 1)
    accuracy = np.array([right[true == c].mean() for c in range(classes)])
    group = np.where(numbers > 100, 0, np.where(numbers >= 20, 1, 2))
    means = [float(accuracy[group == g].mean()) if (group == g).any() else None for g in range(3)]
    by_group = {
        name: bins_of(confidence[mask], right[mask])
        for name, mask in {"overall": true >= 0, **{n: group[true] == g for g, n in enumerate(GROUPS)}}.items()
        if counts or name == "overall"
    }
    if not counts:
        by_group |= dict.fromkeys(GROUPS)
    cooler = {
        name: one and bins_of(np.clip(confidence[mask] + 0.08, 0, 1), right[mask])
        for (name, one), mask in zip(by_group.items(), [true >= 0, *(group[true] == g for g in range(3))], strict=True)
    }
    shares = [
        [float((group[guess[group[true] == g]] == h).mean()) for h in range(3)] if (group == g).any() else None
        for g in range(3)
    ]
    wrong: dict[tuple[int, int], int] = {}
    for t, p in zip(true[~right].tolist(), guess[~right].tolist(), strict=True):
        wrong[t, p] = wrong.get((t, p), 0) + 1
    confusions = [
        {"true": t, "predicted": p, "images": n, "share": n / per_class, "examples": example(t * per_class, p)}
        for (t, p), n in sorted(wrong.items(), key=lambda item: -item[1])
    ]
    names = [*NASTY, *(f"class {i}" for i in range(len(NASTY), classes))][:classes]
    worst = accuracy.argsort()[:10].tolist()
    ratios = [50, 25, 10, 5, 2]
    known = [m for m in means if m is not None]
    gap = means[0] - means[2] if means[0] is not None and means[2] is not None else None
    results = {
        "model": "paco-resnet32",
        "dataset": "cifar100-lt",
        "split": "cifar100-lt test",
        "images": int(true.size),
        "class_names": names,
        "class_counts": numbers.tolist() if counts else None,
        "confidence": {"level": 0.95, "method": "bootstrap, 1000 resamples of the images"},
        "metrics": {
            "accuracy": interval(float(right.mean())),
            "balanced_accuracy": interval(float(accuracy.mean())),
            **{n: interval(m if counts else None, 0.02) for n, m in zip(GROUPS, means, strict=True)},
            "worst_10_percent": interval(float(np.sort(accuracy)[: max(1, classes // 10)].mean())),
            "head_tail_gap": interval(gap if counts else None),
            "harmonic_mean": interval(0.412),
            "geometric_mean": interval(0.467),
            "nll": interval(1.8341, 0.03),
            "brier": interval(0.6123, 0.01),
            "ece": interval(by_group["overall"]["ece"], 0.004),
        },
        "per_class": [
            {
                "class": c,
                "train_images": int(numbers[c]) if counts else None,
                "test_images": per_class,
                "accuracy": float(accuracy[c]),
                "low": float(precision_bound(accuracy[c], per_class, 0.975)),
                "high": float(1 - precision_bound(1 - accuracy[c], per_class, 0.975)),
                "predicted": int((guess == c).sum()),
            }
            for c in range(classes)
        ],
        "calibration": {
            "temperature": temperature,
            "groups": by_group,
            "uncalibrated": cooler if temperature else None,
            "balanced": True,
            "weighted": False,
        },
        "confusion_groups": {
            "names": list(GROUPS),
            "share": shares,
            "right": [float(right[group[true] == g].mean()) if (group == g).any() else None for g in range(3)],
        }
        if counts
        else None,
        "confusions": confusions[:20],
        "tail_to_head": [c for c in confusions if numbers[c["predicted"]] >= 10 * numbers[c["true"]]][:20]
        if counts
        else [],
        "worst_classes": [
            {
                "class": c,
                "accuracy": float(accuracy[c]),
                "train_images": int(numbers[c]) if counts else None,
                "test_images": per_class,
                "examples": example(c * per_class, 0),
            }
            for c in worst
        ],
        "priors": {
            "ratios": [*ratios, 1],
            "rows": [
                {
                    "direction": direction,
                    "ratio": ratio,
                    "accuracy": known[0] + sign * 0.04 * np.log(ratio),
                    "adapted": known[0] + 0.03 * np.log(ratio),
                }
                for direction, sign in (("forward", 1), ("backward", -1))
                for ratio in ratios
            ]
            + [{"direction": "uniform", "ratio": 1, "accuracy": known[0], "adapted": known[0]}],
        }
        if counts
        else None,
        "left_aside": "",
    }
    return results | {"summary": summarize(results)}


def make_pictures(results: dict[str, Any]) -> dict[int, Image.Image]:
    rng = np.random.default_rng(0)
    lists = (results["worst_classes"], results["confusions"], results["tail_to_head"] or ())
    rows = sorted({example["row"] for rows in lists for row in rows for example in row["examples"]})
    return {
        row: Image.fromarray(np.kron(rng.integers(60, 220, (4, 4, 3)), np.ones((8, 8, 1))).astype("uint8"))
        for row in rows
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = make_results(temperature=1.31)
    return write_report(results, tmp_path_factory.mktemp("report"), make_pictures(results))


def test_numbers_are_those_of_the_results(page: Path) -> None:
    results = make_results(temperature=1.31)
    rows = rows_of(page.read_text(encoding="utf-8"))
    by_start = {row[0]: row[1:] for row in reversed(rows)}

    def percent(value: float) -> str:
        return f"{100 * value:.1f}%"

    def span(low: float, high: float) -> str:
        return f"{100 * low:.1f} to {percent(high)}"

    scores = results["metrics"]
    for name, start in (
        ("accuracy", "top-1 accuracyshare of the images that are classified correctly"),
        ("few", "fewover classes with fewer than 20 training images"),
    ):
        one = scores[name]
        assert by_start[start] == [f"{percent(one['value'])}{span(one['low'], one['high'])}"]
    log_loss = next(row for row in rows if row[0].startswith("log loss"))
    assert log_loss[1:] == ["1.8341.804 to 1.864"]
    gap = next(row for row in rows if row[0].startswith("frequent minus rare"))
    assert gap[1].startswith(f"{100 * scores['head_tail_gap']['value']:.1f} points")

    few = results["calibration"]["groups"]["few"]
    group = by_start["fewfewer than 20"]
    assert group[0] == str(sum(n < 20 for n in results["class_counts"]))
    assert group[1] == f"{few['images']:,}"
    assert group[2].startswith(percent(scores["few"]["value"]))
    before = results["calibration"]["uncalibrated"]["few"]["ece"]
    assert group[3:] == [percent(few["confidence"]), f"{percent(few['ece'])}{percent(before)} without temperature"]
    shares = results["confusion_groups"]
    assert ["few", *map(percent, shares["share"][2]), percent(shares["right"][2])] in rows

    names, counts = results["class_names"], results["class_counts"]
    for pair in (*results["tail_to_head"], *results["confusions"]):
        ends = [f"{names[pair[end]]} ({counts[pair[end]]})" for end in ("true", "predicted")]
        assert [*ends, str(pair["images"]), percent(pair["share"])] in rows
    for one in results["per_class"]:
        assert [
            names[one["class"]],
            str(one["train_images"]),
            str(one["test_images"]),
            percent(one["accuracy"]) + span(one["low"], one["high"]),
            str(one["predicted"]),
        ] in rows
    for one in results["priors"]["rows"]:
        assert [one["direction"], f"{one['ratio']:g}", percent(one["accuracy"]), percent(one["adapted"])] in rows
    for one in results["calibration"]["groups"]["overall"]["bins"]:
        assert [f"{one['images']:,}", percent(one["confidence"]), percent(one["accuracy"])] in [r[1:] for r in rows]
    for name in (COUNTS_NAME, FREQUENCY_NAME, RELIABILITY_NAME, PRIOR_NAME):
        assert (page.parent / name).read_bytes().startswith(b"\x89PNG")


def test_page_is_self_contained_and_escaped(page: Path) -> None:
    html = page.read_text(encoding="utf-8")
    assert_self_contained(html, scripts=1)
    assert_well_formed(html)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "{{ 7 * 7 }}" in html
    assert "on cifar100-lt</title>" in html
    assert "4,000 images of cifar100-lt test, 100 classes" in html
    assert "山猫" in html
    assert html.count("<svg") == 4
    assert "Training curve" not in html
    assert f'<p class="summary">{escape(make_results(temperature=1.31)["summary"])}</p>' in html
    results = make_results()
    shown = [*results["worst_classes"], *results["confusions"], *results["tail_to_head"]]
    assert html.count("<img") == len(shown) > 20
    for row in shown:
        assert f"test/&lt;b&gt;/{row['examples'][0]['row']}.jpg" in html


@pytest.mark.slow
def test_ten_thousand_classes_make_a_page_of_moderate_size(tmp_path: Path, no_pngs: None) -> None:
    results = make_results(classes=10_000, most=4000, least=1, per_class=3)
    file = write_report(results, tmp_path, {})
    html = file.read_text(encoding="utf-8")
    assert file.stat().st_size < 5e6
    assert "The 50 classes with the lowest accuracy, of 10,000" in html
    assert_well_formed(html)


@pytest.mark.parametrize(
    ("settings", "groups"),
    [
        ({"classes": 2, "most": 900, "least": 9}, {"many": 1, "medium": 0, "few": 1}),
        ({"classes": 3, "most": 60, "least": 30}, {"many": 0, "medium": 3, "few": 0}),
        ({"classes": 1, "most": 200, "least": 200}, {"many": 1, "medium": 0, "few": 0}),
    ],
)
def test_empty_groups_have_no_figure(
    settings: dict[str, Any], groups: dict[str, int], tmp_path: Path, no_pngs: None
) -> None:
    results = make_results(**settings)
    html = write_report(results, tmp_path, {}).read_text(encoding="utf-8")
    assert_well_formed(html)
    by_start = {row[0]: row[1:] for row in reversed(rows_of(html))}
    for name, size in (("many", "more than 100 images"), ("medium", "20 to 100"), ("few", "fewer than 20")):
        row = by_start[f"{name}{size}"]
        assert row[0] == str(groups[name])
        assert (row[2] == "-") == (groups[name] == 0)
        assert (by_start[name] == ["no test images"]) == (groups[name] == 0)


def test_classes_without_images(tmp_path: Path, no_pngs: None) -> None:
    results = make_results(classes=12)
    results["class_counts"][3] = 0
    results["per_class"][3] |= {"train_images": 0}
    results["per_class"][4] |= {"test_images": 0, "accuracy": None, "low": None, "high": None}
    results["class_names"][4] = ""
    html = write_report(results, tmp_path, {}).read_text(encoding="utf-8")
    assert "1 class has no test images" in html
    assert rows_of(html)[-1][1:4] == [str(results["class_counts"][4]), "0", "-"]


def test_without_class_counts_the_page_says_what_is_left_out(tmp_path: Path) -> None:
    results = make_results(classes=20, counts=False)
    html = write_report(results, tmp_path, make_pictures(results)).read_text(encoding="utf-8")
    assert html.count("has no class_counts") == 4
    assert html.count("<svg") == 1
    assert not (tmp_path / FREQUENCY_NAME).exists()
    assert (tmp_path / RELIABILITY_NAME).exists()
    assert_well_formed(html)


def test_same_results_make_the_same_files(page: Path, tmp_path: Path) -> None:
    results = make_results(temperature=1.31)
    again = write_report(results, tmp_path, make_pictures(results))
    assert again.read_text().split("<footer>")[0] == page.read_text().split("<footer>")[0]
    for name in (COUNTS_NAME, FREQUENCY_NAME, RELIABILITY_NAME, PRIOR_NAME):
        assert (tmp_path / name).read_bytes() == (page.parent / name).read_bytes()


@in_chromium
def test_the_browser_would_complain(tmp_path: Path) -> None:
    file = tmp_path / "bad.html"
    file.write_text('<img src="http://nowhere.invalid/x.png"><script>console.error("bad")</script>')
    _, console, asked = browse(file, tmp_path)
    assert len(console) == 1
    assert asked == ["http://nowhere.invalid/x.png"]


@in_chromium
def test_in_chromium(page: Path, tmp_path: Path) -> None:
    dom, console, asked = browse(page, tmp_path)
    assert console == asked == []
    assert "top-1 accuracyshare of the images that are classified correctly" in [row[0] for row in rows_of(dom)]
    assert dom.count("<script") == 1


def point_texts(results: dict[str, Any]) -> list[str]:
    return [
        f"{results['class_names'][row['class']]}\ntraining images: {row['train_images']:,}\naccuracy: "
        f"{100 * row['accuracy']:.1f}% ({100 * row['low']:.1f} to {100 * row['high']:.1f}%)"
        f"\ntest images: {row['test_images']}"
        for row in results["per_class"]
    ]


def test_each_point_has_the_name_of_its_class(page: Path) -> None:
    results = make_results(temperature=1.31)
    found = re.findall(r'<use [^>]* x="([\d.]+)" y="([\d.]+)"[^>]*><title>(.*?)</title></use>', page.read_text(), re.S)
    assert [html.unescape(text) for *_, text in found] == point_texts(results)
    x, y = (np.array(column, dtype=float) for column in list(zip(*found, strict=True))[:2])
    accuracy = [row["accuracy"] for row in results["per_class"]]
    assert np.corrcoef(x, np.log(results["class_counts"]))[0, 1] == pytest.approx(1, abs=1e-6)
    assert np.corrcoef(y, accuracy)[0, 1] == pytest.approx(-1, abs=1e-6)


@in_chromium
def test_points_are_named_by_pointer_keyboard_and_touch(page: Path) -> None:
    sync_playwright = pytest.importorskip("playwright.sync_api", reason="needs the extra dev").sync_playwright
    results = make_results(temperature=1.31)
    texts = point_texts(results)
    rarest = min(range(100), key=lambda c: (results["class_counts"][c], -results["per_class"][c]["accuracy"]))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        opened = browser.new_page(viewport={"width": 1000, "height": 800})
        opened.goto(page.as_uri())
        tip, points = opened.locator(".tip"), opened.locator("use[class^=p]")
        for place in (0, 57, 99):
            points.nth(place).hover(force=True)
            assert tip.text_content() == texts[place]
            box, dot = tip.bounding_box(), points.nth(place).bounding_box()
            assert box
            assert dot
            assert 0 <= box["x"] <= 1000 - box["width"]
            assert abs(box["y"] + box["height"] - dot["y"]) < 20 or abs(box["y"] - dot["y"] - dot["height"]) < 20
        opened.mouse.move(2, 2)
        assert tip.text_content() == ""
        opened.locator("svg").first.focus()
        for key, place in (("End", 0), ("ArrowLeft", 1), ("ArrowRight", 0), ("Home", rarest)):
            opened.keyboard.press(key)
            assert str(tip.text_content()) == texts[place], key
        opened.keyboard.press("Escape")
        assert tip.text_content() == ""
        phone = browser.new_context(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True).new_page()
        phone.goto(page.as_uri())
        phone.locator("use[class^=p]").nth(3).tap(force=True)
        assert str(phone.locator(".tip").text_content()) == texts[3]
        browser.close()


@pytest.mark.parametrize("validated", [True, False])
def test_training_curve(validated: bool, tmp_path: Path, no_pngs: None) -> None:
    scores = {"eval_accuracy": 0.5, "eval_balanced_accuracy": 0.4, "eval_many": 0.6, "eval_few": 0.1}
    log = [{"epoch": e, "loss": 3 / e} | (scores if validated else {}) for e in (1.0, 2.0)]
    text = write_report(make_results(classes=12), tmp_path, {}, log).read_text(encoding="utf-8")
    assert_well_formed(text)
    section = text[text.index("<h2>Training curve</h2>") :]
    assert ("no validation split during training" in section) is not validated
    assert ((">balanced validation accuracy (%)<" in section) and (">few<" in section)) is validated


@in_chromium
def test_narrow_screens_scroll_inside_the_boxes_only(page: Path, tmp_path: Path) -> None:
    frame = tmp_path / "frame.html"
    inside = page.read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
    look = """
        const page = contentDocument.documentElement, boxes = [...page.querySelectorAll('.scroll')];
        const wider = boxes.filter(box => box.scrollWidth > box.clientWidth).length;
        document.title = `${page.clientWidth} ${page.scrollWidth} ${wider}`;
    """
    frame.write_text(f'<iframe style="width: 360px" srcdoc="{inside}" onload="{look}"></iframe>', encoding="utf-8")
    dom, console, _ = browse(frame, tmp_path)
    assert console == []
    width, needed, wider = map(int, re.findall("<title>(.*?)</title>", dom)[0].split())
    assert needed == width <= 360
    assert wider > 5


@on_paper
def test_prints_what_is_folded_away(page: Path, tmp_path: Path) -> None:
    browse(page, tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}")
    text = subprocess.run(["pdftotext", "-layout", tmp_path / "page.pdf", "-"], capture_output=True, text=True).stdout
    assert len(re.findall(r"^ *class \d+ +\d+ +40 +\d+\.\d%", text, re.MULTILINE)) == 94
    assert "93.3 to 100.0%" in text


def contrast(first: str, second: str) -> float:
    """Of two colors, as WCAG 2 defines it."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_colors_have_enough_contrast(page: Path) -> None:
    themes = re.findall(r":root \{(.*?)\}", page.read_text(encoding="utf-8"), re.DOTALL)
    assert len(themes) == 2
    for theme in themes:
        colors = {
            name: f"#{value * 2 if len(value) == 3 else value}"
            for name, value in re.findall(r"--([\w-]+): #(\w+)", theme)
        }
        paper, tint = colors["paper"], colors["tint"]
        shaded = "#" + "".join(
            f"{round(0.32 * int(tint[i : i + 2], 16) + 0.68 * int(paper[i : i + 2], 16)):02x}" for i in (1, 3, 5)
        )
        for name in ("ink", "soft", "tint"):
            assert contrast(colors[name], paper) >= 4.5, name
        assert contrast(colors["ink"], shaded) >= 4.5
        for name in ("rule", *(f"series-{i}" for i in range(1, 9))):
            assert contrast(colors[name], paper) >= 3, name
