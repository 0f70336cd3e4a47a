"""The Hugging Face Hub client: list the files of a repository and download them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from models.errors import ModelError


class UnavailableError(ModelError):
    """The repository is not available; another source may be."""


class HubError(ModelError):
    """The hub can't be reached."""


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository. `sha256` is known for large files only; `size` is bytes."""

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class Listing:
    """The files of a repository at a commit."""

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]


def list_files(repository: str, commit: str | None) -> Listing:
    """List the files of `repository` at `commit`, or at its current one. Raises UnavailableError, HubError."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - slow, and reads its settings at import time
    from huggingface_hub.hf_api import RepoFile  # noqa: PLC0415

    with _hub_errors(repository):
        hub = HfApi()
        commit = commit or hub.model_info(repository).sha or ""
        tree = hub.list_repo_tree(repository, revision=commit, recursive=True)
        files = [
            RemoteFile(item.path, item.size, item.lfs.sha256 if item.lfs else None)
            for item in tree
            if isinstance(item, RepoFile)
        ]
    return Listing(repository, commit, tuple(files))


def fetch(listing: Listing, names: Sequence[str], folder: Path, *, show_progress: bool) -> None:
    """Download the files `names` into `folder`, resuming an earlier, interrupted download.

    Raises UnavailableError, HubError; OSError if the folder can't be written to.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars  # noqa: PLC0415

    (enable_progress_bars if show_progress else disable_progress_bars)()
    with _hub_errors(listing.repository):
        snapshot_download(
            listing.repository,
            revision=listing.commit,
            local_dir=folder,
            cache_dir=folder / ".cache",
            allow_patterns=list(names),
            max_workers=4,
        )


@contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    import httpx2  # noqa: PLC0415
    from huggingface_hub import errors  # noqa: PLC0415

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it would log every retry
    try:
        yield
    except errors.GatedRepoError:
        raise UnavailableError(
            f"{repository} asks for its terms to be accepted: do so on its page, and set HF_TOKEN"
        ) from None
    except (errors.RepositoryNotFoundError, errors.DisabledRepoError):
        raise UnavailableError(f"{repository} is withdrawn, or private: the hub says 'not found'") from None
    except errors.RevisionNotFoundError:
        raise UnavailableError(f"{repository} doesn't hold the pinned commit any more") from None
    except errors.OfflineModeIsEnabled:
        raise HubError("HF_HUB_OFFLINE is set in the environment: unset it to pull") from None
    except (httpx2.HTTPError, errors.HfHubHTTPError, errors.LocalEntryNotFoundError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise HubError(
            f"can't get {repository} from the hub ({reason}). What has come is kept: pull again to go on"
        ) from error
