"""The answer of `leep rank`: the ranking, what each model costs, what LEEP explains, what was not tried."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from leep import __version__
from leep.errors import Invalid
from leep.explanation import Explanation, aligned, explain, plain_records
from leep.files import write_atomically
from leep.machine import cpu_model, versions
from leep.models.arrays import StoredOutputs
from leep.ranking import Ranking, no_better_than_largest, rank

if TYPE_CHECKING:
    from leep.commands.fine_tuning import FineTuning
    from leep.commands.survey import Candidate
    from leep.models import FolderImages, Model, Outputs

EXPLAINED = 3  # models, the best ones
PACKAGES = ("numpy", "scipy", "torch", "torchvision", "timm", "transformers", "onnxruntime", "pillow")
NOT_TRIED = "Fine-tuning may order them otherwise; it was not tried."


@dataclass(frozen=True)
class Places:
    """Where the answer is written; none of these files is there before."""

    page: Path
    csv: Path
    json: Path

    @classmethod
    def choose(cls, output: str | None) -> Places:
        """A folder, a `.html` file with the others beside it, or by default a new folder named by the date.

        Raises
        ------
        Invalid
            If one of the files is there already, because nothing is overwritten.
        """
        if output is None:
            stem = f"leep-rank-{datetime.datetime.now():%Y-%m-%d-%H%M}"
            names = (stem if k == 1 else f"{stem}-{k}" for k in range(1, 10_000))
            output = next(name for name in names if not Path(name).exists())
        path = Path(output).expanduser()
        if path.suffix.lower() == ".html":
            places = cls(path, path.with_suffix(".csv"), path.with_suffix(".json"))
        else:
            places = cls(path / "index.html", path / "ranking.csv", path / "ranking.json")
        if path.suffix.lower() != ".html" and path.is_file():
            raise Invalid(f"--output {output}: a file, expected a folder or a name that ends in .html")
        for place in (places.page, places.csv, places.json):
            if place.exists():
                raise Invalid(
                    f"--output {output}: {place} is there already, and nothing is overwritten; choose another"
                )
        return places


@dataclass(eq=False)
class Answer:
    """What `leep rank` found.

    Attributes
    ----------
    ranking : Ranking
    table : DataFrame
        `ranking.table`, with `parameters`, `images_per_second`, `memory_mb` and `epoch_seconds` of each model, and a
        row for each that failed, whose `not_ranked` says why. After fine-tuning also `fine_tuned`, `fine_tuned_se` and
        `fine_tuned_head`: the accuracies of the whole network and of the head on the same held-out images.
    warnings : tuple of str
        Those of the ranking, and what the images and the models' notes add.
    explanations : dict of str to Explanation
        Of the best few models that have probabilities.
    images : FolderImages
    about : dict
        How it was made.
    not_tried : str
        What the ranking leaves open.
    fine_tuning : FineTuning, optional
    """

    ranking: Ranking
    table: pd.DataFrame
    warnings: tuple[str, ...]
    explanations: dict[str, Explanation]
    images: FolderImages
    about: dict = field(default_factory=dict)
    not_tried: str = NOT_TRIED
    fine_tuning: FineTuning | None = None

    def add(self, found: FineTuning) -> None:
        """Put the accuracies after fine-tuning, and the times of an epoch that were measured, into the table."""
        self.fine_tuning = found
        by_model = found.table.set_index("model").reindex(self.table["model"])
        for column in ("fine_tuned", "fine_tuned_se", "fine_tuned_head"):
            self.table[column] = by_model[column].to_numpy("float64")
        measured = len(self.images) / by_model["images_per_second"].to_numpy("float64")
        self.table["epoch_seconds"] = np.where(np.isnan(measured), self.table["epoch_seconds"], measured)

    @property
    def not_fine_tuned(self) -> dict[str, str]:
        """Why each model that should have been fine-tuned was not."""
        return self.fine_tuning.failed if self.fine_tuning else {}

    @property
    def on_fine_tuning(self) -> str:
        """What fine-tuning gave, or that it was not done."""
        return (self.fine_tuning and self.fine_tuning.sentence) or self.not_tried

    def to_dict(self) -> dict:
        """Dictionaries, lists, strings and numbers, ready for JSON; NaN is None."""
        files = self.images.folder.files
        explained = {}
        for name, found in self.explanations.items():
            explained[name] = found.to_dict()
            for row in explained[name]["hardest"]:
                row["file"] = files[row["row"]]
        about = {"about": self.about, "explanations": explained}
        if self.fine_tuning:
            about["fine_tuning"] = self.fine_tuning.to_dict()
        whole = self.ranking.to_dict() | {"models": plain_records(self.table), "warnings": list(self.warnings)} | about
        return _without_nan(whole)

    def text(self) -> str:
        """The terminal's form."""
        failed = self.table[self.table["not_ranked"] != ""]
        blocks = [
            " ".join(filter(None, (self.ranking.sentence, self.ranking.more_data, self.on_fine_tuning))),
            self._table(),
            "\n".join(f"Not ranked: {name}: {why}" for name, why in zip(failed["model"], failed["not_ranked"])),
            "\n".join(f"Not fine-tuned: {name}: {why}" for name, why in self.not_fine_tuned.items()),
            "\n".join(f"Note: {name}: {n}" for name, n in zip(self.table["model"], self.table["notes"]) if n),
            "\n".join(f"Warning: {warning}" for warning in self.warnings),
        ]
        for name, found in list(self.explanations.items())[:1]:
            blocks.append(f"What LEEP says of your classes, by {name}; the one that it sees least comes first.")
            blocks.append(self._explanation(found))
        blocks.append(f"Again: {self.about['command']}")
        return "\n\n".join(filter(None, blocks))

    def _table(self) -> str:
        rows = self.table[self.table["not_ranked"] == ""].to_dict("records")
        measures = [c[:-4] for c in self.ranking.table if c.endswith("_low") and c != "accuracy_low"]
        tuned = self.fine_tuning is not None and bool(self.fine_tuning.sentence)
        header = ["model", "rank", *(["accuracy"] if self.ranking.probes else []), "P(best)"]
        header += [*(["fine-tuned", "its head"] if tuned else []), *measures]
        header += ["features", "M params", "images/s", "epoch"]
        cells = [
            [
                row["model"],
                number(row["rank"], "d", blank=""),
                *([_with_error(row["accuracy"], row["accuracy_se"])] if self.ranking.probes else []),
                number(row["p_best"], ".2f", blank=""),
                *([_with_error(row["fine_tuned"], row["fine_tuned_se"])] if tuned else []),
                *([number(row["fine_tuned_head"], ".3f", blank="")] if tuned else []),
                *(number(row[m], ".3f", blank="") for m in measures),
                f"{row['n_features']:,}",
                number(row["parameters"], ".1f", 1e6, blank=""),
                number(row["images_per_second"], ".3g", blank=""),
                seconds(row["epoch_seconds"]),
            ]
            for row in rows
        ]
        return aligned(header, cells)

    def _explanation(self, found: Explanation, most: int = 12) -> str:
        files = self.images.folder.files
        hardest = found.hardest.groupby("class", sort=False)["row"].first()
        cells = [
            [str(c), f"{n:,}", f"{p:.3f}", sources, files[hardest[c]]]
            for c, n, p, sources in found.table[["class", "n_images", "mean_log_probability", "sources"]].to_numpy()
        ]
        text = aligned(["class", "images", "mean log p", "most likely source classes", "hardest image"], cells[:most])
        return text + (f"\n… and {len(cells) - most} classes more, in ranking.json" if len(cells) > most else "")


def make_answer(
    images: FolderImages,
    candidates: Sequence[Candidate],
    outputs: Mapping[str, Outputs],
    *,
    measures: Sequence[str],
    verify: str,
    seed: int,
) -> Answer:
    """Rank the models by their outputs, and join what each costs and what can be explained.

    Raises
    ------
    Invalid
        If what is left of the images cannot be ranked, e.g. one class.
    """
    labels = np.asarray(images.class_names)[images.labels]
    pairs = {name: (o.probs, o.features) for name, o in outputs.items()}
    try:
        ranking = rank(pairs, labels, measures=measures, verify=verify, seed=seed, show_progress=True)
    except (ValueError, RuntimeError) as error:
        raise Invalid(str(error)) from error
    models = {c.name: c.model for c in candidates if c.model}
    explanations = {}
    for name in ranking.table["model"]:
        if outputs[name].probs is not None and len(explanations) < EXPLAINED:
            explanations[name] = explain(outputs[name].probs, labels, source_names=models[name].class_names)
    counts = np.bincount(images.labels)
    about = {
        "date": f"{datetime.datetime.now():%Y-%m-%d %H:%M}",
        "leep": __version__,
        "versions": {k: v for k, v in versions(PACKAGES).items() if v != "none"},
        "processor": cpu_model(),
        "seed": seed,
        "verify": verify,
        "n_images": len(images),
        "n_classes": int((counts > 0).sum()),
        "smallest_class": int(counts[counts > 0].min()),
        "images_sha256": images.sha256,
    }
    warnings = (
        *ranking.warnings,
        *_warn_of_images(images),
        *_warn_of_sources(images, models),
        *_warn_of_guesses(models),
        *_warn_of_order(no_better_than_largest(ranking.probes, counts), models),
    )
    return Answer(ranking, _join(ranking, candidates, len(images)), warnings, explanations, images, about)


def write_answer(answer: Answer, places: Places) -> None:
    """Write `ranking.csv`, `ranking.json` and the page."""
    from leep.reporting.page import render

    text = json.dumps(answer.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(places.csv, answer.table.to_csv(index=False).encode())
    write_atomically(places.json, f"{text}\n".encode())
    write_atomically(places.page, render(answer).encode())


def _join(ranking: Ranking, candidates: Sequence[Candidate], n: int) -> pd.DataFrame:
    by_name = {c.name: c for c in candidates}
    costs = []
    for name in ranking.table["model"]:
        candidate = by_name[name]
        model, speed = candidate.model, candidate.images_per_second
        costs.append(
            {
                "spec": candidate.spec,
                "parameters": model.parameters,
                "images_per_second": speed,
                "memory_mb": model.weight_bytes and model.weight_bytes / 1e6,
                "epoch_seconds": candidate.training_seconds(n),
                "size": model.size,
                "sha256": model.sha256,
                "model_notes": "; ".join(model.notes),
                "not_ranked": "",
            }
        )
    table = pd.concat([ranking.table.reset_index(drop=True), pd.DataFrame(costs)], axis=1)
    failed = [
        {"model": c.name, "spec": c.spec, "notes": "", "model_notes": "", "not_ranked": c.reason}
        for c in candidates
        if c.model is None
    ]
    for column in ("parameters", "images_per_second", "memory_mb", "epoch_seconds", "size"):
        table[column] = table[column].astype("float64")
    table = table.astype({"parameters": "Int64", "size": "Int64", "n_features": "Int64"})
    if failed:
        table = pd.concat([table, pd.DataFrame(failed).reindex(columns=table.columns).astype(table.dtypes)])
    return table.reset_index(drop=True)


def _warn_of_images(images: FolderImages) -> list[str]:
    """The same picture twice, or in two classes."""
    names, files = images.class_names, images.folder.files
    across, within = [], []
    for group in images.duplicates():
        by_class: dict[int, list[int]] = {}
        for row in group:
            by_class.setdefault(int(images.labels[row]), []).append(row)
        across += [group] if len(by_class) > 1 else []
        within += [rows for rows in by_class.values() if len(rows) > 1]
    warnings = []
    if across:
        a, b = next((a, b) for a in across[0] for b in across[0] if images.labels[a] != images.labels[b])
        classes = f"{names[images.labels[a]]} and {names[images.labels[b]]}"
        warnings.append(
            f"{len(across)} picture{'s are' if len(across) > 1 else ' is'} in two classes, such as {files[a]} and "
            f"{files[b]} ({classes}): no model can be right on both."
        )
    if within:
        extra = sum(len(group) - 1 for group in within)
        warnings.append(
            f"{extra} image{'s are copies' if extra > 1 else ' is a copy'} of another of the same class, such as "
            f"{files[within[0][1]]} of {files[within[0][0]]}: a head that has learnt one is tested on the other, and "
            "the accuracy is too high."
        )
    return warnings


def _warn_of_sources(images: FolderImages, models: Mapping[str, object]) -> list[str]:
    """A source that has these classes may have been trained on these images."""
    ours, warnings = {_plain(name) for name in images.class_names}, {}
    for name, model in models.items():
        theirs = {_plain(part) for text in model.class_names or () for part in text.split(",")}
        if len(ours) >= 2 and 2 * len(ours & theirs) >= len(ours):
            warnings.setdefault(len(ours & theirs), []).append(name)
    return [
        f"{', '.join(names)}: {n} of your {len(ours)} classes are, by name, classes of the model itself; if it was "
        "trained on these same images, its accuracy is too high."
        for n, names in warnings.items()
    ]


def _warn_of_guesses(models: Mapping[str, Model | StoredOutputs]) -> list[str]:
    """Preprocessing that was guessed, and what to write where."""
    by_guess: dict[str, dict[str, str]] = {}
    for name, model in models.items():
        if model.guess:
            by_guess.setdefault(model.guess.what, {})[name] = model.guess.remedy
    return [
        f"the preprocessing of {', '.join(remedies)} is guessed, and the right one can change the order: {what}. "
        f"If another is right, {'; '.join(remedies.values())}."
        for what, remedies in by_guess.items()
    ]


def _warn_of_order(weak: Sequence[str], models: Mapping[str, Model | StoredOutputs]) -> list[str]:
    """Arrays whose rows may belong to other images."""
    blind = [name for name in weak if isinstance(models[name], StoredOutputs) and models[name].files is None]
    return [
        f"{name} says hardly anything of your classes: are its rows in the order of the images? An array files in its "
        "archive, with the file of each row, settles it."
        for name in blind
    ]


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", " ").replace("-", " ")


def _without_nan(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not np.isfinite(value) else value


def number(value: object, form: str, unit: float = 1, blank: str = "—") -> str:
    """A number as text, or a dash where there is none.

    >>> number(2_500_000, ".1f", 1e6), number(None, "d")
    ('2.5', '—')
    """
    if pd.isna(value):
        return blank
    return format(int(value) if form.endswith("d") else float(value) / unit, form)


def _with_error(value: float, error: float) -> str:
    return "" if pd.isna(value) else f"{value:.3f} ± {error:.3f}"


def seconds(value: object) -> str:
    """A time as text, or a dash where it is not known."""
    from leep.commands.survey import duration

    return "—" if pd.isna(value) else duration(float(value))
