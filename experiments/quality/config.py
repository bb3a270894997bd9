"""The typed values of `experiment=ranking_quality`, checked before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from experiments.quality.targets import EXPERIMENT, TARGETS
from leep.errors import Invalid, suggest
from leep.measures import check_measure
from leep.results import setting_hash
from leep.transfer.fine_tune import FineTune
from leep.transfer.method import check_integer, create_method
from leep.transfer.retrain_head import RetrainHead


@dataclass(frozen=True)
class QualityConfig:
    """All that the experiment runs with; `conf/experiment/ranking_quality.yaml` explains it."""

    seed: int
    scale: str
    measures: tuple[str, ...]
    candidates: tuple[str, ...]
    trained_on: Mapping[str, Sequence[str]]
    targets: tuple[str, ...]
    per_class: tuple[int, ...]
    images: Mapping[str, Sequence[int]]
    draws: int
    epochs: Mapping[str, int]
    retrain_head: RetrainHead
    fine_tune: FineTune
    fine_tuned: Mapping[str, Sequence[str]]
    results: Path
    cache: Path
    data_root: str | None
    strict: bool

    @classmethod
    def of(cls, cfg: DictConfig) -> QualityConfig:
        """Check a configuration that Hydra has composed.

        Raises
        ------
        Invalid
            For an unknown name and for an impossible value; names the choices.
        """
        try:
            return cls._of(cfg)
        except ValueError as error:
            raise Invalid(str(error)) from error

    @classmethod
    def _of(cls, cfg: DictConfig) -> QualityConfig:
        values = OmegaConf.to_container(cfg)
        check_integer("seed", cfg.seed, 0)
        for key in ("measures", "candidates", "targets", "per_class"):
            if not isinstance(values[key], list) or not values[key]:
                raise ValueError(f"{key} must be a list, e.g. '{key}=[…]', got {values[key]!r}")
        for measure in cfg.measures:
            check_measure(measure)
        for target in cfg.targets:
            if target not in TARGETS:
                near = suggest(target, TARGETS)
                raise ValueError(f"targets must be among {', '.join(TARGETS)}, got {target!r}{near}")
        for count in cfg.per_class:
            check_integer("per_class", count, 2)
        for name in ("retrain_head", "fine_tune"):
            if name not in cfg.method:
                raise ValueError(f"method must hold retrain_head and fine_tune, got {', '.join(cfg.method)}")
        for target in values["fine_tuned"]["targets"]:
            if target not in TARGETS:
                raise ValueError(f"fine_tuned.targets: no target {target!r}{suggest(target, TARGETS)}")
        for candidate in values["fine_tuned"]["candidates"]:
            if not candidate.startswith("gluon:"):
                raise ValueError(f"fine_tuned.candidates must be networks of GluonCV, gluon:NAME, got {candidate!r}")
        if cfg.engine.name != "gluon":
            raise ValueError(f"engine must be gluon for experiment={EXPERIMENT}, got {cfg.engine.name}")
        own = values["by_scale"][cfg.scale.name]
        check_integer("draws", own["draws"], 1)
        return cls(
            seed=cfg.seed,
            scale=cfg.scale.name,
            measures=tuple(values["measures"]),
            candidates=tuple(values["candidates"]),
            trained_on=values["trained_on"],
            targets=tuple(values["targets"]),
            per_class=tuple(sorted(values["per_class"])),
            images=own["images"],
            draws=own["draws"],
            epochs=own["epochs"],
            retrain_head=create_method("retrain_head", values["method"]["retrain_head"]),
            fine_tune=create_method("fine_tune", values["method"]["fine_tune"]),
            fine_tuned=values["fine_tuned"],
            results=Path(cfg.paths.results).expanduser(),
            cache=Path(cfg.paths.cache).expanduser().absolute(),
            data_root=cfg.data.root,
            strict=cfg.strict,
        )

    def setting(self) -> dict:
        """What determines the rows; further targets, candidates and sizes are further rows."""
        return {
            "experiment": EXPERIMENT,
            "seed": self.seed,
            "measures": list(self.measures),
            "images": {name: list(most) for name, most in self.images.items()},
            "draws": self.draws,
            "epochs": dict(self.epochs),
            "retrain_head": self._options(self.retrain_head),
            "fine_tune": self._options(self.fine_tune),
        }

    @staticmethod
    def _options(method: RetrainHead | FineTune) -> dict:
        return {key: value for key, value in vars(method).items() if key != "implementation"}

    def folder(self) -> Path:
        """Where the rows stand."""
        return self.results / EXPERIMENT / f"seed{self.seed}-{setting_hash(self.setting())}"

    def deviations(self) -> list[str]:
        """What restricts the images and the training, in words that stand beside each number."""
        of_superclasses = any(target.startswith("cifar100") for target in self.targets)
        names = {*self.targets, *(["superclasses"] if of_superclasses else [])}
        few = {name: most for name, most in self.images.items() if name in names}
        found = [f"{name}: at most {a} training and {b} test images a class" for name, (a, b) in few.items()]
        return [*found, f"fine-tuned for {self.epochs['fine_tune']} epochs"]
