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
    """Folders of memkit that export names, in dotted form, and public files."""
    folders = [file.parent for file in (ROOT / "memkit").glob("*/**/__init__.py") if exported(file)]
    return sorted([*(".".join(folder.relative_to(ROOT / "memkit").parts) for folder in folders), *FILES])


def exported(file: Path) -> list[str]:
    """The names in ``__all__`` of a file."""
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return list(ast.literal_eval(node.value)) if isinstance(node.value, ast.List) else []
    return []


def names(room: str) -> list[str]:
    """The public names of a room or of a file."""
    folder = (ROOT / "memkit").joinpath(*room.split("."))
    if folder.is_dir():
        return sorted(exported(folder / "__init__.py"))
    body = ast.parse(folder.with_suffix(".py").read_text(encoding="utf-8")).body
    defined = [node.name for node in body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return sorted(name for name in defined if not name.startswith("_"))


def index() -> str:
    """All public names by room, each with a link."""
    lines = ["# API reference", "", "Every public name, by the room of memkit that has it.", ""]
    for room in rooms():
        links = ", ".join(_link(room, name) for name in names(room))
        lines.append(f"- [`memkit.{room}`]({room}.md)" + (f": {links}" if links else ""))
    return "\n".join(lines) + "\n"


def _link(room: str, name: str) -> str:
    """To a name in the page of its room; to the page where a file of the room has the name, too."""
    file = (ROOT / "memkit").joinpath(*room.split("."), f"{name}.py")
    anchor = "" if file.exists() else f"#memkit.{room}.{name}"
    return f"[`{name}`]({room}.md{anchor})"


def _inside(markdown: str, folder: Path) -> str:
    def kept(match: re.Match[str]) -> str:
        text, target = match[1], match[2].partition("#")[0]
        file = (folder / target).resolve()
        page = (ROOT / "docs") in file.parents or target.startswith("api/") or not target
        return match[0] if page else text

    return LINK.sub(kept, markdown)
