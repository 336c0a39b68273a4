"""The page of a card: what the pieces' files have, with tables and plots. It is rendered from the files alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu import on_paper, record
from benchmarks.gpu.record import Piece

INTRO = "Written by `{command}` from the result files in this folder."
TOY = "**Toy sizes: this page shows that every piece runs. Its figures mean nothing.**"


def write(out: Path, pieces: Mapping[str, Piece]) -> str:
    """Writes page.md and the plots into the folder, and returns the page."""
    import matplotlib

    matplotlib.use("Agg")
    kept = {name: json.loads((out / f"{name}.json").read_text()) for name in pieces if (out / f"{name}.json").exists()}
    if not kept:
        return "No piece has run yet."
    first = next(iter(kept.values()))
    small = bool(first["identity"]["small"])
    found = [f"# {first['identity']['card']}", "", INTRO.format(command=record.command(small)), ""]
    found += [TOY, ""] if small else []
    for name, piece in pieces.items():
        found += [f"## {piece.TITLE}", ""]
        if name not in kept:
            found += ["Not measured.", ""]
            continue
        found += [*_section(name, piece, kept[name], out), ""]
    found += ["## Minutes", "", *on_paper.lines({name: one["cells"] for name, one in kept.items()}, pieces), ""]
    page = "\n".join(found).rstrip() + "\n"
    (out / "page.md").write_text(page)
    return page


def _section(name: str, piece: Piece, kept: dict[str, Any], out: Path) -> list[str]:
    cells = {cell: figures for cell, figures in kept["cells"].items() if "error" not in figures}
    found = list(piece.lines(cells))
    picture = out / f"{name}.png"
    if piece.plot(cells, picture):
        found += ["", f"![{piece.TITLE}]({picture.name})"]
    else:
        picture.unlink(missing_ok=True)
    errors = [f"- {cell}: `{one['error']}`" for cell, one in kept["cells"].items() if "error" in one]
    missing = [cell for cell in piece.cells(kept["identity"]["small"]) if cell not in kept["cells"]]
    unfinished = [f"{cell}, {one['unfinished']}" for cell, one in kept["cells"].items() if "unfinished" in one]
    found += ["", "Failed:", "", *errors] if errors else []
    found += ["", f"Not measured yet: {'; '.join([*missing, *unfinished])}."] if missing or unfinished else []
    return [*found, "", record.of_card(kept)]
