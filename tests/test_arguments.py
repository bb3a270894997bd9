"""The command line: any path in every option that takes one, and a mistake as one line that names what was meant."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from experiments.config.arguments import explain, prepare
from experiments.config.resolve import resolve
from leep.errors import Invalid

NAMES = [
    *("year=2019", "images (1)", "l'été", "a,b", "a #b", "$HOME", "${x}", "a\\${b}c", "new\nline", "'q'x", 'say "hi"'),
    *("[x", "{a: b}", "~/x", "back\\", "true", "12", "日本", "*?", "a${", " lead", "tab\tx", "%s", "@x", "a&b|c;d"),
]
OPTIONS = ["target.folder.path", "paths.results", "paths.cache", "data.root"]
OPTIONS += ["source.cifar10_resnet20.weights", "method.cnaps.weights"]


@pytest.fixture(scope="module", autouse=True)
def conf():
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


@pytest.mark.parametrize("name", NAMES)
def test_any_path_comes_through_the_grammar_of_hydra(name):
    for override in OverridesParser.create().parse_overrides(prepare([f"{option}={name}" for option in OPTIONS])):
        assert OmegaConf.create({"path": override.value()}).path == name


def test_every_option_of_a_path_takes_it():
    more = ["source=[cifar10_resnet20]", "target=[folder]", "method=[cnaps]", "seed=3"]
    name = "l'été, (${x}) = [1]"
    cfg = compose("config", prepare([*more, *(f"{option}={name}" for option in OPTIONS)]))
    assert {OmegaConf.select(cfg, option) for option in OPTIONS} == {name} and cfg.seed == 3


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("data.root=null", None),
        ("data.root='a, b'", "a, b"),
        ('data.root="l\'eau"', "l'eau"),
        ("source.cifar10_resnet20.weights=[gluon,my.params]", ["gluon", "my.params"]),
        ("target.cifar100.title=Fünf", "Fünf"),
        ("measures=[leep,nce]", ["leep", "nce"]),
        ("seed=7", 7),
    ],
)
def test_other_values_keep_the_grammar_of_hydra(given, value):
    assert OmegaConf.select(compose("config", prepare([given])), given.partition("=")[0]) == value


def test_in_a_sweep_a_comma_separates_paths():
    assert prepare(["-m", "data.root=a b,c=d", "seed=0,1"]) == ["-m", "data.root='a b','c=d'", "seed=0,1"]
    assert prepare(["--help", "-cd", "x=y"])[:2] == ["--help", "-cd"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("experiment=smal_balanced", "experiment must be among .*got 'smal_balanced'; did you mean 'small_balanced'"),
        ("source=[cifar10_resnet2]", "source must be among .*imagenet_senet154.*did you mean 'cifar10_resnet20'"),
        ("target=[cifar100,cifar11]", "target must be among cifar10, cifar100, .*did you mean 'cifar10'"),
        ("method=[fine_tun]", "method must be among cnaps, .*did you mean 'fine_tune'"),
        ("scale=papr", "did you mean 'paper'"),
        ("engine=5", "engine must be among gluon, torch, got '5'"),
        ("source=[5]", "source must be among .*got '5'"),
        ("sorce=[imagenet_resnet18]", "unknown key sorce; the keys are .*did you mean 'source'"),
        ("n_task=5", "unknown key n_task; .*did you mean 'n_tasks'"),
        ("target.foldr.path=x", r"unknown key target.foldr; .*as named by 'target=\[…\]'; did you mean 'folder'"),
        ("target.folder.pth=x", "unknown key target.folder.pth; the keys are .*did you mean 'path'"),
        ("engine.precison=x", "unknown key engine.precison; .*did you mean 'precision'"),
        ("method.fine_tune.momentun=0.9", "unknown key method.fine_tune.momentun; .*did you mean 'momentum'"),
        ("+method.fine_tune.momentun=0.9", "unknown key method.fine_tune.momentun; .*did you mean 'momentum'"),
        ("+measure=[leep]", "unknown key measure; .*did you mean 'measures'"),
        ("++paths.reslts=x", "unknown key paths.reslts; the keys are results, cache; did you mean 'results'"),
        ("scale.max_tasks.fine_tun=3", "unknown key scale.max_tasks.fine_tun; .*did you mean 'fine_tune'"),
        ("measures=[lepe]", "measures must be among .*did you mean 'leep'"),
        ("engine.precision=flaot32", "engine.precision must be among .*did you mean 'float32'"),
        ("small_balanced", "expected key=value, got 'small_balanced'"),
        ("source=[a", r"expected key=value, got 'source=\[a'; quote"),
        ("task=5", "task must map names to values, got 5"),
        ("~seed", "seed must be given, e.g. seed=0"),
        ("seed=${nowhere}", "Interpolation key 'nowhere' not found"),
    ],
)
def test_a_mistake_is_one_line_without_the_advice_of_hydra(given, expected):
    more = ["source=[cifar10_resnet20]", "target=[folder]", "target.folder.path=x"]
    more = [] if given.startswith(("source", "target=")) else more
    with pytest.raises((HydraException, Invalid)) as raised:
        resolve(compose("config", prepare([*more, "method=[fine_tune]", given])))
    error = raised.value
    said = explain(error) if isinstance(error, HydraException) else str(error)
    assert re.search(expected, said), said
    assert "\n" not in said and "+" not in said.replace(given, "") and "HYDRA" not in said


@pytest.mark.parametrize("given", ["experiment=smal_balanced", "sorce=[x]", "-m seed=0,1 engine.precison=x"])
def test_run_py_says_it_on_one_line_and_exits_with_two(given, tmp_path):
    command = [sys.executable, "run.py", *given.split(), f"paths.results={tmp_path}/r, (1)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("run.py: ") and "did you mean" in done.stderr


def test_run_py_says_it_too_of_the_experiments_that_it_composes(tmp_path):
    more = ["experiment=measure_comparison", "task.per_clas=3", f"paths.results={tmp_path}"]
    command = [sys.executable, "run.py", *more]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("run.py: unknown key task") and done.stderr.count("\n") == 1
