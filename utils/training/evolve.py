"""`--evolve N`: many trainings with other hyperparameters, of which the best are the parents of the next."""

import dataclasses
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from utils.errors import UserError
from utils.files import write_text
from utils.training.hyp import Hyp, parse_hyp
from utils.training.progress import LossNotFinite
from utils.training.search_space import search_space

log = logging.getLogger(__name__)

Report = Callable[[int, float], None]
"""Told the epoch, from 0, and its fitness; raises what ends a training that is worse than most others were."""

_NAME = "evolve"
DEFAULT_TRIALS = 300
"""As in YOLOv5."""
_FULL_TRIALS = 5
"""So many trainings are never cut short: they are what the others are compared with."""


SEARCH_SETTINGS = ("data", "cfg", "weights", "imgsz", "batch_size", "epochs", "single_cls", "freeze", "optimizer")
"""Options of train.py that all trainings of a search have to share, or their fitness could not be compared."""


def evolve(
    directory: Path,
    base: Hyp,
    trials: int,
    epochs: int,
    train_trial: Callable[[Hyp, Report], float],
    *,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Hyp:
    """Look for hyperparameters of a greater fitness.

    The first training uses `base`, the next ones what a tree-structured Parzen estimator proposes. One whose fitness
    falls below the median of the others at that epoch ends early. Everything is in `evolve.db` in the folder, so a
    search that was interrupted, even killed, goes on when it is started in the same folder; evolve.csv,
    hyp_evolve.yaml and evolve.png are brought up to date after every training.

    Args:
        directory: Existing; of the whole search.
        base: To start from.
        trials: Number of trainings, those already done included; 0 for the number that the search began with.
        epochs: Of each.
        train_trial: Trains with these hyperparameters, reports every epoch, and returns the best fitness. What the
            report raises must pass through it.
        settings: What else all trainings share, see `SEARCH_SETTINGS`; a search goes on with the same only.
        seed: Of the proposals.

    Returns:
        The best hyperparameters, also in `hyp_evolve.yaml`.

    Raises:
        UserError: If Optuna is not installed, the folder holds a search from another start, or no training succeeded.

    Source: https://optuna.org; TPE, https://papers.nips.cc/paper/4443; ranges as `search_space` says.
    """
    optuna = _load_optuna()
    study = _open_study(optuna, directory, base, epochs, seed)
    _check_settings(study, directory, json.loads(json.dumps(dict(settings or {}))))
    trials = trials or study.user_attrs.get("trials", DEFAULT_TRIALS)
    study.set_user_attr("trials", trials)
    _write(directory, study, base)  # a process that was killed may have left that undone
    while (done := len(_finished(study))) < trials:
        trial = study.ask()
        hyp = _propose(trial, base)
        log.info("\ntraining %d of %d", done + 1, trials)
        state, fitness = optuna.trial.TrialState.COMPLETE, None
        try:
            fitness = train_trial(hyp, _reporter(optuna, trial))
        except LossNotFinite as error:
            log.warning("%s", error)
            state = optuna.trial.TrialState.PRUNED
        except optuna.TrialPruned:
            log.info("worse than most trainings were after as many epochs, so it ends")
            state = optuna.trial.TrialState.PRUNED
        except BaseException:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            log.info("the search can go on in %s", directory)
            raise
        study.tell(trial, fitness, state=state)
        _write(directory, study, base)
    return parse_hyp(_best(study).user_attrs["hyp"], str(directory))


def _load_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError(f"--evolve needs Optuna ({error}); install it with: pip install optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _open_study(optuna: Any, directory: Path, base: Hyp, epochs: int, seed: int) -> Any:
    states = optuna.trial.TrialState
    study = optuna.create_study(
        study_name=_NAME,
        storage=f"sqlite:///{directory.resolve() / 'evolve.db'}",
        direction="maximize",
        load_if_exists=True,
    )
    start = study.user_attrs.setdefault("base", base.to_dict())
    if start != base.to_dict():
        changed = [key for key in start.keys() | base.to_dict().keys() if start.get(key) != base.to_dict().get(key)]
        raise UserError(
            f"{directory}: the search in it began with other hyperparameters ({', '.join(sorted(changed))}); use the "
            "same --hyp to go on with it, or another --name for a new search"
        )
    study.set_user_attr("base", start)
    if not study.get_trials(deepcopy=False, states=(states.COMPLETE, states.PRUNED, states.WAITING)):
        study.enqueue_trial({key: getattr(base, key) for key in search_space(base)})
    # Another seed each time it goes on, or it would propose once more what it proposed at first.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
    study.pruner = optuna.pruners.MedianPruner(n_startup_trials=_FULL_TRIALS, n_warmup_steps=epochs // 4)
    return study


def _check_settings(study: Any, directory: Path, settings: dict[str, Any]) -> None:
    """Keep the settings of a new search; those of one that goes on must be the same."""
    start = study.user_attrs.get("settings", settings)
    changed = [
        f"--{key} {start.get(key)!r}, now {value!r}" for key, value in settings.items() if start.get(key) != value
    ]
    if changed:
        raise UserError(
            f"{directory}: the search in it has other settings ({'; '.join(changed)}); repeat its options, or start a "
            "new search under another --name"
        )
    study.set_user_attr("settings", settings)


def _propose(trial: Any, base: Hyp) -> Hyp:
    """Hyperparameters of a trial, to five digits as they are written to files."""
    values = {
        key: float(f"{trial.suggest_float(key, range_.low, range_.high, log=range_.log):.5g}")
        for key, range_ in search_space(base).items()
    }
    hyp = dataclasses.replace(base, **values)
    trial.set_user_attr("hyp", hyp.to_dict())
    return hyp


def _reporter(optuna: Any, trial: Any) -> Report:
    def report(epoch: int, fitness: float) -> None:
        trial.report(fitness, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    return report


def _finished(study: Any) -> list[Any]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name in ("COMPLETE", "PRUNED")]


def _best(study: Any) -> Any:
    complete = [trial for trial in _finished(study) if trial.state.name == "COMPLETE"]
    if not complete:
        raise UserError(
            "--evolve: none of the trainings came to its end, so there is no result; try a --hyp with a lower lr0"
        )
    return max(complete, key=lambda trial: trial.value)


def _write(directory: Path, study: Any, base: Hyp) -> None:
    """Bring evolve.csv, hyp_evolve.yaml and evolve.png up to date."""
    finished = _finished(study)
    if not any(trial.state.name == "COMPLETE" for trial in finished):
        return
    keys = list(base.to_dict())
    lines = [_line(["trial", "state", "epochs", "fitness", *keys])]
    for trial in finished:
        fitness = _fitness(trial)
        values = [f"{number:.5g}" for number in (fitness, *(trial.user_attrs["hyp"][key] for key in keys))]
        lines.append(_line([str(trial.number), trial.state.name.lower(), str(len(trial.intermediate_values)), *values]))
    write_text(directory / "evolve.csv", "\n".join(lines) + "\n")

    best = _best(study)
    title = f"# The best of {len(finished)} trainings: trial {best.number} with fitness {best.value:.5g}.\n"
    content = yaml.safe_dump(best.user_attrs["hyp"], sort_keys=False)
    write_text(directory / "hyp_evolve.yaml", title + content)

    from utils.show.evolution_plot import save_evolution_plot

    searched = {key: [trial.user_attrs["hyp"][key] for trial in finished] for key in search_space(base)}
    save_evolution_plot(directory / "evolve.png", searched, [_fitness(t) for t in finished], finished.index(best))


def _fitness(trial: Any) -> float:
    """Of a training that was cut short, the best that it reached."""
    return trial.value if trial.state.name == "COMPLETE" else max(trial.intermediate_values.values(), default=0.0)


def _line(cells: list[str]) -> str:
    return ",".join(f"{cell:>20}" for cell in cells)
