"""Git LFS pointers and web pages in the place of weights and configs."""

from __future__ import annotations

from pathlib import Path

import pytest
from format_helpers import refusal, write_diffusers, write_dit

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 2698300000\n"
PAGES = [
    "<!DOCTYPE html>\n<html><body>Log in</body></html>",
    "\n  <HTML>",
    "\ufeff<html lang='de'>",
]


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.ckpt"])
def test_a_pointer_of_git_lfs_is_named_with_what_fetches_the_file(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(POINTER)
    message = refusal(tmp_path / name)
    assert f"{tmp_path / name} is a Git LFS pointer" in message
    assert "`git lfs pull`" in message


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("page", PAGES)
def test_a_web_page_is_named_with_how_it_came_about(name: str, page: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(page)
    message = refusal(tmp_path / name)
    assert f"{tmp_path / name} is a web page" in message
    assert "Log in there" in message


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_in_a_folder_the_file_is_named(name: str, tmp_path: Path) -> None:
    write_diffusers(tmp_path)
    (tmp_path / name).write_text(POINTER)
    assert f"{tmp_path / name} is a Git LFS pointer" in refusal(tmp_path)


def test_a_file_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    write_dit(tmp_path / "a.pt")
    monkeypatch.setattr(Path, "open", refuse)
    message = refusal(tmp_path / "a.pt")
    assert "a.pt cannot be read (Permission denied). Check that you may read it" in message
