"""The code blocks of the pages: known, parsed, and executed with the outputs that the pages show; and the script that
does it, on small pages."""

import os
import re
import sys
import time
from pathlib import Path

import psutil
import pytest
from command_lines import commands, parse
from conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))
import code_blocks

PAGES = code_blocks.pages()


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_blocks_are_known_and_parse(page: Path) -> None:
    assert list(code_blocks.problems(code_blocks.read(page))) == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_have_these_flags(page: Path) -> None:
    blocks = code_blocks.read(page)
    texts = [(block, block.text) for block in blocks if block.language in ("", "bash", "hidden")]
    texts += [(block, part) for block in blocks if block.mark == "record" for part in block.parts()]
    failed = []
    for block, text in texts:
        for words in commands(text):
            try:
                parse(words)
            except ValueError as error:
                failed.append(f"{block.place}: paco-hf {' '.join(words)}: {error}")
    assert failed == []


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_outputs_are_pasted_and_have_a_date(page: Path) -> None:
    outputs = [block for block in code_blocks.read(page) if block.is_output]
    assert [block.place for block in outputs if not block.text.strip()] == [], "run --write"
    if outputs:
        end = code_blocks.STAMP.split(page.read_text(encoding="utf-8"))[-1]
        assert re.search(r"^\*Outputs: paco_hf [\d.]+, \w+ \d+, \d{4}; .+, \d+ cores, .+\*$", end, re.MULTILINE)
    assert code_blocks.altered(page) == []


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_page_runs_as_it_says(page: Path) -> None:
    assert code_blocks.check_page(page) == []


SHELL = """A=1 paco-hf train --loss \\
  ce 2>&1 | tee log  # paco-hf no
(paco-hf predict RUN 'a b' > f) && paco-hf data verify $X
short="--max_steps 3 --loss ce"
paco-hf train ${short} --seed $seed
"""


def test_commands_are_found_in_lines_of_shell() -> None:
    assert list(commands(SHELL)) == [
        ["train", "--loss", "ce"],
        ["predict", "RUN", "a b"],
        ["data", "verify", "1"],
        ["train", "--max_steps", "3", "--loss", "ce", "--seed", "1"],
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --datset photos", "did you mean --dataset"),
        ("train --loss focal", "invalid choice"),
        ("train --seeds x", "--seeds"),
        ("evaluate RUN --batch_size 0", "--batch_size"),
        ("push RUN a/b/c", "a/b/c"),
        ("data check DIR", "invalid choice"),
        ("predict RUN --nproc 0 photos", "number of processes"),
        ("evalate RUN", "no such verb"),
    ],
)
def test_commands_that_do_not_parse_are_refused(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(line.split())


@pytest.mark.parametrize("line", ["train ... --resume", "evaluate RUN --calibrate", "data stats DIR", "train --help"])
def test_files_of_commands_need_not_exist(line: str) -> None:
    parse(line.split())


def write(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```\nls\n```\n", "page.md:1: no language"),
        ("\n```cobol\nx\n```\n", "page.md:2: 'cobol'"),
        ("<!-- illustration -->\n```bash\nls\n```\n", "needs a reason"),
        ("```python\nx = 1\ny = (\n```\n", "page.md:1: the python does not parse"),
        ("```yaml\na: [1\n```\n", "the yaml does not parse"),
        ("```json\n{a}\n```\n", "the json does not parse"),
        ("```toml\na =\n```\n", "the toml does not parse"),
        ("<!-- output -->\n```text\nx\n```\n", "follows the block that is executed"),
        ("```yaml\na: 1\n```\n<!-- output -->\n```text\nx\n```\n", "follows the block that is executed"),
        ("```bash\nls\n```\n<!-- output: 3 lines -->\n```text\nx\n```\n", "'3 lines'"),
        ("```bash\nls\n```\n<!-- output -->\n```bash\nx\n```\n", "is a `text` block"),
        ("<!-- fails -->\n```python\nx\n```\n", "is for bash blocks"),
        ("```text\nx\n```\n", "page.md:1: a `text` block needs"),
        ("<!-- record: -->\n```text\nx\n```\n", "page.md:2: '': a record is a file"),
        ("<!-- record: README.md; docs/none.md -->\n```text\nx\n```\n", "'docs/none.md': a record is a file"),
        ("<!-- record: python -m benchmarks.none table -->\n```text\nx\n```\n", "benchmarks.none"),
        ("<!-- record: make nothing -->\n```text\nx\n```\n", "'make nothing': a record is a file or a command"),
    ],
)
def test_wrong_blocks_are_named(tmp_path: Path, text: str, message: str) -> None:
    found = list(code_blocks.problems(code_blocks.read(write(tmp_path, text))))
    assert len(found) == 1
    assert message in found[0]


def test_records_are_files_and_modules_of_the_repository(tmp_path: Path) -> None:
    record = "<!-- record: benchmarks/comparison; python -m benchmarks.comparison table; make bench -->"
    page = write(tmp_path, f"{record}\n```text\nx\n```\n")
    assert list(code_blocks.problems(code_blocks.read(page))) == []


def test_a_block_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"page\.md:2: the block has no end"):
        code_blocks.read(write(tmp_path, "a\n```bash\nls\n"))


GOOD = """# Page

<!-- hidden
export SECRET=1
echo 41 > number
-->

1. In a list:

   ```bash
   test -f number; test -z "${SECRET-}"
   for n in 1 2 3 4 5 6; do echo "line $n"; done; echo last >&2
   ```

   <!-- output: first 2; lines 4-4; last 1 -->
   ```text
   line 7
   line 8
   ...
   line 4
   ...
   last
   ```

```python
number = 1 + int(open("number").read())
```

```python
print("it is", number)
```

<!-- output -->
```text
it  is 43
```

<!-- illustration: needs another computer -->
```bash
ssh elsewhere
```

<!-- fails -->
```bash
echo nothing there >&2; false
```

<!-- output -->
```text
nothing there
```
"""


def test_a_good_page_runs_and_its_numbers_may_differ(tmp_path: Path) -> None:
    page = write(tmp_path, GOOD)
    assert code_blocks.check_page(page) == []
    kinds = [block.check() for block in code_blocks.read(page)]
    assert kinds == [
        "executed, not shown",
        "executed",
        "output of the block above",
        "executed",
        "executed",
        "output of the block above",
        "illustration: needs another computer",
        "executed, must fail",
        "output of the block above",
    ]
    assert page.read_text() == GOOD


def test_outputs_are_pasted_with_what_they_are_of(tmp_path: Path) -> None:
    page = write(tmp_path, GOOD + "\n<!-- outputs -->\n\n*Outputs: of long ago.*\n")
    assert code_blocks.main(["--write", str(page)]) == 0
    text = page.read_text()
    assert "   line 1\n   line 2\n   ...\n   line 4\n   ...\n   last\n   ```\n" in text
    assert "\nit is 42\n" in text
    assert re.search(
        r"<!-- outputs:(?: [0-9a-f]{8}){3} -->\n\n\*Outputs: paco_hf [\d.]+, \w+ \d+, \d{4}; .*\d cores, .*\.\*\n$",
        text,
    )
    assert "long ago" not in text
    assert code_blocks.main(["--write", str(page)]) == 0
    assert page.read_text() == text
    # A change by hand is found, also of a number.
    assert code_blocks.altered(page) == []
    page.write_text(text.replace("it is 42", "it is 43"))
    (found,) = code_blocks.altered(page)
    line = text[: text.index("it is 42")].count("\n")
    assert found == f"page.md:{line}: the output was changed by hand: run --write"
    page.write_text(text.replace("<!-- output -->\n```text\nit is 42\n```\n", ""))
    assert code_blocks.altered(page) == ["page.md: 2 outputs, and 3 digests of outputs: run --write"]
    # What --write has pasted before gets its digests without being executed.
    page.write_text(re.sub("<!-- outputs: .* -->", "<!-- outputs -->", text))
    assert code_blocks.altered(page) == ["page.md: 3 outputs, and 0 digests of outputs: run --write"]
    assert code_blocks.main(["--stamp", str(page)]) == 0
    assert page.read_text() == text
    page = write(tmp_path, GOOD)
    with pytest.raises(ValueError, match="<!-- outputs -->"):
        code_blocks.check_page(page, write=True)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        ("```bash\ntrue\nls absent\necho no\n```\n", ["page.md:3: the block failed", "absent"]),
        ("```bash\nfalse | cat\n```\n", ["page.md:2: the block failed"]),
        ("```bash\necho $UNSET\n```\n", ["page.md:1: the block failed", "unbound variable"]),
        ("```python\nx = 1\n\n1 / 0\n```\n", ["page.md:4: the block failed", "ZeroDivisionError", "1 / 0"]),
        ("```python\nimport os\nos._exit(0)\n```\n", ["page.md:1: the block failed", "the interpreter has ended"]),
        ("```python\njson.dumps(1)\n```\n", ["page.md:2: the block failed", "NameError"]),
        ("```bash\necho a\n```\n<!-- output -->\n```text\nb\n```\n", ["page.md:5: the page shows 'b'", "'a'"]),
        ("```bash\necho a\n```\n<!-- output -->\n```text\na\nb\n```\n", ["'(no line)'"]),
        ("<!-- fails -->\n```bash\necho a\n```\n", ["page.md:2: the block should fail"]),
        ("```bash\necho /usr/lib/x\n```\n", ["'/usr/lib/x', a path of this computer"]),
        ("```bash\npip install x\n```\n", ["mark the block as an illustration"]),
        ("```bash\nmake no-such-target\n```\n", ["no-such-target"]),
        ("<!-- hidden\nfalse\n-->\n", ["page.md:2: the block failed"]),
    ],
)
def test_what_fails_is_named_with_its_line(tmp_path: Path, text: str, messages: list[str]) -> None:
    (found,) = code_blocks.check_page(write(tmp_path, text))
    assert all(message in found for message in messages), found


COMMANDS = """```bash
make quality
paco-hf --version | grep -c paco
python -c 'import paco_hf; print(paco_hf.__file__)'
echo $HF_HUB_OFFLINE $PWD $HOME
sleep 60 &
echo $! > process
```

<!-- output -->
```text
1
paco_hf/__init__.py
1 . ~
```

```python
import os
os.kill(int(open("process").read()), 0)  # it is still there
with open(os.environ["PROCESS_OF_THE_TEST"], "w") as file:
    file.write(open("process").read())
```
"""


def is_running(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_blocks_have_the_commands_of_this_checkout_and_nothing_outlives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = tmp_path / "process"
    monkeypatch.setenv("PROCESS_OF_THE_TEST", str(process))
    assert code_blocks.check_page(write(tmp_path, COMMANDS)) == []
    number, deadline = int(process.read_text()), time.monotonic() + 30
    while is_running(number) and time.monotonic() < deadline:  # a signal takes its time on a busy machine
        time.sleep(0.05)
    assert not is_running(number)


def test_progress_bars_and_escapes_are_left_out(tmp_path: Path) -> None:
    bar = r"\r  0%%|          | 0/3\r100%%|####| 3/3 [00:01<00:00, 2.1it/s]\n\033[1mdone\033[0m in 3.2 s\n"
    page = write(tmp_path, f"```bash\nprintf '{bar}'\n```\n<!-- output -->\n```text\ndone in 12 ms\n```\n")
    assert code_blocks.check_page(page) == []


PHOTOS = """<!-- hidden
example_inputs photos
-->

```bash
ls photos/beaver
for folder in photos/*; do ls $folder | wc -l; done
tail -n 1 labels.csv
ls new_photos
```

<!-- output: first 5; last 1 -->
```text
image_0001.jpg
image_0002.jpg
image_0003.jpg
image_0004.jpg
image_0005.jpg
...
24.jpg
```

<!-- output: photos -->
```text
only with real photos
```

```python
import timm
print(type(timm.create_model("tf_efficientnet_lite0", pretrained=True)).__name__)
```

<!-- output -->
```text
EfficientNet
```
"""


@pytest.mark.slow
def test_photos_and_the_backbone_are_there_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PHOTOS", "WEIGHTS"):
        monkeypatch.delenv(f"PACO_DOCS_{name}", raising=False)
    page = write(tmp_path, PHOTOS)
    assert code_blocks.check_page(page) == []
    (refused,) = code_blocks.check_page(page, write=True)
    assert "needs PACO_DOCS_PHOTOS" in refused


def test_every_block_is_listed(capsys: pytest.CaptureFixture) -> None:
    assert code_blocks.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum(len(code_blocks.read(page)) for page in PAGES)
    assert all(re.match(r"\S+\.md:\d+ +\S+ +\S", line) for line in lines)
    assert os.path.exists(ROOT / lines[0].split(":")[0])
