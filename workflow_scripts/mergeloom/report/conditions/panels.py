"""What the figures of a study of conditions share: panels by factor, looks, keys."""

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from mergeloom.report import style
from mergeloom.report.conditions.design import BASE, Design, Group


class Mark(NamedTuple):
    """A selection's marker, its size in points, and what it takes, in words."""

    marker: str
    size: float
    words: str


SELECTIONS: Final = {
    "last": Mark("s", 8.5, "last epoch"),
    "max_val": Mark("o", 6.8, "highest validation accuracy (max_val)"),
    "max_fim": Mark("^", 5.6, "highest log-trace (max_fim)"),
}


def mark(selection: str, color: str, hollow: bool = False) -> dict[str, Any]:
    """Look of a selection's point. Those of one epoch are nested, so that each is seen."""
    marker, size, _ = SELECTIONS[selection]
    return {
        "marker": marker,
        "markersize": size,
        "markerfacecolor": "white" if hollow else color,
        "markeredgecolor": color if hollow else "white",
        "markeredgewidth": 0.9 if hollow else 0.6,
        "linestyle": "",
        "zorder": 20 - size,
    }


def key_of_selections(selections: Sequence[str]) -> list[Line2D]:
    """Handles that say which marker is which selection."""
    return [
        Line2D([], [], **mark(selection, "#555555"), label=SELECTIONS[selection].words)
        for selection in selections
    ]


def panels(fig: Figure, rows: int, design: Design, by_levels: bool, **share: Any) -> Any:
    """Axes [rows, groups]; with `by_levels`, a group is as wide as it has levels."""
    widths = [len(group.levels) + 0.6 if by_levels else 1 for group in design.groups]
    return fig.subplots(rows, len(widths), squeeze=False, width_ratios=widths, **share)


def dashes(design: Design, variant: str) -> Any:
    """Line style of a variant: solid where nothing is crossed."""
    return style.DASHES[design.variants.index(variant) % len(style.DASHES)]


def key_of_levels(axes: Axes, group: Group, above: float) -> None:
    """Write over a panel which colour is which value of its factor, `above` points higher."""
    figure: Any = axes.get_figure()
    handles = [
        Line2D(
            [],
            [],
            color=level.color,
            label=f"{level.label} (base)" if level.is_base and level.label != BASE else level.label,
        )
        for level in group.levels
    ]
    columns = min(len(handles), 5)
    axes.legend(
        # A legend is filled column by column; values are read line by line.
        handles=[handle for column in range(columns) for handle in handles[column::columns]],
        title=group.title,
        alignment="left",
        title_fontproperties={"size": 9, "weight": "bold"},
        loc="lower left",
        bbox_to_anchor=(0, 1),
        bbox_transform=axes.transAxes + ScaledTranslation(0, above / 72, figure.dpi_scale_trans),
        ncols=columns,
        fontsize=8,
        handlelength=1.1,
        handletextpad=0.5,
        columnspacing=0.9,
        borderpad=0,
        borderaxespad=0,
    )


def key_of_variants(design: Design) -> list[Line2D]:
    """Handles that say which dash is which variant; none where there is but one."""
    if len(design.variants) == 1:
        return []
    return [
        Line2D([], [], color="#555555", linestyle=dashes(design, variant), label=variant)
        for variant in design.variants
    ]


def row_title(axes: Axes, title: str) -> None:
    """Head a row of panels at its left end, beside the label of the axis."""
    axes.annotate(
        title,
        (0, 0.5),
        xycoords="axes fraction",
        xytext=(-46, 0),
        textcoords="offset points",
        rotation=90,
        ha="right",
        va="center",
        fontweight="bold",
    )


def words_of(selections: Sequence[str]) -> list[str]:
    """Selections as rows of panels are headed."""
    return [
        SELECTIONS[selection].words if selection in SELECTIONS else selection
        for selection in selections
    ]
