"""What a project is adopted by: citation, release, templates of issues, and one address."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from conftest import ROOT

from paco_hf.cli import main

sys.path.insert(0, str(ROOT / "docs"))
from project_url import project_url

GITHUB = ROOT / ".github"
TEMPLATES = sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
# Keys that CFF 1.2.0 knows, as far as this project uses or may use them, and those that it requires.
CITATION_KEYS = {
    "abstract", "authors", "cff-version", "date-released", "keywords", "license", "message", "references",
    "repository-code", "title", "type", "version",
}  # fmt: skip
REFERENCE_KEYS = {"authors", "conference", "journal", "title", "type", "url", "year"}


def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", GITHUB / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def test_citation_is_valid_and_has_the_papers() -> None:
    citation = read(ROOT / "CITATION.cff")
    assert citation.keys() <= CITATION_KEYS
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == [{"name": "The paco_hf contributors"}]
    card = (ROOT / "paco_hf" / "templates" / "model_card.md").read_text(encoding="utf-8")
    for reference in citation["references"]:
        assert reference.keys() <= REFERENCE_KEYS
        assert reference["type"] in ("article", "conference-paper")
        authors = [f"{author['family-names']}, {author['given-names']}" for author in reference["authors"]]
        # The entry of the card: same title, authors and year.
        assert f"title = {{{reference['title']}}},\n  author = {{{' and '.join(authors)}}}" in card
        assert f"year = {{{reference['year']}}}" in card
    assert [reference["year"] for reference in citation["references"]] == [2021, 2023]


def test_the_version_is_the_same_everywhere() -> None:
    assert release().disagreements() == []


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md", "paco_hf/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    text = (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8")
    (tmp_path / "CHANGELOG.md").write_text(re.sub(r"^## 0.1.0 .*", "## 0.1.0 (2027-01-31)", text, flags=re.MULTILINE))
    with (tmp_path / "CITATION.cff").open("a") as file:
        file.write("date-released: 2027-01-31\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "before", "after", "message"),
    [
        (
            "CITATION.cff",
            "version: 0.1.0",
            "version: 0.2.0",
            "CITATION.cff has version 0.2.0, and pyproject",
        ),
        ("paco_hf/__init__.py", '"0.1.0"', '"0.1.1"', "paco_hf/__init__.py has version 0.1.1"),
        ("CHANGELOG.md", "## 0.1.0 (2027-01-31)", "## 0.0.9 (2027-01-31)", "CHANGELOG.md has version 0.0.9"),
        ("CHANGELOG.md", "(2027-01-31)", "(unreleased)", "CHANGELOG.md has 'unreleased', expected the day"),
        (
            "CITATION.cff",
            "date-released: 2027-01-31",
            "",
            "CITATION.cff has date-released None, and",
        ),
        ("pyproject.toml", 'version = "0.1.0"', 'version = "0.2.0"', "the tag must be v0.2.0"),
    ],
)
def test_a_release_that_disagrees_is_refused(checkout: Path, name: str, before: str, after: str, message: str) -> None:
    assert release().disagreements(checkout, "v0.1.0") == []
    text = (checkout / name).read_text(encoding="utf-8")
    assert before in text
    (checkout / name).write_text(text.replace(before, after, 1))
    assert message in "\n".join(release().disagreements(checkout, "v0.1.0"))


def test_wheel_needs_one_wheel(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has 0 wheels, expected one"):
        release().check_wheel(tmp_path)


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows_run_what_is_there(file: Path) -> None:
    workflow = read(file)
    assert workflow[True]  # `on`, which YAML 1.1 reads so
    for job in workflow["jobs"].values():
        assert {"runs-on", "steps", "timeout-minutes"} <= job.keys()
        needed = job.get("needs", [])
        assert ({needed} if isinstance(needed, str) else set(needed)) <= workflow["jobs"].keys()
    lines = "\n".join(step["run"] for step in steps(workflow) if "run" in step)
    assert all(re.fullmatch(r"[\w-]+/[\w./-]+@[\w./-]+", step["uses"]) for step in steps(workflow) if "uses" in step)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"make ([\w-]+)", lines)) <= targets
    for path in re.findall(r"(?:python|pytest) (?:-m pytest )?((?:\.github|tests|docs|training)/\S+)", lines):
        assert (ROOT / path).exists(), path


def test_a_release_is_published_by_trusted_publishing_after_the_checks() -> None:
    jobs = read(GITHUB / "workflows" / "release.yml")["jobs"]
    assert (jobs["check"]["needs"], jobs["publish"]["needs"]) == ("build", "check")
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["environment"] == "pypi"
    assert not any("secrets" in str(job) or "password" in str(job) for job in jobs.values())
    assert any(step.get("run") == "python .github/release.py wheel dist" for step in jobs["check"]["steps"])
    assert 'python .github/release.py versions "$GITHUB_REF_NAME"' in [s.get("run") for s in jobs["build"]["steps"]]


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_issue_templates_are_forms(file: Path) -> None:
    template = read(file)
    if file.stem == "config":
        assert template.keys() <= {"blank_issues_enabled", "contact_links"}
        return
    assert template.keys() == {"name", "description", "labels", "body"}
    fields = [field for field in template["body"] if field["type"] != "markdown"]
    assert all(field["type"] in ("input", "textarea") and field["attributes"]["label"] for field in fields)
    names = [field["id"] for field in fields]
    assert len(names) == len(set(names))


def test_a_bug_comes_with_version_command_output_and_data() -> None:
    fields = {field.get("id"): field for field in read(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")["body"]}
    for name in ("version", "command", "output", "data"):
        assert fields[name]["validations"] == {"required": True}
    assert "`paco-hf --version`" in fields["version"]["attributes"]["description"]


def test_what_the_templates_name_exists(capsys: pytest.CaptureFixture) -> None:
    files = [*TEMPLATES, *GITHUB.glob("*.md"), ROOT / "SECURITY.md"]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    verbs = set(re.findall(r"`paco-hf ([a-z][\w-]*)", text))
    assert verbs
    assert main(["--help"]) == 0
    assert verbs <= set(re.findall(r"[\w-]+", capsys.readouterr().out))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([\w-]+)`", text)) <= targets
    for page in re.findall(r"`((?:docs/)?[\w-]+\.md|docs/\S+?|examples/\w+)`", text):
        assert (ROOT / page).exists(), page


# The hosts and repositories of others that files may link to. Tests may link to any.
HOSTS = (
    "albumentations.ai|arxiv.org|colab.research.google.com|creativecommons.org|docs.voxel51.com|doi.org|"
    "labelstud.io|matplotlib.org|purl.org|www.w3.org"
).replace(".", r"\.")
REPOSITORIES = (
    "CSAILVision/places365|HobbitLong/SupContrast|amajee11us/SCoRe|bl0/moco|"
    "(?:JIA-Lab|dvlab)-research/Parametric-Contrastive-Learning|"
    "facebookresearch/(?:deit|moco)|mlfoundations/open_clip|mr-eggplant/FOA|pytorch/(?:pytorch|vision)|"
    "huggingface/(?:evaluate|huggingface_hub|peft|pytorch-image-models|transformers)|"
    "zhmiao/OpenLongTailRecognition-OLTR"
)
HUB = "docs/|settings/tokens|api/repos/|runs/short|(?:spaces/|datasets/)?user/name"
KNOWN = re.compile(
    rf"(?:{HOSTS})(?=[/:?#]|$)|github\.com/(?:{REPOSITORIES})(?=[/#]|$)|(?:huggingface|hf)\.co/(?:{HUB})"
)
LINK = re.compile(r"https?://((?:[\w-]+\.)+[a-zA-Z]{2,}(?![\w.-])[^\s)\"'`<>\]}]*)")
BARE = re.compile(r"(?<![\w/.-])(?:[\w-]+\.)+(?:readthedocs\.io|github\.io|hf\.space)\b|example\.(?:com|org|net)\b")
MAIL = re.compile(r"(?<=\w)@(?!v?\d|main\b|release/)[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b")


def invented(text: str, may_link: bool = False) -> list[str]:
    """The addresses of a text that are nobody's, or are said to be this project's."""
    links = [] if may_link else [link.rstrip(".,;:*") for link in LINK.findall(text)]
    return [
        *(link for link in links if not KNOWN.match(link)),
        *(found[0] for pattern in (BARE, MAIL) for found in pattern.finditer(text)),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "see https://example.com",
        "https://github.com/ada/paco_hf/issues",
        "https://github.com/pytorch/pytorch-other",
        "pip install git+https://a.b.org/c/paco-hf",
        "ada@lab.org",
        "write to team@paco-project.ai",
        "maintainers@foo.dev",
        "[site](https://paco.example)",
        "<https://pacohf.readthedocs.io/>",
        "pacohf.readthedocs.io",
        "https://huggingface.co/spaces/jane/paco-demo",
        "https://huggingface.co/jane/paco",
        "https://arxiv.org.evil.net",
    ],
)
def test_invented_addresses_are_found(text: str) -> None:
    assert invented(text)


def test_known_addresses_are_allowed() -> None:
    text = "https://arxiv.org/abs/1, https://github.com/pytorch/vision/issues/7. https://huggingface.co/user/name"
    assert invented(f"{text} http://127.0.0.1:8000 actions/checkout@v4 pypa/gh@release/v1.2 x@main.y") == []


NAMES_OTHERS = {"tests/test_notebook.py", "tests/test_project.py"}  # where such addresses are refused


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no checkout of git")
    kind = re.compile(r".*\.(md|py|ya?ml|toml|cff|txt|html|ipynb|sh|ini|css|js|json|svg)")
    names = [name for name in listed.stdout.split("\0") if kind.fullmatch(name)]
    return [ROOT / name for name in names if name not in NAMES_OTHERS and not name.startswith("tests/old_runs/")]


def test_no_address_is_invented() -> None:
    url = project_url()
    assert url == "" or re.fullmatch(r"https://\S+[^/]", url)
    found = []
    for file in tracked():
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            text = text.replace(url, "") if url else text
            name = file.relative_to(ROOT).as_posix()
            found += [f"{name}: {address}" for address in invented(text, may_link=name.startswith("tests/"))]
    assert not found
