"""The comparison as one HTML file: no script, nothing from a network, light or dark as the reader's system is."""

from __future__ import annotations

import importlib.resources
from html import escape

from otr_plugin.command.comparison import chart, curves, show
from otr_plugin.command.comparison.comparable import DIFFERS, SAME
from otr_plugin.command.comparison.comparison import Comparison
from otr_plugin.command.console import GOOD, PROBLEM


def written(found: Comparison) -> str:
    """The page's source."""
    style = importlib.resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    names = escape(" and ".join(run.name for run in found.runs))
    verdict = {GOOD: "good", PROBLEM: "bad"}.get(found.exit_code, "unknown")
    tables = {table.title: table for table in show.tables(found)}
    first = [_section(tables.pop(title)) for title in (show.DIFFERENCES, show.CHECKS)]
    cost = tables.pop(show.COST)
    panels = curves.panels(found)
    large = [_figure(panel.title, _drawing(panel)) for panel in panels if not panel.is_metric]
    small = [_figure(panel.title, _drawing(panel)) for panel in panels if panel.is_metric]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    body = [
        element("h1", names),
        element("p", escape(show.verdict(found)), f"verdict {verdict}"),
        *first,
        element("h2", "Curves"),
        element("p", _legend(found), "legend"),
        element("section", "".join([*large, _figure(cost.title, _table(cost))]), "large"),
        element("section", "".join(small), "small"),
        *map(_section, tables.values()),
        element("ul", "".join(element("li", escape(note)) for note in found.notes)),
        element("footer", _sources(found)),
    ]
    head = element("head", head + element("title", names) + element("style", style))
    page = element("body", element("main", "\n".join(body)))
    return "".join(["<!doctype html>", element("html", head + page), "\n"])


def element(tag: str, content: str, kind: str = "") -> str:
    """HTML around content that is HTML already."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<{tag}{attribute}>{content}</{tag}>"


def _legend(found: Comparison) -> str:
    return " ".join(element("span", element("i", "", kind) + escape(name)) for kind, name in curves.legend(found))


def _drawing(panel: curves.Panel) -> str:
    size = chart.SMALL if panel.is_metric else chart.LARGE
    return chart.draw(panel.title, (panel.x_label, panel.y_label), panel.lines, panel.has_zero, size)


def _figure(title: str, content: str) -> str:
    return element("figure", element("figcaption", escape(title)) + content)


def _section(table: show.Table) -> str:
    return element("h2", escape(table.title)) + _table(table)


def _table(table: show.Table) -> str:
    head = element("tr", "".join(element("th", escape(name)) for name in table.columns))
    rows = "".join(element("tr", "".join(map(_cell, row))) for row in table.rows)
    return element("div", element("table", element("thead", head) + element("tbody", rows)), "wide")


def _cell(text: str) -> str:
    kind = "good" if text.startswith(SAME) else "bad" if text.startswith(DIFFERS) else ""
    return element("td", escape(text), kind)


def _sources(found: Comparison) -> str:
    """Which files the figures are from."""
    lines = [f"{run.path}: {', '.join(run.sources)}" for run in found.runs]
    return "<br>".join(["Read by <code>otr compare</code>:", *map(escape, lines)])
