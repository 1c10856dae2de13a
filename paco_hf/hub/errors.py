"""What the errors of the Hub mean, in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

_HINTS = {
    401: "log in with `hf auth login`, or set HF_TOKEN to a token with write access",
    403: "the token has no permission: use a token with write access to this namespace",
    404: "the repository, revision or file does not exist, or the token cannot access it: check the name and the "
    "token",
    409: "it is in use, or exists with another type: try again, or choose another name",
    429: "too many requests: try again in a few minutes",
}


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn errors of the Hub and of the network into an `OSError` of one line that starts with `what`."""
    try:
        yield
    except ValueError as error:  # HFValidationError, and what else the client says of a name
        raise ValueError(f"{what}: {error}") from error
    except LocalTokenNotFoundError as error:
        raise OSError(f"{what}: not logged in: {_HINTS[401]}") from error
    except (HTTPError, OSError, RuntimeError) as error:  # the client's own, its files', and those of its uploads
        chain: list[BaseException] = [error]
        while chain[-1].__cause__ is not None:
            chain.append(chain[-1].__cause__)
        if answer := next((cause for cause in chain if isinstance(cause, HfHubHTTPError)), None):
            status = answer.response.status_code
            hint = _HINTS.get(status, "the Hub has a problem: try again; files it has received are not sent again")
            reason = answer.server_message or answer.response.reason_phrase
            raise OSError(f"{what} (HTTP {status}, {reason}): {hint}") from error
        unreachable = (HTTPError, OfflineModeIsEnabled, ConnectionError, LocalEntryNotFoundError)
        if silent := next((cause for cause in chain if isinstance(cause, unreachable)), None):
            raise OSError(
                f"{what}: the Hub cannot be reached ({type(silent).__name__}: {' '.join(str(silent).split())}); "
                "try again with network access, and without HF_HUB_OFFLINE"
            ) from error
        raise


def hub_file(repo_id: str, revision: str | None, name: str) -> Path:
    """Download a file of a repository, or take it from the cache.

    Args:
        repo_id (`str`): `user/name`.
        revision (`str`, *optional*): branch, tag or commit; `None`: the default branch.
        name (`str`): path of the file in the repository.

    Raises:
        OSError: the Hub refuses the request, or cannot be reached.
    """
    with hub_errors(f"{name} of {repo_id} cannot be downloaded"):
        return Path(hf_hub_download(repo_id, name, revision=revision))
