"""The site's pages have the places that they have in the repository, so that their links hold."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
SHOWN = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "docs/images/*",
    "docs/assets/*",
    "benchmarks/*.md",
    "benchmarks/results/*",
    "models/weights/README.md",
)
LIST_AFTER_TEXT = re.compile(r"^(?!\s*(?:[-*]|\d+\.) |\s*$|\||>|#)(.+)\n(?=(?:[-*]|1\.) )", re.M)
FENCE = re.compile(r"(^```.*?^```$)", re.M | re.S)


def on_startup(command: str, dirty: bool) -> None:
    """Lay out the package alone where its docstrings are read, before anything looks there.

    The root of the repository is the package, and whoever walks it finds environments too.
    """
    package = ROOT / ".docs" / "pitstop"
    package.mkdir(parents=True, exist_ok=True)
    for found in (ROOT / "__init__.py", *(init.parent for init in ROOT.glob("[!.]*/__init__.py"))):
        link = package / found.name
        if not link.exists():
            link.symlink_to(Path("..", "..", found.name))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The repository's pages, by their place in it, beside what the theme brings."""
    kept = [file for file in files if file.src_dir != config.docs_dir]
    pages = [
        File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path))
        for pattern in SHOWN
        for path in sorted(ROOT.glob(pattern))
        if path.is_file()
    ]
    return Files([*kept, *pages])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Markdown as GitHub reads it: linked folders, and lists that follow a line of text."""
    markdown = re.sub(r"\]\(benchmarks/\)", "](benchmarks/README.md)", markdown)
    parts = FENCE.split(markdown)
    parts[::2] = [LIST_AFTER_TEXT.sub(r"\1\n\n", part) for part in parts[::2]]
    return "".join(parts)


def on_post_build(config: MkDocsConfig) -> None:
    """Leave out the page of a server that finds none: its links begin at a server's root."""
    Path(config.site_dir, "404.html").unlink()
