"""The page of `leep rank`: one self-contained file, which needs no network."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from PIL import Image

from leep.data.picture import Resize, read_image
from leep.errors import Invalid
from leep.reporting.answer import number, seconds
from leep.reporting.charts import COLOURS, Series, chart, ticks

if TYPE_CHECKING:
    from leep.reporting.answer import Answer

THUMBNAIL = Resize(56, shorter_side=56)
SHOWN_CLASSES = 30  # of a model, those of the least accuracy
SHOWN_MODELS = 8  # in charts and in the table by class: as many as there are colours
MISTAKES = 4  # images of a class
Z_95 = 1.96


def render(answer: Answer) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"breakable": breakable, "percent": percent, "number": number, "time": seconds}
    ranked = answer.table[answer.table["not_ranked"] == ""].to_dict("records")
    ranking = answer.ranking
    verified = bool(ranking.probes)
    thumbnails = _Thumbnails(answer)
    return environment.get_template("page.html").render(
        ranking=ranking,
        verified=verified,
        ranked=ranked,
        failed=answer.table[answer.table["not_ranked"] != ""].to_dict("records"),
        measures=[c[:-4] for c in ranking.table if c.endswith("_low") and c != "accuracy_low"],
        warnings=answer.warnings,
        fine_tuning=answer.fine_tuning,
        on_fine_tuning=answer.on_fine_tuning,
        not_fine_tuned=answer.not_fine_tuned,
        about=answer.about,
        dots=_dots(ranked, "accuracy" if verified else "leep", ranking.best),
        better=ranking.better,
        by_class=_by_class(answer),
        n_hidden_models=max(0, len(ranked) - SHOWN_MODELS),
        models=[_model(answer, row["model"], thumbnails) for row in ranked[:3] if _is_shown(answer, row["model"])],
        curve=_curve(answer, ranked) if verified else "",
        speed=_speed(ranked, "accuracy" if verified else "leep"),
        legend=[(str(k + 1), row["model"], COLOURS[k]) for k, row in enumerate(ranked[:SHOWN_MODELS])],
    )


def breakable(name: object) -> Markup:
    """A name that a browser may break after a colon, an underscore, a slash, or a dot that is not of a number.

    >>> breakable("onnx:a_b<")
    Markup('onnx:<wbr>a_<wbr>b&lt;')
    """
    return Markup(re.sub(r"[:_/]|\.(?!\d)", r"\g<0><wbr>", str(escape(str(name)))))


def percent(share: object, digits: int = 1) -> str:
    """A share in per cent, without the sign; a dash where there is none.

    >>> percent(0.8461), percent(float("nan"))
    ('84.6', '—')
    """
    return "—" if pd.isna(share) else f"{100 * float(share):.{digits}f}"


def _is_shown(answer: Answer, name: str) -> bool:
    return name in answer.explanations or name in answer.ranking.probes


def _dots(ranked: Sequence[Mapping], value: str, best: Sequence[str]) -> dict | None:
    """Places of the points and intervals of a dot plot, in per cent of its width."""
    known = [row for row in ranked if pd.notna(row[value])]
    if not known:
        return None
    ends = [row[c] for row in known for c in (value, f"{value}_low", f"{value}_high") if pd.notna(row[c])]
    low, high = min(ends), max(ends)
    pad = max(0.06 * (high - low), 0.01)
    low, high = low - pad, high + pad

    def place(x: float) -> float:
        return round(100 * (x - low) / (high - low), 2)

    rows = []
    for row in known:
        a, b = (row[f"{value}_{end}"] if pd.notna(row[f"{value}_{end}"]) else row[value] for end in ("low", "high"))
        left, right = place(a), place(b)
        text = f"{percent(row[value])} %" if value == "accuracy" else number(row[value], ".3f")
        interval = f"{percent(a)} to {percent(b)} %" if value == "accuracy" else f"{a:.3f} to {b:.3f}"
        rows.append(
            {
                "model": row["model"],
                "at": place(row[value]),
                "left": left,
                "width": round(right - left, 2),
                "text": text,
                "interval": interval,
                "is_best": row["model"] in best,
            }
        )
    marks = [(place(t), f"{100 * t:g}" if value == "accuracy" else f"{t:g}") for t in ticks(low, high, 5)]
    return {"rows": rows, "ticks": marks}


def _by_class(answer: Answer) -> dict | None:
    """Accuracy of each class by the head of each model, the class of the least mean accuracy first."""
    table = answer.ranking.by_class
    names = [c for c in table.columns if c not in ("class", "n_images")][:SHOWN_MODELS]
    if not names:
        return None
    order = np.argsort(table[names].mean(axis=1).fillna(1).to_numpy(), kind="stable")
    low, high = np.nanmin(table[names].to_numpy(float)), np.nanmax(table[names].to_numpy(float))

    def cell(value: float) -> tuple[float, float]:
        """An accuracy, and its place between the lowest and the highest."""
        return value, 0.0 if pd.isna(value) else (value - low) / max(high - low, 1e-9)

    rows = [
        {"class": table["class"][k], "n_images": int(table["n_images"][k]), "cells": [cell(table[m][k]) for m in names]}
        for k in order
    ]
    return {"names": names, "rows": rows}


def _model(answer: Answer, name: str, thumbnails: _Thumbnails) -> dict:
    """What one model does with each class: accuracy, confusions, mistakes; LEEP's view of it."""
    done, found = answer.ranking.probes.get(name), answer.explanations.get(name)
    leep = {} if found is None else {row["class"]: row for row in found.table.to_dict("records")}
    sources = {} if found is None else {c: t.to_dict("records") for c, t in found.sources.groupby("class", sort=False)}
    hardest = {} if found is None else {c: t["row"].tolist() for c, t in found.hardest.groupby("class", sort=False)}
    rows = []
    for k, label in enumerate(answer.ranking.classes):
        row = {
            "class": label,
            "leep": leep.get(label),
            "sources": sources.get(label, ()),
            "confused": (),
            "mistakes": (),
        }
        row["n_images"] = int(answer.ranking.by_class["n_images"][k])
        row["accuracy"] = np.nan if done is None else done.accuracy_by_class[k]
        row["hardest"] = hardest.get(label, [])[:MISTAKES]
        if done is not None:
            wrong = done.confusion[k].copy()
            wrong[k] = 0
            others = [j for j in np.argsort(-wrong, kind="stable")[:3] if wrong[j]]
            row["confused"] = [(answer.ranking.classes[j], int(wrong[j])) for j in others]
            missed = np.flatnonzero((done.labels == k) & (done.folds >= 0) & (done.predicted != k))
            worst = missed[np.argsort(done.log_probability[missed], kind="stable")][:MISTAKES]
            row["mistakes"] = [(int(r), answer.ranking.classes[done.predicted[r]]) for r in worst]
        rows.append(row)
    rows.sort(
        key=lambda row: (np.nan_to_num(row["accuracy"], nan=2), row["leep"]["mean_log_probability"] if leep else 0)
    )
    shown = rows[:SHOWN_CLASSES]
    for row in shown:
        row["mistakes"] = [(thumbnails[r], thumbnails.files[r], other) for r, other in row["mistakes"]]
        row["hardest"] = [(thumbnails[r], thumbnails.files[r]) for r in row["hardest"]]
    return {
        "name": name,
        "rows": shown,
        "n_hidden": len(rows) - len(shown),
        "leep": found and found.leep,
        "probe": done,
    }


class _Thumbnails:
    """Images as small data URIs, each made once."""

    def __init__(self, answer: Answer):
        folder = answer.images.folder
        self.files, self.path, self.made = folder.files, folder.path, {}

    def __getitem__(self, row: int) -> str:
        if row not in self.made:
            self.made[row] = self._make(row)
        return self.made[row]

    def _make(self, row: int) -> str:
        try:
            pixels = read_image(self.path / self.files[row], THUMBNAIL)
        except Invalid:  # changed since it was decoded
            return ""
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=75)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _curve(answer: Answer, ranked: Sequence[Mapping]) -> Markup | str:
    """Accuracy against the number of training images."""
    curve = answer.ranking.curve
    if not len(curve):
        return ""
    series = []
    for k, row in enumerate(ranked[:SHOWN_MODELS]):
        part = curve[curve["model"] == row["model"]]
        points = [
            (n, a, a - Z_95 * se, a + Z_95 * se) for n, a, se in part[["n_train", "accuracy", "accuracy_se"]].to_numpy()
        ]
        if points:
            series.append(Series(row["model"], str(k + 1), COLOURS[k], points))
    return Markup(chart(series, "training images", "accuracy, %", True)) if series else ""


def _speed(ranked: Sequence[Mapping], value: str) -> Markup | str:
    """Accuracy, or LEEP, against the time of a pass."""
    series = []
    for k, row in enumerate(ranked[:SHOWN_MODELS]):
        if pd.notna(row["images_per_second"]) and pd.notna(row[value]):
            low, high = (None if pd.isna(row[f"{value}_{end}"]) else row[f"{value}_{end}"] for end in ("low", "high"))
            points = [(1000 / row["images_per_second"], row[value], low, high)]
            series.append(Series(row["model"], str(k + 1), COLOURS[k], points))
    label = "accuracy, %" if value == "accuracy" else "LEEP"
    return Markup(chart(series, "milliseconds an image, here", label, value == "accuracy")) if series else ""
