"""What lies in the place of a file that was never downloaded: a Git LFS pointer, or a web page."""

from __future__ import annotations

from pathlib import Path

from .. import CheckpointError

POINTER = b"version https://git-lfs.github.com/spec/"
PAGES = (b"<!doctype html", b"<html")
READ = 1024  # bytes: a page may begin with white space


def refuse_stand_in(path: Path) -> None:
    """Refuse a file that only stands for another.

    Raises:
        CheckpointError: It is a Git LFS pointer or a web page, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(READ).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror})", "Check that you may read it"
        ) from error
    if start.startswith(POINTER):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, which stands for the file and does not hold it",
            "Fetch the file with `git lfs pull` in its repository",
        )
    if start.startswith(PAGES):
        raise CheckpointError(
            f"{path} is a web page: the site answered the download with a page, of a login or an "
            "error, and not with the file",
            "Log in there, accept the licence where it asks for that, and download it again",
        )
