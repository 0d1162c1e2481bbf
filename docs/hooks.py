"""Hooks of the documentation site: the README is its first page, and each room has a page of the reference."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
FILES = ("attention", "errors", "flow", "memory")
"""Files of memkit itself that have public names."""
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that have no file in docs/."""
    readme = _inside((ROOT / "README.md").read_text(encoding="utf-8"), ROOT).replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    for room in rooms():
        page = f"# `memkit.{room}`\n\n::: memkit.{room}\n"
        files.append(File.generated(config, f"api/{room}.md", content=page))
    files.append(File.generated(config, "api/index.md", content=index()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave the text of links to files of the repository that are no pages."""
    return _inside(markdown, (ROOT / "docs" / page.file.src_uri).parent)


def rooms() -> list[str]:
    """Folders of memkit that export names, and public files."""
    folders = [file.parent.name for file in (ROOT / "memkit").glob("*/__init__.py") if exported(file)]
    return sorted([*folders, *FILES])


def exported(file: Path) -> list[str]:
    """The names in ``__all__`` of a file."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value)) if isinstance(node.value, ast.List) else []
    return []


def index() -> str:
    """All public names by room, each with a link."""
    lines = ["# API reference", "", "Every public name, by the room of memkit that has it.", ""]
    for room in rooms():
        file = ROOT / "memkit" / room / "__init__.py"
        links = ", ".join(_link(room, name) for name in sorted(exported(file) if file.exists() else []))
        lines.append(f"- [`memkit.{room}`]({room}.md)" + (f": {links}" if links else ""))
    return "\n".join(lines) + "\n"


def _link(room: str, name: str) -> str:
    """To a name in the page of its room; to the page where a file of the room has the name, too."""
    anchor = "" if (ROOT / "memkit" / room / f"{name}.py").exists() else f"#memkit.{room}.{name}"
    return f"[`{name}`]({room}.md{anchor})"


def _inside(markdown: str, folder: Path) -> str:
    def kept(match: re.Match[str]) -> str:
        text, target = match[1], match[2].partition("#")[0]
        file = (folder / target).resolve()
        page = (ROOT / "docs") in file.parents or target.startswith("api/") or not target
        return match[0] if page else text

    return LINK.sub(kept, markdown)
