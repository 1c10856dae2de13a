"""The hub on loopback of `tests/loopback_hub.py`, as the unmodified clients see it, each in a process of its own."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from textwrap import dedent
from typing import Any

import huggingface_hub
import pytest
from fresh_processes import FreshProcesses, fresh_processes
from loopback_hub import Hub
from packaging.version import Version

CONFIG = b'{"model_type": "tiny"}'
WEIGHTS = bytes(range(256)) * 1000
CDN = "^/cdn/models/ada/repo/"

# When clients try again, and what they cache and split, has changed from release to release.
of_the_newest = pytest.mark.skipif(
    Version(huggingface_hub.__version__) < Version("2.4"), reason="the client is of another release"
)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub({"token-ada": "ada", "token-bob": "bob"}, page_size=2) as hub:
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "folder" / "sub").mkdir(parents=True)
    (tmp_path / "folder" / "config.json").write_bytes(CONFIG)
    (tmp_path / "folder" / "sub" / "model.safetensors").write_bytes(WEIGHTS)
    return tmp_path / "folder"


@pytest.fixture(scope="module")
def processes() -> Iterator[FreshProcesses]:
    """Processes that have imported what the client needs, but not the client, which reads its settings there."""
    with fresh_processes("import httpx, fsspec, tqdm.auto, yaml, packaging.version, filelock") as processes:
        yield processes


@pytest.fixture
def client(hub: Hub, tmp_path: Path, processes: FreshProcesses) -> Callable:
    def call(function: Callable, *arguments: object, token: str | None = "token-ada", home: str = "home") -> Any:
        """What the function returns, by way of JSON, called in a new process that sees this hub alone. Its source is
        all that the process gets, with that of `raised`, so it imports what it needs. Waiting before another attempt
        takes no time there."""
        environment = hub.environment(token, tmp_path / home)
        head = f"import json, os, time\nos.environ.clear()\nos.environ.update({environment!r})\n"
        head += "from collections.abc import Callable\ntime.sleep = lambda seconds: None\n"
        sources = "\n".join(dedent(inspect.getsource(one)) for one in (raised, function))
        code = f"{head}{sources}\nprint(json.dumps({function.__name__}(*{arguments!r})))"
        return json.loads(processes.run(code)[0].splitlines()[-1])

    return call


def raised(call: Callable) -> list[str]:
    """The names of the classes of what the call raises."""
    try:
        call()
    except Exception as error:
        return [one.__name__ for one in type(error).__mro__]
    return []


def push(folder: str, private: bool = False) -> str:
    from huggingface_hub import HfApi

    HfApi().create_repo("ada/repo", private=private, exist_ok=True)
    return HfApi().upload_folder(repo_id="ada/repo", folder_path=folder).oid


def push_and_catch(folder: str) -> list[str]:
    from huggingface_hub import HfApi

    HfApi().create_repo("ada/repo", exist_ok=True)
    return raised(lambda: HfApi().upload_folder(repo_id="ada/repo", folder_path=folder))


def test_a_folder_is_pushed_and_pulled(hub: Hub, client: Callable, folder: Path) -> None:
    def pull() -> list:
        from huggingface_hub import HfApi, hf_hub_download, snapshot_download

        tree = [one.path for one in HfApi().list_repo_tree("ada/repo", recursive=True)]
        titles = [commit.title for commit in HfApi().list_repo_commits("ada/repo")]
        return [snapshot_download("ada/repo"), hf_hub_download("ada/repo", "config.json"), tree, titles]

    first = client(push, str(folder))
    assert hub.commits("ada/repo")[0].sha == first
    assert hub.files("ada/repo").items() >= {"config.json": CONFIG, "sub/model.safetensors": WEIGHTS}.items()
    assert client(push, str(folder)) == first
    (folder / "config.json").write_bytes(b"{}")
    second = client(push, str(folder))
    assert second != first
    assert [request.status for request in hub.seen("PUT", CDN)] == [200]
    assert len(hub.seen("POST", "/commit/main$")) == 2

    root, config, tree, titles = client(pull)
    assert Path(root).name == second
    assert Path(root, "sub", "model.safetensors").read_bytes() == WEIGHTS
    assert Path(config).read_bytes() == b"{}"
    assert tree == [".gitattributes", "config.json", "sub", "sub/model.safetensors"]
    assert titles == ["Upload folder using huggingface_hub"] * 2 + ["initial commit"]
    assert all("Authorization" not in request.headers for request in hub.seen("GET", CDN))


def test_a_private_repository_is_its_owners(hub: Hub, client: Callable, folder: Path) -> None:
    def attempts() -> list[str]:
        from huggingface_hub import HfApi, hf_hub_download

        calls = (
            lambda: HfApi().whoami(),
            lambda: hf_hub_download("ada/repo", "config.json"),
            lambda: HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id="ada/repo"),
            lambda: HfApi().create_repo("ada/other"),
        )
        return [(raised(call) or [""])[0] for call in calls]

    client(push, str(folder), True, home="ada")
    missing, error = "RepositoryNotFoundError", "HfHubHTTPError"
    assert client(attempts, token=None) == ["LocalTokenNotFoundError", *[missing] * 3]
    assert client(attempts, token="token-bob") == ["", missing, missing, error]
    assert client(attempts, token="mistyped") == [error] * 4
    assert [request.status for request in hub.seen("POST", "/create$")] == [200, 401, 403, 401]
    assert client(attempts) == [""] * 4


def test_revisions_and_what_is_missing(hub: Hub, client: Callable) -> None:
    def attempts() -> list:
        from pathlib import Path

        from huggingface_hub import HfApi, hf_hub_download

        def read(*arguments: str, revision: str | None = None) -> str:
            return Path(hf_hub_download(*arguments, revision=revision)).read_text()

        api = HfApi()
        api.create_repo("ada/repo")
        first = api.upload_file(path_or_fileobj=b"1", path_in_repo="count", repo_id="ada/repo").oid
        api.create_branch("ada/repo", branch="more/counts")
        api.upload_file(path_or_fileobj=b"2", path_in_repo="count", repo_id="ada/repo", revision="more/counts")
        api.upload_file(path_or_fileobj=b"3", path_in_repo="count", repo_id="ada/repo")
        found = [read("ada/repo", "count", revision=one) for one in (first, "more/counts", "main")]
        branches = [one.name for one in api.list_repo_refs("ada/repo").branches]
        missing = [
            raised(lambda: read("ada/repo", "nothing"))[0],
            raised(lambda: read("ada/repo", "count", revision="nowhere"))[0],
            raised(lambda: read("ada/nobody", "count"))[0],
        ]
        api.delete_repo("ada/repo")
        return [found, branches, missing, api.repo_exists("ada/repo")]

    found, branches, missing, exists = client(attempts)
    assert (found, branches) == (["1", "2", "3"], ["main", "more/counts"])
    assert missing == ["RemoteEntryNotFoundError", "RevisionNotFoundError", "RepositoryNotFoundError"]
    assert not exists


@of_the_newest
def test_armed_answers(hub: Hub, client: Callable, folder: Path) -> None:
    """Where the client tries again, and where it raises."""

    def attempts() -> list:
        import time

        from huggingface_hub import HfApi, hf_hub_download

        calls = (
            lambda: hf_hub_download("ada/repo", "sub/model.safetensors"),
            lambda: hf_hub_download("ada/repo", "config.json"),
            lambda: HfApi().upload_file(path_or_fileobj=b"1", path_in_repo="count", repo_id="ada/repo"),
            lambda: HfApi().upload_file(path_or_fileobj=b"1", path_in_repo="count", repo_id="ada/repo"),
        )
        outcomes = []
        for call in calls:
            waits: list[float] = []
            time.sleep = waits.append
            outcomes.append([raised(call), waits])
        return outcomes

    client(push, str(folder))
    hub.fail_next("GET", CDN, 429, headers={"RateLimit": '"resolvers";r=0;t=3'})
    hub.fail_next("GET", CDN, 429, headers={"Retry-After": "7"})
    hub.fail_next("HEAD", "/config.json$", 503, times=7)
    hub.fail_next("POST", "/preupload/", 503, times=2)
    hub.fail_next("POST", "/commit/", 409)
    limited, unavailable, conflict, passed = client(attempts)
    assert limited == [[], [4, 8]]
    assert (unavailable[0][:3], unavailable[1]) == (
        ["LocalEntryNotFoundError", "FileNotFoundError", "OSError"],
        [1, 2, 4, 8, 8],
    )
    assert (conflict[0][:3], conflict[1]) == (["HfHubHTTPError", "HTTPError", "OSError"], [1, 2])
    assert passed == [[], []]


@of_the_newest
def test_downloads_that_are_cut(hub: Hub, client: Callable, folder: Path) -> None:
    def attempts() -> list:
        from huggingface_hub import hf_hub_download

        files = ("large.bin", "sub/model.safetensors", "config.json")
        return [raised(lambda file=file: hf_hub_download("ada/repo", file)) for file in files]

    large = bytes(11_000_000)  # what the client keeps of a download that is cut are whole pieces of 10 MiB
    (folder / "large.bin").write_bytes(large)
    client(push, str(folder))
    hub.cut_next("GET", CDN + hashlib.sha256(large).hexdigest(), 10_900_000)
    hub.cut_next("GET", CDN + hashlib.sha256(WEIGHTS).hexdigest(), 100_000, reset=True)
    hub.cut_next("HEAD", "/config.json$")
    resumed, reset, unanswered = client(attempts)
    assert resumed == []
    assert [(one.status, one.headers["Range"]) for one in hub.seen("GET", CDN)[:2]] == [
        (200, None),
        (206, "bytes=10485760-"),
    ]
    assert reset[:2] == ["ReadError", "NetworkError"]
    assert unanswered[:2] == ["RemoteProtocolError", "ProtocolError"]
    assert "OSError" not in reset + unanswered


@of_the_newest
def test_uploads_that_are_cut(hub: Hub, client: Callable, folder: Path) -> None:
    (folder / "other.bin").write_bytes(b"other" * 100_000)
    other = CDN + hashlib.sha256(b"other" * 100_000).hexdigest()
    hub.cut_next("PUT", other, 1000, times=99)
    assert client(push_and_catch, str(folder))[0] == "RuntimeError"
    assert [one.status for one in hub.seen("PUT", other)] == [0] * 6
    assert len(hub.commits("ada/repo")) == 1

    hub.disarm()
    hub.cut_next("POST", "/commit/", cut="answer")
    assert client(push_and_catch, str(folder))[0] == "RemoteProtocolError"
    assert len(hub.seen("PUT", CDN)) == 6 + 2
    assert hub.files("ada/repo").keys() == {".gitattributes", "config.json", "other.bin", "sub/model.safetensors"}

    assert client(push_and_catch, str(folder)) == []
    assert len(hub.seen("PUT", CDN)) == 6 + 2
    assert len(hub.commits("ada/repo")) == 2


@of_the_newest
def test_a_large_file_is_uploaded_in_parts(hub: Hub, client: Callable, folder: Path) -> None:
    hub.part_size = 100_000
    hub.cut_next("PUT", CDN + ".*/2$", 1000)
    assert client(push_and_catch, str(folder)) == []
    assert [(one.path[-2:], one.status) for one in hub.seen("PUT", CDN)] == [
        ("/1", 200),
        ("/2", 0),
        ("/2", 200),
        ("/3", 200),
    ]
    assert hub.files("ada/repo")["sub/model.safetensors"] == WEIGHTS


def test_what_was_not_uploaded_cannot_be_committed(hub: Hub, client: Callable, folder: Path) -> None:
    client(push, str(folder))
    lines: list[dict] = [{"key": "header", "value": {"summary": "Add"}}]
    lines += [{"key": "lfsFile", "value": {"path": "x.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}}]
    body = "\n".join(json.dumps(line) for line in lines)
    connection = HTTPConnection(hub.url.removeprefix("http://"))
    connection.request("POST", "/api/models/ada/repo/commit/main", body, {"Authorization": "Bearer token-ada"})
    assert connection.getresponse().status == 400
    connection.close()
    connection.request("PUT", f"/cdn/models/ada/repo/{'0' * 64}", b"x")
    assert connection.getresponse().status == 400
    connection.close()
    assert len(hub.commits("ada/repo")) == 2


@pytest.mark.slow
def test_datasets_loads_what_was_uploaded(hub: Hub, client: Callable, tmp_path: Path) -> None:
    def attempts(folder: str) -> list:
        import datasets
        from huggingface_hub import HfApi

        datasets.Dataset.from_dict({"label": [1, 2, 3]}).to_parquet(f"{folder}/data/train.parquet")
        HfApi().create_repo("ada/data", repo_type="dataset", private=True)
        HfApi().upload_folder(repo_id="ada/data", folder_path=folder, repo_type="dataset")
        streamed = datasets.load_dataset("ada/data", split="train", streaming=True)
        return [datasets.load_dataset("ada/data")["train"]["label"][:], [row["label"] for row in streamed]]

    (tmp_path / "folder" / "data").mkdir(parents=True)
    assert client(attempts, str(tmp_path / "folder")) == [[1, 2, 3], [1, 2, 3]]


@pytest.mark.slow
def test_transformers_and_timm_load_what_they_pushed(hub: Hub, client: Callable) -> None:
    def attempts() -> list[bool]:
        import timm
        from timm.models import push_to_hf_hub
        from torch import nn
        from transformers import AutoModelForImageClassification, ResNetConfig, ResNetForImageClassification

        def same(one: nn.Module, other: nn.Module) -> bool:
            pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
            return all(key == name and a.equal(b) for (key, a), (name, b) in pairs)

        config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
        model = ResNetForImageClassification(config)
        model.push_to_hub("ada/resnet")
        timm_model = timm.create_model("test_resnet.r160_in1k", num_classes=3)
        push_to_hf_hub(timm_model, "ada/timm-model", safe_serialization=True)
        return [
            same(model, AutoModelForImageClassification.from_pretrained("ada/resnet")),
            same(timm_model, timm.create_model("hf-hub:ada/timm-model", pretrained=True)),
        ]

    assert client(attempts) == [True, True]
    assert hub.files("ada/resnet").keys() == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert hub.files("ada/timm-model").keys() == hub.files("ada/resnet").keys()
