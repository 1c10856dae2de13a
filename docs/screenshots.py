"""Make the pictures of the README and the site from committed records: `report.png`, `report-scores.png`, which is its
upper part, and `before-after.png`.

Run `python docs/screenshots.py` with the extra `dev` installed. Pictures of the report need Chromium on the PATH.
"""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from paco_hf.data.long_tail import long_tailed_counts
from paco_hf.metrics import GROUPS, shot_group
from paco_hf.reports.plots import GROUP_COLORS, INK, RULE

ROOT = Path(__file__).parent.parent
REPORT = ROOT / "model_cards" / "paco-resnet32-cifar100-lt-100" / "evaluation" / "report.html"
RUNS, SEEDS = ROOT / "benchmarks" / "comparison", (0, 1, 2)
WIDTH, SCREEN = 1200, 920  # pixels of a picture, and of the page that it shows


def screenshot(page_file: Path, file: Path, scores: Path, named: str) -> None:
    """A report to the end of its first figure, with the pointer at the dot of a class, and to that of its scores."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        size = {"width": SCREEN, "height": 1400}
        page = browser.new_page(viewport=size, device_scale_factor=WIDTH / SCREEN, color_scheme="light")
        page.goto(page_file.as_uri())
        # The page's script takes the names out of the points, in whose order they are in the file.
        names = re.findall(r"<use [^>]*><title>(.*)", page_file.read_text(encoding="utf-8"))
        page.locator("use[class^=p]").nth(names.index(named)).hover(force=True)
        end = page.locator("figure").first.bounding_box()
        clip = {"x": 0, "y": 0, "width": SCREEN, "height": end["y"] + end["height"] + 16}
        drawn = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
        table = page.locator("table").first.bounding_box()
        browser.close()
    height = round((table["y"] + table["height"] + 16) * WIDTH / SCREEN)
    for picture, path in ((drawn, file), (drawn.crop((0, 0, drawn.width, height)), scores)):
        few_colors = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few_colors.save(path, optimize=True)


def before_after(file: Path) -> None:
    """Accuracy against class frequency of cross-entropy and of PaCo; a dot is the mean over the seeds of a class."""
    import matplotlib
    from matplotlib.figure import Figure

    counts = np.asarray(long_tailed_counts(500, 100, 100))
    group = shot_group(counts)
    matplotlib.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "text.color": INK})
    figure = Figure(figsize=(10, 4.3), layout="constrained", facecolor="white")
    for axes, (method, title) in zip(
        figure.subplots(1, 2, sharey=True), {"ce": "Cross-entropy", "paco": "PaCo"}.items(), strict=True
    ):
        records = [json.loads((RUNS / f"{method}-seed{s}" / "metrics.json").read_text())["test"] for s in SEEDS]
        accuracy = 100 * np.mean([record["per_class"] for record in records], axis=0)
        for index, name in enumerate(GROUPS):
            inside = group == index
            mean, color = accuracy[inside].mean(), GROUP_COLORS[name]
            axes.plot(counts[inside], accuracy[inside], "o", color=color, markersize=5, alpha=0.55, markeredgewidth=0)
            axes.plot([counts[inside].min(), counts[inside].max()], [mean, mean], color=color, linewidth=3)
            label = f"{name}: {mean:.1f}%"
            middle = np.sqrt(counts[inside].min() * counts[inside].max())
            axes.annotate(label, (middle, 107), color=color, ha="center", va="top", fontsize=12, fontweight="bold")
        axes.set_xscale("log")
        axes.set_xticks([5, 10, 20, 50, 100, 200, 500], ["5", "10", "20", "50", "100", "200", "500"])
        axes.minorticks_off()
        axes.set(xlabel="training images of the class", ylim=(-3, 108))
        axes.grid(axis="y", color=RULE, alpha=0.25, linewidth=0.8)
        axes.set_title(f"{title}: {accuracy.mean():.1f}% balanced accuracy", loc="left", fontsize=13, color=INK)
    figure.axes[0].set_ylabel("accuracy of the class (%)")
    figure.savefig(file, dpi=WIDTH / 10, metadata={"Software": None})


if __name__ == "__main__":
    folder = Path(__file__).parent
    before_after(folder / "before-after.png")
    screenshot(REPORT, folder / "report.png", folder / "report-scores.png", named="skyscraper")
