"""Table 1 as text: for the terminal, as Markdown and as LaTeX."""

from __future__ import annotations

import string
import textwrap

import pandas as pd

MEASURES = {"leep": "LEEP", "nce": "NCE", "h_score": "H score"}
TRIVIAL = {"minus_log_n_classes": "−log(classes)", "n_examples": "Examples"}  # predictors that look at no image
WORDING = ["algorithm", "source_data", "target_data", "source_model", "properties"]  # the paper's
CAPTION = (
    "Pearson correlation of each measure with the test accuracy (imbalanced: test F1 of the smaller class) of the "
    "transferred models, [95 % bootstrap interval over tasks], (the paper's value; ours less the paper's). "
    "Bold: best of the row; *: p > 0.05; —: not computed."
)
CONTROLS = (
    "Predictors that look at no image, what is left of each measure's correlation given the logarithm of the number of "
    "classes (where that varies), and differences between correlations, [95 % interval of a paired bootstrap over "
    "tasks]. *: p > 0.05; —: undefined, one of the two is the same for all tasks."
)


def signed(value: float, digits: int = 3) -> str:
    """A number with its sign."""
    return f"{value:+.{digits}f}".replace("-", "−")


def interval(low: float, high: float, digits: int = 2) -> str:
    """An interval."""
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def p_text(p_value: float) -> str:
    """A p-value."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def notes(table: pd.DataFrame) -> dict[str, str]:
    """A letter for each thing that differs from the paper, in the order of the rows."""
    parts = dict.fromkeys(part for text in table.stand_in for part in text.split("; ") if part)
    return dict(zip(parts, string.ascii_lowercase + string.ascii_uppercase))


def row_notes(text: str, letters: dict[str, str]) -> str:
    """The letters of a row's stand-ins."""
    return " ".join(letters[part] for part in text.split("; ") if part)


def best_of(lines: pd.DataFrame) -> float:
    """The largest correlation of a row's measures as printed; NaN where none is computed."""
    return lines.r[lines.measure.isin(list(MEASURES))].astype(float).round(3).max()


def measure_parts(line, best: float, missing: str = "—") -> tuple[str, str, str, str]:
    """r with its marks, its interval, the paper's value, and the difference; ⟦ and ⟧ enclose what is bold."""
    paper = signed(line.paper_r) + ("" if line.paper_significant else "*")
    if pd.isna(line.n_tasks):
        return missing, "", paper, ""
    if pd.isna(line.r):
        return "undefined", "", paper, ""
    r = signed(line.r) + ("*" if line.p_value > 0.05 else "")
    bold = f"⟦{r}⟧" if round(line.r, 3) == best else r
    return bold, interval(line.r_low, line.r_high), paper, signed(line.difference)


def _cell(line, best: float, missing: str) -> str:
    r, spread, paper, difference = measure_parts(line, best, missing)
    return " ".join(p for p in (r, spread, f"(paper {paper}{'; ' + difference if difference else ''})") if p)


def layout(table: pd.DataFrame, missing: str = "—") -> list[list[str]]:
    """A header and the 21 rows in the paper's layout as text."""
    header = ["Row", "Algorithm", "Source", "Target", "Source model", "Target data set", "Details", *MEASURES.values()]
    rows = [[*header, "Tasks", "Epochs", "Scale", "Weights", "Data", "Notes"]]
    letters = notes(table)
    for number, lines in table.groupby("row"):
        first, best = lines.iloc[0], best_of(lines)
        cells = [_cell(line, best, missing) for line in lines.itertuples() if line.measure in MEASURES]
        what = ["" if pd.isna(first[k]) else first[k] for k in ("n_tasks", "epochs", "scale", "weights", "data")]
        names = [number, *first[WORDING], f"Sec. {first.section}"]
        rows.append([str(v) for v in (*names, *cells, *what, row_notes(first.stand_in, letters))])
    return rows


def controls(table: pd.DataFrame) -> list[list[str]]:
    """A header and the computed rows: trivial predictors, partial correlations, paired differences."""
    others = {"nce": "NCE", "h_score": "H", "minus_log_n_classes": "(−log(classes))"}
    header = ["Row", *MEASURES.values(), *TRIVIAL.values(), *(f"{m} given classes" for m in MEASURES.values())]
    rows = [[*header, *(f"LEEP − {name}" for name in others.values())]]
    for number, lines in table[table.n_tasks.notna()].groupby("row"):
        of = lines.set_index("measure").reindex([*MEASURES, *TRIVIAL])
        cells = [_starred(of.loc[m], "r", "p_value") for m in (*MEASURES, *TRIVIAL)]
        cells += [_starred(of.loc[m], "partial_r", "partial_p") for m in MEASURES]
        for other in others:
            line = of.loc[other]
            said = _starred(line, "leep_better_by", "leep_better_p")
            spread = "" if said == "—" else " " + interval(line.leep_better_low, line.leep_better_high, 3)
            cells.append(said + spread)
        rows.append([str(number), *cells])
    return rows


def _starred(line, value: str, p_value: str) -> str:
    return "—" if pd.isna(line[value]) else signed(line[value]) + ("*" if line[p_value] > 0.05 else "")


def wins(table: pd.DataFrame) -> str:
    """In how many rows LEEP has the largest correlation, here and in the paper."""
    lines = table[table.measure.isin(list(MEASURES))]
    said = []
    for where, column in (("here", "r"), ("in the paper", "paper_r")):
        wide = lines.pivot(index="row", columns="measure", values=column).astype(float).round(3).dropna(subset="leep")
        best = (wide.leep >= wide.max(axis=1)).sum()
        alone = (wide.leep > wide.drop(columns="leep").fillna(-2).max(axis=1)).sum()
        said.append(f"{where} in {best} of {len(wide)} rows ({alone} of them without a tie)")
    return (
        f"LEEP has the largest of the three correlations {', '.join(said)}. "
        "The authors' announcement counts 15 of 23 comparisons; Table 1 has 21 rows."
    )


def needed(table: pd.DataFrame) -> list[tuple[int, str]]:
    """The rows that are not computed, and what each needs."""
    lines = table[(table.measure == "leep") & table.n_tasks.isna()]
    return list(zip(lines.row, lines.needs))


def to_terminal(table: pd.DataFrame) -> str:
    """The table in at most 160 columns; what needs more room stands in table1.md and table1.csv."""
    letters = notes(table)
    parts = [f"Table 1. Pearson r, [95 % interval], paper's. {'':9}▸ best of the row   * p > 0.05   — not computed", ""]
    parts.append(_terminal_line(("", "Source", "Target", "Properties"), MEASURES.values(), "Tasks", "Notes"))
    for algorithm, rows in table.groupby("algorithm", sort=False):
        parts.append(algorithm)
        for number, lines in rows.groupby("row"):
            first, best = lines.iloc[0], best_of(lines)
            cells = []
            for line in lines.itertuples():
                if line.measure in MEASURES:
                    r, spread, paper, _ = measure_parts(line, best)
                    mark = "▸" if r.startswith("⟦") else " "
                    cells.append(f"{mark}{r.strip('⟦⟧'):<7} {spread:<14} {paper:<7}")
            names = str(number), first.source_data, first.target_data, first.properties
            tasks = "" if pd.isna(first.n_tasks) else str(first.n_tasks)
            parts.append(_terminal_line(names, cells, tasks, row_notes(first.stand_in, letters)))
    parts += ["", *(f"  {letter}: {part}" for part, letter in letters.items()), "", *textwrap.wrap(wins(table), 160)]
    header, *rows = controls(table)
    if rows:
        header = [h.replace(" given", "|").replace("| classes", "|C") for h in header]
        widths = [max(len(r[c]) for r in [header, *rows]) for c in range(len(header))]
        parts += ["", "Without images; given the number of classes (|C); paired differences, [95 % interval].", ""]
        parts += [" ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in [header, *rows]]
    lacks = {}
    for row, needs in needed(table):
        lacks.setdefault(needs.rpartition("python run.py")[0].strip("; ") or "not run", []).append(str(row))
    if lacks:
        parts += ["", "Not computed; the commands stand in table1.md:", ""]
        parts += [f"  {lack}: {'rows' if len(rows) > 1 else 'row'} {', '.join(rows)}" for lack, rows in lacks.items()]
    return "\n".join(parts)


def _terminal_line(names, cells, tasks: str, noted: str) -> str:
    number, source, target, properties = names
    measures = " ".join(f"{c:<31}" for c in cells)
    return f"{number:>2} {source:<8} {target:<12} {properties:<17} {measures} {tasks:>5} {noted}".rstrip()


def to_markdown(table: pd.DataFrame) -> str:
    """The table, what its signs mean, the controls, and what each row that is not computed needs."""
    parts = ["# Table 1\n", CAPTION + "\n", *markdown_lines(layout(table))]
    parts += ["", *(f"- {letter}: {part}" for part, letter in notes(table).items()), "", wins(table)]
    if len(rows := controls(table)) > 1:
        parts += ["\n## How much of it the number of classes does\n", CONTROLS + "\n", *markdown_lines(rows)]
    if needed(table):
        parts += ["\n## Rows not computed, and what each needs\n"]
        parts += [f"- row {row}: {needs}" for row, needs in needed(table)]
    return "\n".join(parts) + "\n"


def markdown_lines(rows: list[list[str]]) -> list[str]:
    """A header and rows as the lines of a Markdown table."""
    rows = [[c.replace("⟦", "**").replace("⟧", "**") for c in r] for r in rows]
    widths = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(r, widths)) + " |" for r in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return lines


def to_latex(table: pd.DataFrame) -> str:
    """Both tables with booktabs, to be input into a document; needs the packages booktabs and graphicx."""
    letters = notes(table)
    names = ["Algorithm", "Source", "Target", "Source model", "Properties", "Details"]
    header = [*names, *["$r$", "95\\,\\% interval", "paper"] * 3, "Tasks", "Notes"]
    groups = " & ".join([r"\multicolumn{3}{c}{" + m + "}" for m in MEASURES.values()])
    body, last = [], None
    for _, lines in table.groupby("row"):
        first, best = lines.iloc[0], best_of(lines)
        cells = ["" if first.algorithm == last else first.algorithm, *first[WORDING[1:]], f"Sec. {first.section}"]
        if last and first.algorithm != last:
            body.append(r"\midrule")
        last = first.algorithm
        for line in lines.itertuples():
            if line.measure in MEASURES:
                cells += measure_parts(line, best, missing="--")[:3]
        cells += ["" if pd.isna(first.n_tasks) else str(first.n_tasks), row_notes(first.stand_in, letters)]
        body.append(_latex_row(cells))
    noted = "; ".join(f"{letter}: {part}" for part, letter in letters.items())
    caption = CAPTION.replace(" (the paper's value; ours less the paper's)", " the paper's value")
    main = _latex_table(
        caption + (f" Notes: {noted}." if noted else ""),
        "llllll" + "rrr" * 3 + "rl",
        ["&" * len(names) + " " + groups + r" & & \\", " & ".join(header) + r" \\"],
        body,
    )
    head, *rows = controls(table)
    if not rows:
        return main
    return main + "\n" + _latex_table(CONTROLS, "r" * len(head), [_latex_row(head)], [_latex_row(r) for r in rows])


def _latex_table(caption: str, columns: str, head: list[str], body: list[str]) -> str:
    lines = [r"\begin{table}\centering", r"\caption{" + _escape(caption) + "}"]
    lines += [r"\resizebox{\textwidth}{!}{\begin{tabular}{" + columns + "}", r"\toprule", *head, r"\midrule"]
    return "\n".join([*lines, *body, r"\bottomrule", r"\end{tabular}}", r"\end{table}"]) + "\n"


def _latex_row(cells: list[str]) -> str:
    return " & ".join(_escape(c).replace("⟦", r"\textbf{").replace("⟧", "}") for c in cells) + r" \\"


def _escape(text: str) -> str:
    for character in "&%_#":
        text = text.replace(character, "\\" + character)
    return text.replace("−", "$-$").replace("—", "--").replace("→", r"$\to$")
