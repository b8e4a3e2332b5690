"""The table of `mergeloom merge --list`: all methods and modifiers."""

from collections.abc import Iterable
from typing import Any

from rich.markup import escape
from rich.table import Table

from mergeloom.merging.method import Method, methods, modifiers
from mergeloom.merging.parameters import describe
from mergeloom.similarity.measure import Measure, measures


def methods_table() -> Table:
    """All merge methods, with their parameters, default alpha and paper."""
    return _table("Merge methods", methods().values(), ["alpha", "models"])


def modifiers_table() -> Table:
    """All modifiers: they change what any method made, and go into --modify."""
    return _table("Modifiers (--modify)", modifiers().values(), [])


def measures_table() -> Table:
    """All measures of similarity, with their parameters and paper."""
    return _table("Measures of similarity", measures().values(), [])


def _table(title: str, entries: Iterable[Method | Measure], more: list[str]) -> Table:
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("name", no_wrap=True)
    table.add_column("what it does", ratio=3)
    table.add_column("parameters", ratio=4)
    for column in [*more, "arXiv"]:
        table.add_column(column, no_wrap=True)
    for entry in entries:
        cells = _cells(entry) if isinstance(entry, Method) else {}
        table.add_row(
            entry.name,
            escape(entry.summary),
            escape("\n".join(_parameters(entry))),
            *(cells[column] for column in more),
            entry.arxiv or "",
        )
    return table


def _cells(entry: Method) -> dict[str, str]:
    per_task = "one per task" if entry.per_task else "one"
    return {"alpha": f"{entry.alpha:g}", "models": per_task}


def _parameters(entry: Method | Measure) -> Iterable[str]:
    for name, default in entry.parameters.items():
        limit = entry.limits.get(name)
        values = f"in {limit}" if isinstance(limit, str) else describe(default, limit)
        yield f"{name} = {_shown(default)}: {values}"


def _shown(default: Any) -> str:
    """A default as one would type it."""
    if default is None or isinstance(default, bool):
        return str(default).lower()
    return str(list(default) if isinstance(default, tuple) else default)
