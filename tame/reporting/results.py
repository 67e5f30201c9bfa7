"""A comparison as data: what each run measured, and how it differs from a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from tame.evaluation.records import Estimate
from tame.metrics import Measure

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["win", "tie", "loss"]


class Comparison(NamedTuple):
    """Difference to the reference run in percentage points, its 95 % interval, and which of the two is better."""

    difference: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True)
class Entry:
    """One run in a table.

    Attributes:
        name: Name of its method in the field, such as Grad-CAM++; with its folder where a name occurs twice.
        key: The same with the method's id, such as gradcam++, for files.
        preset: Its preset, with the changes of it.
        control: Whether it is a control, which bears no marks.
        images: Images that entered its measures.
        invalid: How many of their maps held NaN or infinite values and were counted as all ones: such a run bears no
            marks and no verdict.
        estimates: One per measure; None where the measure means nothing.
        comparisons: One per measure, against the reference; None for the reference itself, without a reference, and
            where there is no estimate or no interval.
        cost: Means per image by name, see `tame.evaluation.records.Summary`.
    """

    name: str
    key: str
    preset: str
    control: bool
    images: int
    invalid: int
    estimates: list[Estimate | None]
    comparisons: list[Comparison | None]
    cost: dict[str, float]


@dataclass(frozen=True)
class Table:
    """Every measure of several runs over the same images.

    Attributes:
        caption: What all runs share.
        measures: The measures, also those that only the CSV file contains.
        entries: The runs, in the order of the rows.
        reference: Position of the reference run, None without one.
        notes: Remarks below the table.
    """

    caption: str
    measures: list[Measure]
    entries: list[Entry]
    reference: int | None
    notes: list[str]

    def frame(self) -> pd.DataFrame:
        """Return a row per method and a column per measure, in percent; NaN where a measure means nothing.

        The index is the method's name, the columns are ``images`` and the measures' names, such as ``minmax/AD_15``.
        """
        import pandas as pd

        names = [measure.name for measure in self.measures]
        rows = [
            [entry.images, *(float("nan") if each is None else each.value for each in entry.estimates)]
            for entry in self.entries
        ]
        index = pd.Index([entry.name for entry in self.entries], name="method")
        return pd.DataFrame(rows, index=index, columns=["images", *names])

    def long_frame(self) -> pd.DataFrame:
        """Return a row per run and measure, and one per run and cost, such as ``cost/explain_forward``.

        Columns are ``method``, ``preset``, ``measure``, ``better`` (higher or lower), ``value`` and ``standard_error``
        in percent (costs: per image, without an error), and with a reference ``difference``, ``low``, ``high`` and
        ``verdict``. Cells without a meaning are missing values.
        """
        import pandas as pd

        columns = ["method", "preset", "measure", "better", *Estimate._fields, *Comparison._fields]
        rows: list[list[object]] = []
        for entry in self.entries:
            for measure, estimate, comparison in zip(self.measures, entry.estimates, entry.comparisons, strict=True):
                better = "higher" if measure.higher_is_better else "lower"
                numbers = [*(estimate or (None,) * 2), *(comparison or (None,) * 4)]
                rows.append([entry.key, entry.preset, measure.name, better, *numbers])
            for name, value in entry.cost.items():
                rows.append([entry.key, entry.preset, f"cost/{name}", "lower", value, *(None,) * 5])
        return pd.DataFrame(rows, columns=columns)
