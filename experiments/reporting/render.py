"""Table 1 as text: for the terminal, as Markdown and as LaTeX."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import pandas as pd

from experiments.reporting.predictors import TRIVIAL, label
from leep.statistics import FEWEST_TASKS

CAPTION = (
    "Pearson correlation of each measure with the test accuracy (imbalanced: test F1 of the minority class) of the "
    "transferred models, [95 % bootstrap interval over tasks], the paper's value and ours less the paper's. "
    "Bold: best of the row; *: p > 0.05; —: not computed."
)
CONTROLS = (
    "Predictors that look at no image, what is left of each measure's correlation given the logarithm of the number of "
    "classes (where that varies), and differences between correlations, [95 % interval of a paired bootstrap over "
    "tasks]. *: p > 0.05; —: undefined, one of the two is the same for all tasks."
)
CLASS_SETS = (
    "Several tasks of a row may have the same classes, and are not independent then. These 95 % intervals resample the "
    "distinct sets of classes, each with all its tasks."
)


FEW_TASKS = f"A correlation over fewer than {FEWEST_TASKS} tasks says nothing: the scores and accuracies of the tasks."


@dataclass(frozen=True)
class Cell:
    """The text of one correlation; empty where there is none."""

    measure: str  # its label
    r_value: float | str  # to sort by
    r: str  # with * if p > 0.05
    interval: str
    paper: str
    difference: str
    p_value: str
    is_best: bool


@dataclass(frozen=True)
class Row:
    """The text of a row of Table 1, and `first`, the first of its lines of the table."""

    first: pd.Series
    cells: list[Cell]
    notes: str

    def value(self, column: str) -> str:
        """A column that all lines of the row share; empty where it is absent."""
        return "" if pd.isna(self.first[column]) else str(self.first[column])

    @property
    def is_computed(self) -> bool:
        """Whether a run stands for the row."""
        return pd.notna(self.first.run)

    @property
    def source(self) -> str:
        """The source model that was run, and the data that it was trained on."""
        return f"{self.first.run_model}, {self.first.run_data}" if self.is_computed else ""

    @property
    def paper_source(self) -> str:
        """The paper's."""
        return f"{self.first.source_model}, {self.first.source_data}"


def signed(value: float, digits: int = 3) -> str:
    """Format a number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def interval(low: float, high: float, digits: int = 2) -> str:
    """Format an interval; empty where there is none."""
    return "" if pd.isna(low) else f"[{signed(low, digits)}, {signed(high, digits)}]"


def p_text(p_value: float) -> str:
    """Format a p-value."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def starred(r: float, p_value: float, missing: str = "—") -> str:
    """Format a correlation or a difference of two, with * where p > 0.05."""
    return missing if pd.isna(r) else signed(r) + ("*" if p_value > 0.05 else "")


def notes(table: pd.DataFrame) -> dict[str, str]:
    """A letter for each deviation from the paper, in the order of the rows."""
    deviations = dict.fromkeys(d for of_row in table.deviations for d in of_row)
    return {deviation: _letters(i) for i, deviation in enumerate(deviations)}


def _letters(i: int) -> str:
    """a, b, … z, aa, ab, …"""
    return (_letters(i // 26 - 1) if i >= 26 else "") + chr(ord("a") + i % 26)


def measures_of(table: pd.DataFrame) -> list[str]:
    """The measures of a table, in its order."""
    return [measure for measure in table.measure.unique() if measure not in TRIVIAL]


def table_rows(table: pd.DataFrame) -> list[Row]:
    """The 21 rows as text."""
    letters, rows = notes(table), []
    for _, lines in table[~table.measure.isin(TRIVIAL)].groupby("row"):
        first, best = lines.iloc[0], lines.r.round(3).max()
        cells = [_cell(line, best) for line in lines.itertuples()]
        of_row = sorted(
            (letters[deviation] for deviation in first.deviations), key=lambda letter: (len(letter), letter)
        )
        rows.append(Row(first, cells, " ".join(of_row)))
    return rows


def _cell(line, best: float) -> Cell:
    return Cell(
        measure=label(line.measure),
        r_value="" if pd.isna(line.r) else line.r,
        r=starred(line.r, line.p_value, "undefined" if is_enough(line.n_tasks) else "—"),
        interval=interval(line.r_low, line.r_high),
        paper="" if pd.isna(line.paper_r) else signed(line.paper_r) + ("" if line.paper_significant else "*"),
        difference="" if pd.isna(line.difference) else signed(line.difference),
        p_value="" if pd.isna(line.p_value) else p_text(line.p_value),
        is_best=round(line.r, 3) == best,
    )


def controls(table: pd.DataFrame) -> list[list[str]]:
    """A header and the computed rows: trivial predictors, partial correlations, paired differences."""
    measures = measures_of(table)
    others = [predictor for predictor in (*measures, TRIVIAL[0]) if predictor != "leep"]
    rows = [["Row", *map(label, (*measures, *TRIVIAL)), *(f"{label(m)} given classes" for m in measures)]]
    rows[0] += [f"LEEP − {label(other)}" if other in measures else f"LEEP − ({label(other)})" for other in others]
    for number, lines in correlated(table).groupby("row"):
        by = lines.set_index("measure")
        cells = [starred(by.r[p], by.p_value[p]) for p in (*measures, *TRIVIAL)]
        cells += [starred(by.partial_r[m], by.partial_p[m]) for m in measures]
        for other in others:
            spread = interval(by.leep_better_low[other], by.leep_better_high[other], 3)
            cells.append(f"{starred(by.leep_better_by[other], by.leep_better_p[other])} {spread}".strip())
        rows.append([str(number), *cells])
    return rows


def is_enough(n_tasks: int) -> bool:
    """Whether a correlation is computed over so many tasks; absent where there are none."""
    return pd.notna(n_tasks) and n_tasks >= FEWEST_TASKS


def correlated(table: pd.DataFrame) -> pd.DataFrame:
    """The lines of the rows that have enough tasks for correlations."""
    return table[table.n_tasks.map(is_enough).groupby(table.row).transform("any")]


def few_tasks(table: pd.DataFrame) -> list[list[str]]:
    """A header, and the points of the rows that have too few tasks."""
    lines = table[table.n_tasks.notna() & ~table.n_tasks.map(is_enough) & ~table.measure.isin(TRIVIAL)]
    return [
        ["Row", "Measure", "Points"],
        *([str(n), label(m), p] for n, m, p in zip(lines.row, lines.measure, lines.missing)),
    ]


def class_sets(table: pd.DataFrame) -> list[list[str]]:
    """A header and the rows whose tasks' classes are recorded: intervals over sets of classes."""
    measures = measures_of(table)
    rows = [["Row", "Tasks", "Class sets", *map(label, measures)]]
    for number, lines in table[table.n_class_sets.notna()].groupby("row"):
        by, first = lines.set_index("measure").reindex(measures), lines.iloc[0]
        spreads = [interval(by.r_low_sets[m], by.r_high_sets[m]) or "—" for m in measures]
        rows.append([str(number), str(first.n_tasks), str(first.n_class_sets), *spreads])
    return rows


def summary(table: pd.DataFrame) -> list[str]:
    """In how many rows LEEP has the largest correlation, and in how many the paper's values are within our error."""
    lines = table[~table.measure.isin(TRIVIAL)]
    counts = []
    for where, column in (("here", "r"), ("in the paper", "paper_r")):
        wide = lines.pivot(index="row", columns="measure", values=column).astype(float).round(3).dropna(subset="leep")
        best = (wide.leep >= wide.max(axis=1)).sum()
        alone = (wide.leep > wide.drop(columns="leep").fillna(-2).max(axis=1)).sum()
        counts.append(f"{where} in {best} of {len(wide)} rows ({alone} of them without a tie)")
    sentences = [
        f"LEEP has the largest of the correlations {', '.join(counts)}. "
        "The authors' announcement counts 15 of 23 comparisons; Table 1 has 21 rows."
    ]
    for measure, of_measure in lines[lines.paper_inside.notna()].groupby("measure", sort=False):
        inside, alike = of_measure.paper_inside.astype(bool), of_measure.fisher_z_p > 0.05
        sentences.append(
            f"{label(measure)}: the paper's value is inside our interval in {_of(of_measure.row, inside)}; "
            f"counting the paper's own sampling error too (Fisher's z, p > 0.05) the two agree in "
            f"{_of(of_measure.row, alike)}."
        )
    return sentences


def _of(rows: pd.Series, chosen: pd.Series) -> str:
    """How many rows are chosen, and which: "2 of 5 rows (1, 19)"."""
    numbers = f" ({', '.join(map(str, rows[chosen]))})" if chosen.any() else ""
    return f"{chosen.sum()} of {len(rows)} rows{numbers}"


def needed(table: pd.DataFrame) -> list[tuple[int, str, str]]:
    """The rows that are not computed, what each needs, and its command."""
    lines = table[table.run.isna()].drop_duplicates("row")
    return list(zip(lines.row, lines.missing, lines.command))


def _widths(rows: list[list[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows)]


def aligned(rows: list[list[str]]) -> list[str]:
    """Rows as lines whose columns are as wide as their widest cell."""
    widths = _widths(rows)
    return [" ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def markdown_lines(rows: list[list[str]]) -> list[str]:
    """A header and rows as the lines of a Markdown table."""
    rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]
    widths = _widths(rows)
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def markdown_cell(cell: Cell, with_difference: bool = True) -> str:
    """A correlation with its interval and the paper's."""
    r = f"**{cell.r}**" if cell.is_best else cell.r
    difference = f"; {cell.difference}" if with_difference and cell.difference else ""
    paper = f"(paper {cell.paper}{difference})" if cell.paper else ""
    return " ".join(part for part in (r, cell.interval, paper) if part)


def layout(table: pd.DataFrame) -> list[list[str]]:
    """A header and the 21 rows in Markdown: the source that was run, and the paper's in a column of its own."""
    rows = table_rows(table)
    header = ["Row", "Algorithm", "Source", "Target", "Target data set", "Section", "Paper's source"]
    header += [*map(label, measures_of(table)), "Tasks", "Epochs", "Scale", "Weights", "Data", "Notes"]
    names = ("algorithm", "target_data", "properties", "section")
    of_run = ("n_tasks", "epochs", "scale", "weights", "data")
    cells = []
    for row in rows:
        algorithm, target, properties, section = map(row.value, names)
        labels = [row.value("row"), algorithm, row.source or "—", target, properties, section, row.paper_source]
        cells.append([*labels, *map(markdown_cell, row.cells), *map(row.value, of_run), row.notes])
    return [header, *cells]


def to_markdown(table: pd.DataFrame) -> str:
    """The table, what its signs mean, the controls, and what each row that is not computed needs."""
    parts = ["# Table 1\n", CAPTION + "\n", *markdown_lines(layout(table)), ""]
    parts += [*(f"- {letter}: {deviation}" for deviation, letter in notes(table).items()), ""]
    parts += ["\n\n".join(summary(table))]
    if len(rows := controls(table)) > 1:
        parts += ["\n## How much of it the number of classes does\n", CONTROLS + "\n", *markdown_lines(rows)]
    if len(rows := class_sets(table)) > 1:
        parts += ["\n## Intervals over sets of classes\n", CLASS_SETS + "\n", *markdown_lines(rows)]
    if len(rows := few_tasks(table)) > 1:
        parts += ["\n## Rows of few tasks\n", FEW_TASKS + "\n", *markdown_lines(rows)]
    if lacking := needed(table):
        parts += ["\n## Rows not computed, and what each needs\n"]
        parts += [f"- row {row}: {needs}; `{command}`" for row, needs, command in lacking]
    return "\n".join(parts) + "\n"


def to_terminal(table: pd.DataFrame) -> str:
    """The table in at most 160 columns with three measures; what needs more room stands in table1.md and .csv."""
    header = ["", "Source", "Target"]
    for measure in measures_of(table):
        header += [" " + label(measure), ""]
    rows = table_rows(table)
    cells = [[*header, "Tasks", "Notes"]]
    for row in rows:
        line = [row.value("row").rjust(2), row.source or f"({row.paper_source})", row.value("target_data")]
        for cell in row.cells:
            line += [f"{'▸' if cell.is_best else ' '}{cell.r} {cell.interval}", cell.paper]
        cells.append([*line, row.value("n_tasks").rjust(5), row.notes])
    first, *lines = aligned(cells)
    signs = "▸ best of the row   * p > 0.05   — not computed (the paper's source)"
    parts = [f"Table 1. Pearson r, [95 % interval], paper's.   {signs}", "", first]
    last = None
    for row, line in zip(rows, lines):
        if (heading := f"{row.value('algorithm')}, {row.value('properties')}") != last:
            parts.append(heading)
        last = heading
        parts.append(line)
    parts += ["", *(f"  {letter}: {deviation}" for deviation, letter in notes(table).items()), ""]
    parts += [line for sentence in summary(table) for line in textwrap.wrap(sentence, 160)]
    if len(rows := controls(table)) > 1:
        rows[0] = [name.replace(" given classes", "|C") for name in rows[0]]
        parts += ["", "Without images; given the number of classes (|C); paired differences, [95 % interval].", ""]
        parts += aligned(rows)
    if len(rows := class_sets(table)) > 1:
        parts += ["", "95 % intervals over sets of classes.", "", *aligned(rows)]
    if len(rows := few_tasks(table)) > 1:
        parts += ["", FEW_TASKS, "", *aligned(rows)]
    by_need: dict[str, list[str]] = {}
    for row, needs, _ in needed(table):
        by_need.setdefault(needs, []).append(str(row))
    if by_need:
        parts += ["", "Not computed; the commands stand in table1.md:", ""]
        parts += [f"  {'rows' if len(of) > 1 else 'row'} {', '.join(of)}: {needs}" for needs, of in by_need.items()]
    return "\n".join(parts)


def to_latex(table: pd.DataFrame) -> str:
    """The tables to be input into a document; needs the packages booktabs and graphicx."""
    rows, best = [], []
    for row in table_rows(table):
        labels = [row.value("algorithm"), row.value("row"), row.source or "—", row.value("target_data")]
        labels += [row.paper_source, row.value("properties"), f"Sec. {row.value('section')}"]
        cells = [text for cell in row.cells for text in (cell.r, cell.interval, cell.paper)]
        marks = [mark for cell in row.cells for mark in (cell.is_best, False, False)]
        rows.append([*labels, *cells, row.value("n_tasks"), row.notes])
        best.append([*[False] * len(labels), *marks, False, False])
    names = ("Algorithm", "Row", "Source", "Target", "Paper's source", "Properties", "Details")
    columns = [("", name) for name in names]
    columns += [(label(m), part) for m in measures_of(table) for part in ("r", "95 % interval", "paper")]
    columns = pd.MultiIndex.from_tuples([*columns, ("", "Tasks"), ("", "Notes")])
    main = _latex(CAPTION, pd.DataFrame(rows, columns=columns), pd.DataFrame(best, columns=columns))
    deviations = pd.DataFrame([(letter, text) for text, letter in notes(table).items()], columns=["Note", "Deviation"])
    parts = [main] if deviations.empty else [main, _latex("What differs from the paper.", deviations, fit=False)]
    for caption, (header, *body) in (
        (CONTROLS, controls(table)),
        (CLASS_SETS, class_sets(table)),
        (FEW_TASKS, few_tasks(table)),
    ):
        parts += [_latex(caption, pd.DataFrame(body, columns=header))] if body else []
    return "\n".join(parts)


def _latex(caption: str, cells: pd.DataFrame, best: pd.DataFrame | None = None, fit: bool = True) -> str:
    """A table of text by pandas' Styler, which escapes it; the cells marked in `best` in bold."""
    style = cells.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis=1)
    if best is not None:
        style = style.apply(lambda _: best.replace({True: "textbf:--rwrap", False: ""}), axis=None)
    tabular = style.to_latex(hrules=True, multicol_align="c", column_format="l" * cells.shape[1])
    if fit:
        tabular = r"\resizebox{\textwidth}{!}{" + tabular + "}\n"
    text = r"\begin{table}\centering" + "\n" + r"\caption{" + caption.replace("%", r"\%") + "}\n" + tabular
    for character, command in (("−", "$-$"), ("—", "--"), ("→", r"$\to$")):
        text = text.replace(character, command)
    return text + r"\end{table}" + "\n"
