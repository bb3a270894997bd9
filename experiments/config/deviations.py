"""Where a configuration differs from the paper's protocol: said beside every number that it gives."""

from __future__ import annotations

from dataclasses import asdict, replace

from experiments.config.values import RunConfig

NOT_PROTOCOL = ("weights", "title", "implementation")  # how, not what: named elsewhere in the results


def with_deviations(ours: RunConfig, paper: RunConfig) -> RunConfig:
    """The configuration with all that differs from the paper's, of the same experiment, sources, targets, methods."""
    pairs = {(s, t): _pair(ours, paper, s, t) for s in range(len(ours.sources)) for t in range(len(ours.targets))}
    methods = {(m, t): _method(ours, paper, m, t) for m in range(len(ours.methods)) for t in range(len(ours.targets))}
    return replace(
        ours,
        changed={s.name: _changed(asdict(s), asdict(p)) for s, p in zip(ours.sources, paper.sources)},
        summary=_summary(ours, paper),
        pair_deviations={(ours.sources[s].name, ours.targets[t].name): found for (s, t), found in pairs.items()},
        method_deviations={(ours.methods[m].name, ours.targets[t].name): found for (m, t), found in methods.items()},
    )


def _pair(ours: RunConfig, paper: RunConfig, s: int, t: int) -> list[str]:
    source, target = ours.sources[s], ours.targets[t]
    found = _differences(target.task, paper.targets[t].task) + _differences(asdict(source), asdict(paper.sources[s]))
    if (ours.engine.name, ours.engine.precision) != ("gluon", "float32"):
        found.append(f"{ours.engine.name} {ours.engine.precision}")
    return found


def _method(ours: RunConfig, paper: RunConfig, m: int, t: int) -> list[str]:
    method, target = ours.methods[m], ours.targets[t].name
    budget, papers = ours.budgets[method.name, target], paper.budgets[method.name, target]
    found = _differences(asdict(method), asdict(paper.methods[m]))
    if budget.epochs != papers.epochs:
        found.append(f"{budget.epochs} of {papers.epochs} epochs")
    if ours.n_tasks[method.name] != paper.n_tasks[method.name]:
        found.append(f"{ours.n_tasks[method.name]} of {paper.n_tasks[method.name]} tasks")
    if budget.max_examples:
        found.append(f"about {budget.max_examples} examples of a task")
    return found


def _changed(ours: dict, papers: dict) -> frozenset[str]:
    return frozenset(key for key, value in ours.items() if value != papers[key])


def _differences(ours: dict, papers: dict) -> list[str]:
    return [f"{k}={v} for {papers.get(k)}" for k, v in ours.items() if k not in NOT_PROTOCOL and v != papers.get(k)]


def _summary(ours: RunConfig, paper: RunConfig) -> str:
    left_out = []
    for method in ours.methods:
        tasks, all_tasks = ours.n_tasks[method.name], paper.n_tasks[method.name]
        parts = [f"{tasks} of {all_tasks} tasks"] if tasks < all_tasks else []
        fewer = {}
        for target in ours.targets:
            budget, papers = ours.budgets[method.name, target.name], paper.budgets[method.name, target.name]
            if (budget.epochs or 0) < (papers.epochs or 0):
                fewer[target.name] = f"{budget.epochs} of {papers.epochs}"
        if len(set(fewer.values())) == 1 and len(fewer) == len(ours.targets):
            parts.append(f"{next(iter(fewer.values()))} epochs")
        else:
            parts += [f"{count} epochs on {target}" for target, count in fewer.items()]
        if max_examples := ours.budgets[method.name, ours.targets[0].name].max_examples:
            parts.append(f"about {max_examples} examples of a task")
        left_out += [f"{method.name}: {', '.join(parts)}"] if parts else []
    return f"{ours.experiment.name}, scale={ours.scale}: " + (
        "; ".join(left_out) + (" (scale=paper: all)" if ours.scale != "paper" else "")
        if left_out
        else "nothing of the paper's protocol is left out"
    )
