"""Every link inside the documentation leads somewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documentation.pages import PAGES, ROOT, anchors, links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    broken = []
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_reached_from_the_index() -> None:
    # A link to a folder reaches the pages in it, so that an algorithm's page needs no entry anywhere.
    seen, waiting = set[Path](), [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        if page.is_dir():
            waiting += page.glob("*.md")
        elif page not in seen and page.suffix == ".md":
            seen.add(page)
            names = [link.partition("#")[0] for link in links(page) if "://" not in link]
            waiting += [(page.parent / name).resolve() for name in names if name]
    docs = {page for page in PAGES if page.is_relative_to(ROOT / "docs")}
    assert [str(page.relative_to(ROOT)) for page in sorted(docs - seen)] == []
