"""Text tables of scripts: means over seeds with their standard errors."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from inference import Estimate

Row = Mapping[str, str | float | Estimate]  # by column; an estimate has a standard error


def mean_and_error(runs: Iterable[Mapping[str, float]], name: str) -> Estimate:
    """Mean of a metric, NaN if a run lacks the metric, and standard error, NaN for one run."""
    values = np.array([metrics.get(name, math.nan) for metrics in runs])
    has_error = len(values) > 1 and np.isfinite(values).all()
    error = values.std(ddof=1) / math.sqrt(len(values)) if has_error else math.nan
    return Estimate(float(values.mean()) if len(values) else math.nan, float(error))


def cell(mean: float, error: float = math.nan) -> str:
    """A number with its standard error in a table; a dash for NaN."""
    if math.isnan(mean):
        return "-"
    return f"{mean:.3g}" if math.isnan(error) else f"{mean:.3g} ± {error:.1g}"


def summary(runs: Sequence[Mapping[str, float]]) -> dict[str, Estimate]:
    """Mean of each metric over runs, with the standard error."""
    return {name: mean_and_error(runs, name) for name in runs[0]}


def over_seeds(rows: Sequence[Mapping[str, Estimate]]) -> dict[str, Estimate]:
    """Means over runs with standard errors over runs, or the row of the only run."""
    values = [{name: estimate.value for name, estimate in row.items()} for row in rows]
    return summary(values) if len(rows) > 1 else dict(rows[0])


def table_of(title: str, rows: Mapping[str, Row]) -> str:
    """Title, and a table of rows by name; a dash where a row lacks a column."""

    def shown(value: str | float | Estimate) -> str:
        if isinstance(value, str):
            return value
        return cell(*value) if isinstance(value, Estimate) else cell(value)

    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = {name: [shown(row.get(key, "-")) for key in columns] for name, row in rows.items()}
    return f"{title}\n{text_table(columns, cells)}"


def text_table(columns: Sequence[str], rows: Mapping[str, Sequence[str] | str]) -> str:
    """Table with a header; a row, by name, is the cells of the columns or a text in their place."""
    name_width = max(map(len, rows), default=0)
    cells = [row for row in rows.values() if not isinstance(row, str)]
    widths = [max(map(len, texts)) for texts in zip(columns, *cells, strict=True)]
    lines = []
    for name, row in {"": columns, **rows}.items():
        if not isinstance(row, str):
            row = "  ".join(map(str.rjust, row, widths))
        lines.append(f"{name:{name_width}}  {row}")
    return "\n".join(lines)
