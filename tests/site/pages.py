"""Checks built HTML pages: what they link to exists, and no browser has to load anything from another host."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes whose address a browser loads with the page, and the tags that have them.
LOADED = {"src": {"img", "script", "source", "iframe", "video", "audio"}, "srcset": {"img", "source"}}


class Page(HTMLParser):
    """One page's identifiers, the addresses that it links to, and the addresses that it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.linked: list[str] = []
        self.loaded: list[str] = []
        self.uses_mermaid = False
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.ids |= {attributes[name] for name in ("id", "name") if name in attributes}
        self.uses_mermaid |= "mermaid" in attributes.get("class", "").split()
        if tag == "a" and "href" in attributes:
            self.linked.append(attributes["href"])
        if tag == "link" and attributes.get("rel") not in ("canonical", "next", "prev"):
            self.loaded.append(attributes["href"])
        for name, tags in LOADED.items():
            if tag in tags and name in attributes:
                self.loaded += [one.split()[0] for one in attributes[name].split(",") if one.strip()]


def problems(site: Path) -> list[str]:
    """One line for each address on a page of the site that leads nowhere, or that a browser loads from elsewhere."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        where = path.relative_to(site)
        if page.uses_mermaid:  # Zensical's script loads Mermaid when a page has a diagram
            found.append(f"{where}: a Mermaid diagram is drawn by a script from unpkg.com")
        for address in page.loaded:
            if urlsplit(address).netloc:
                found.append(f"{where}: loads {address} from another host")
        for address in page.linked + page.loaded:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                target = (site if parts.path.startswith("/") else path.parent) / unquote(parts.path).lstrip("/")
                target = (target / "index.html" if target.is_dir() else target).resolve()
            if not target.is_file():
                found.append(f"{where}: {address} does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                found.append(f"{where}: {address} has no such anchor")
    return found
