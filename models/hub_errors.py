"""What goes wrong between a repository's name and its files, each in one line with its remedy."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from typing import Any

from .. import CheckpointError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@contextlib.contextmanager
def told(repository: str, revision: str) -> Iterator[None]:
    """Turn what goes wrong when a hub is asked into one line.

    Raises:
        CheckpointError: The repository or revision is not to be had, or the hub is none.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The bases are the HTTP client's own error, whichever that is, and OSError.
    failures: tuple[Any, ...] = (HFValidationError, *HfHubHTTPError.__bases__)
    try:
        yield
    except failures as error:
        raise _why(error, repository, revision) from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise no_hub(str(error) or type(error).__name__) from error


def no_hub(found: str) -> CheckpointError:
    """The error of an answer that no hub gives, such as a page to log in to."""
    from huggingface_hub import constants

    return CheckpointError(
        f"{constants.ENDPOINT} does not answer as a hub does ({found})",
        "Check HF_ENDPOINT and what stands between, such as a proxy or a page to log in to",
    )


def not_cached(problem: str) -> CheckpointError:
    """The error of what offline mode does not find."""
    return CheckpointError(
        f"{problem}, and HF_HUB_OFFLINE forbids to ask for it",
        "Check the name, or run once without HF_HUB_OFFLINE, or copy the cache of a machine that "
        "has it and name its folder with HF_HOME",
    )


def _why(error: Exception, repository: str, revision: str) -> CheckpointError:
    from huggingface_hub import constants, errors

    hub = constants.ENDPOINT
    if isinstance(error, errors.HFValidationError):
        return CheckpointError(
            f"There is no {repository} here, and a repository cannot have that name",
            "Check the path, or name a repository as OWNER/NAME",
        )
    if isinstance(error, errors.GatedRepoError):  # first: it is a RepositoryNotFoundError too
        return CheckpointError(
            f"{repository} is gated: its owner gives it to those who accept its terms",
            f"Accept them at {hub}/{repository}, then {LOG_IN}",
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(
            f"There is no {repository} here, and none that you may read on {hub}",
            f"Check the name; for a private one {LOG_IN}",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(
            f"{repository} has no revision {revision}",
            f"Name a branch, tag or commit of {hub}/{repository} with `--revision`",
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return CheckpointError(
            f"{repository} at {revision} lacks a file that its own lists name",
            f"Look at {hub}/{repository}, or name another revision with `--revision`",
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _answered(error.response.status_code, repository, hub)
    if isinstance(error, OSError) and error.errno in DISK:
        return CheckpointError(
            f"{repository} cannot be kept in {constants.HF_HUB_CACHE} ({error.strerror})",
            "Free some space there, or name another place with HF_HOME",
        )
    if constants.HF_HUB_OFFLINE:
        return not_cached(f"huggingface_hub's cache lacks a file of {repository}")
    if isinstance(error.__cause__, errors.HfHubHTTPError):  # of a file that is not in the cache
        return _answered(error.__cause__.response.status_code, repository, hub)
    if isinstance(error.__cause__, errors.FileMetadataError):
        return no_hub(str(error.__cause__))
    if isinstance(error, OSError) and not isinstance(error, (FileNotFoundError, ConnectionError)):
        return CheckpointError(
            f"What {hub} sent of {repository} is not whole ({error})", "Try again later"
        )
    return CheckpointError(
        f"{repository} is not here, or not whole, and {hub} cannot be reached "
        f"({type(error.__cause__ or error).__name__})",
        "Check the name and the network; HF_HUB_OFFLINE=1 takes what the cache has, and "
        "HF_ENDPOINT names another hub",
    )


def _answered(status: int, repository: str, hub: str) -> CheckpointError:
    if status == 401:
        return CheckpointError(
            f"{hub} does not take the token that is set (401)",
            "Log in anew with `hf auth login`, or take HF_TOKEN out of the environment",
        )
    return CheckpointError(
        f"{hub} answers with {status} when asked for {repository}",
        "Try again later, or name another hub with HF_ENDPOINT",
    )
