"""Documents that stand beside docs/ become pages too, and links between the two hold in a repository viewer and in the site."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {
    "cluster/README.md": "on_a_cluster.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
"""From the path of a document in the repository to that of its page."""

FRONT = {"README.md": "index.md"}
"""The site has a front page of its own."""

PLACES = {page: document for document, page in PAGES.items()}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|[/#])([^)\s#]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for document, page in PAGES.items():
        path = Path(config.config_file_path).parent / document
        files.append(File.generated(config, page, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    place = PLACES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def of_the_site(link: re.Match[str]) -> str:
        """What the link's target in the repository is called in the site; other links are left for mkdocs to judge."""
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), link[1]))
        name = {**PAGES, **FRONT}.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
        return link[1] if name is None else posixpath.relpath(name, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(of_the_site, markdown)
