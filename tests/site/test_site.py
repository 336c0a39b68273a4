"""The built documentation in site/ has no broken link, and loads nothing from another host.

`zensical build --strict` fails for a link to a missing page or anchor. It accepts a missing image, a link to a missing
file, and a missing page in the navigation, so the built pages are checked as well.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.paths import ROOT
from tests.site.pages import problems

SITE = ROOT / "site"
SETTINGS = """\
site_name: small
theme: {name: material, font: false}
markdown_extensions: [attr_list]
nav: [index.md, second.md]
"""
DEFECTS = {
    "page": "[a](missing.md)",
    "anchor of another page": "[a](second.md#missing)",
    "anchor of the same page": "[a](#missing)",
    "file": "[a](missing.yaml)",
    "folder": "[a](missing/)",
    "path from the root": "[a](/missing)",
    "image": "![a](missing.png)",
    "image in HTML": '<img src="missing.png">',
    "image for a dark screen": '<picture><source srcset="missing.png"><img src="image.png"></picture>',
    "link in HTML": '<a href="../missing/">a</a>',
    "image of another host": "![a](https://example.org/image.png)",
    "script of another host": '<script src="https://example.org/a.js"></script>',
    "Mermaid diagram": '<pre class="mermaid"><code>graph LR</code></pre>',
}


def build(folder: Path, text: str = "", settings: str = SETTINGS) -> list[str]:
    """Build a site of two pages, and return what is wrong with it."""
    (folder / "docs").mkdir()
    (folder / "mkdocs.yml").write_text(settings)
    (folder / "docs" / "image.png").touch()
    (folder / "docs" / "index.md").write_text(f"# Home\n\n## Part\n\n[a](second.md#part) ![a](image.png)\n\n{text}\n")
    (folder / "docs" / "second.md").write_text("# Second\n\n## Part\n\n[a](index.md#part) [b](image.png)\n")
    command = [Path(sys.executable).parent / "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        assert "--strict flag is set" in done.stderr, done.stderr
        return [done.stdout]
    return problems(folder / "site")


def test_the_documentation_has_no_problems():
    assert SITE.exists(), "there is no site/: build it with `zensical build --strict`, or with `make docs`"
    assert problems(SITE) == []


def test_a_site_without_defects_has_no_problems(tmp_path):
    assert build(tmp_path) == []


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_on_a_page_is_found(tmp_path, defect):
    assert len(build(tmp_path, DEFECTS[defect])) == 1


def test_a_missing_page_in_the_navigation_is_found(tmp_path):
    assert build(tmp_path, settings=SETTINGS.replace("second.md", "second.md, missing.md"))


def test_a_web_font_is_found(tmp_path):
    assert any("another host" in problem for problem in build(tmp_path, settings=SETTINGS.replace(", font: false", "")))
