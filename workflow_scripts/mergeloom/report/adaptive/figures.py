"""All figures of a study of adapters but that of corrupted images, from the files of its rules."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from mergeloom.io.jsonfile import read_json
from mergeloom.report.adaptive.coefficients import coefficients
from mergeloom.report.adaptive.cost import cost
from mergeloom.report.adaptive.curves import curves
from mergeloom.report.adaptive.layers import layers
from mergeloom.report.adaptive.study import (
    SCHEMA,
    label,
    read_coefficients,
    read_curve,
    source_of,
)
from mergeloom.report.adaptive.tables import read_summary


def draw(
    summary: str,
    results: Sequence[str],
    coefficients_of: Sequence[str],
    curves_of: Sequence[str],
    tasks: Sequence[str],
    subject: str = "",
) -> dict[str, Figure]:
    """Draw cost, curves, coefficients and layers, each figure by its name.

    Parameters
    ----------
    summary : path of the summary.
    results, coefficients_of : paths of what was evaluated, of the same adapters in the same order,
        those of another encoder among them.
    curves_of : paths of the curves of the study's own adapters, in the order of `results`.

    Raises
    ------
    MergeloomError – a file is not what it should be, see `mergeloom.report.adaptive.study`.
    """
    found = [read_json(path, SCHEMA) for path in results]
    evaluated = {label(result["adapter"]["name"], source_of(result)): result for result in found}
    chosen = {
        name: read_coefficients(path, tasks)
        for name, path in zip(evaluated, coefficients_of, strict=True)
    }
    own = {name: result for name, result in evaluated.items() if not source_of(result)}
    adapted = {
        name: (own[name], read_curve(path, tasks))
        for name, path in zip(own, curves_of, strict=True)
    }
    parameters = {name: result["adapter"]["parameters"] for name, result in evaluated.items()}
    before = {name: given["init"] for name, given in parameters.items() if "init" in given}
    return {
        "cost": cost(read_summary(summary), subject),
        "curves": curves(adapted, tasks, subject),
        "coefficients": coefficients(chosen, tasks, subject),
        "layers": layers(chosen, tasks, before, subject),
    }
