"""A search for the best settings, in a folder that any number of processes share.

Tree-structured Parzen estimators (Bergstra et al. 2011) choose the settings of a trial; successive
halving that waits for no other trial (Li et al. 2020, arXiv:1810.05934) stops bad ones early. Both
are Optuna's (Akiba et al. 2019, arXiv:1907.10902), and so is the SQLite file that holds the trials.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mv_lightning.artifacts.layout import StudyFolder
from mv_lightning.experiments.search_space import SearchSpace
from mv_lightning.formatting import setting_differences
from mv_lightning.training.run_lock import RunLock, wait_for_lock

if TYPE_CHECKING:
    import optuna

FIRST = 0
"""Number of the trial with the report's settings; it is never stopped early."""
FINISHED, PRUNED = "finished", "pruned"
_NAME = "tune"
_SECONDS, _OUTCOME, _SETTINGS = "seconds", "outcome", "settings"


@dataclass(frozen=True)
class Budget:
    """When no further trial is started."""

    trials: int | None = None
    """Trials, of all processes and starts."""
    minutes: float | None = None
    """Time that the trials took, added up over all processes and starts."""


@dataclass(frozen=True)
class TrialRecord:
    """What is known about a trial."""

    number: int
    params: Mapping[str, Any]
    """What it tries, by option."""
    state: str
    """`finished`, `pruned`, `running`, `waiting`, or why it failed."""
    log_loss: float | None
    """On the validation rows after all steps; None for a trial that did not get there."""
    last_loss: float | None
    """At its last validation; None before the first."""
    steps: int
    """Optimizer steps at its last validation."""
    minutes: float


class OpenTrial:
    """A trial that this process owns until it closes it."""

    def __init__(
        self,
        study: optuna.Study,
        trial: optuna.Trial,
        space: SearchSpace,
        lock: RunLock,
    ) -> None:
        """Draw the settings of a new trial, or take those of one that another process began.

        Args:
            study: The study.
            trial: One of its trials.
            space: What it may try.
            lock: Its lock, held.
        """
        self.number = trial.number
        self.params = space.suggest(trial)
        self._study = study
        self._trial = trial
        self._lock = lock
        self._seconds_before = float(trial.user_attrs.get(_SECONDS, 0))
        self._since = time.monotonic()
        self._reported = set(study.trials[trial.number].intermediate_values)

    def report(self, losses: Mapping[int, float]) -> bool:
        """Store the validations so far, and return whether the trial is to be stopped.

        Args:
            losses: Log loss by optimizer step, without that of the last step.
        """
        stop = False
        for step in sorted(losses.keys() - self._reported):
            self._reported.add(step)
            self._trial.report(losses[step], step)
            self._store_seconds()
            worse = self._trial.should_prune()  # asked of every trial: it enters the comparison
            stop = worse and self.number != FIRST
            if stop:
                break
        return stop

    def close(self, outcome: str, log_loss: float | None = None, steps: int = 0) -> None:
        """End the trial.

        One that failed is told to the sampler as the worst, so that it looks elsewhere.

        Args:
            outcome: `FINISHED`, `PRUNED`, or why it failed.
            log_loss: On the validation rows after all steps, of a finished trial.
            steps: How many steps these are.
        """
        from optuna.trial import TrialState

        if log_loss is not None:
            self._trial.report(log_loss, steps)
        self._store_seconds()
        self._trial.set_user_attr(_OUTCOME, outcome)
        state = TrialState.COMPLETE if outcome == FINISHED else TrialState.PRUNED
        self._study.tell(self._trial, log_loss, state)
        self._lock.release()

    def _store_seconds(self) -> None:
        seconds = self._seconds_before + time.monotonic() - self._since
        self._trial.set_user_attr(_SECONDS, seconds)


class Search:
    """The trials in a folder. A process that is killed loses none: another continues its trial."""

    def __init__(
        self,
        folder: StudyFolder,
        space: SearchSpace,
        first: Mapping[str, Any],
        settings: Mapping[str, Any],
        first_rung: int,
        seed: int,
    ) -> None:
        """Open the study of a folder, or begin one.

        Args:
            folder: Of the study.
            space: What is searched.
            first: What the first trial tries.
            settings: What all trials have in common, as plain values.
            first_rung: Optimizer steps after which a trial may be stopped.
            seed: Of the sampler.

        Raises:
            ValueError: Optuna is missing, or the study was begun with other settings.
        """
        try:
            import optuna
        except ImportError as error:
            raise ValueError("tune needs Optuna: pip install 'mv-lightning[tune]'") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._folder, self._space, self._seed = folder, space, seed
        folder.path.mkdir(parents=True, exist_ok=True)
        with self._exclusive():
            self._study = optuna.create_study(
                study_name=_NAME,
                storage=optuna.storages.RDBStorage(
                    f"sqlite:///{folder.storage}",
                    engine_kwargs={"connect_args": {"timeout": 60}},  # other processes write too
                ),
                pruner=optuna.pruners.SuccessiveHalvingPruner(first_rung, space.reduction),
                load_if_exists=True,
            )
            plain = json.loads(json.dumps(settings, default=str))
            stored = self._study.user_attrs.setdefault(_SETTINGS, plain)
            differences = setting_differences(stored, plain)
            if differences:
                raise ValueError(
                    f"the study in {folder.path} was begun with other settings: {differences}. "
                    "Restore them, or name another folder with --folder"
                )
            self._study.set_user_attr(_SETTINGS, plain)
            if not self._study.trials:
                self._study.enqueue_trial(dict(first))

    def next_trial(self, budget: Budget) -> OpenTrial | None:
        """Return a trial that lost its process, or a new one; None where the budget is spent.

        Args:
            budget: When no new trial is started.
        """
        import optuna

        with self._exclusive():
            trials = self._study.trials
            for frozen in trials:
                lock = RunLock(self._folder.trial_lock(frozen.number))
                if frozen.state == optuna.trial.TrialState.RUNNING and lock.try_acquire():
                    self._set_sampler(frozen.number)
                    trial = optuna.Trial(self._study, frozen._trial_id)
                    return OpenTrial(self._study, trial, self._space, lock)
            records = self.records()
            started = [record for record in records if record.state != "waiting"]
            if budget.trials is not None and len(started) >= budget.trials:
                return None
            minutes = sum(record.minutes for record in records)
            if budget.minutes is not None and minutes >= budget.minutes:
                return None
            self._set_sampler(len(started))
            trial = self._study.ask()
            lock = RunLock(self._folder.trial_lock(trial.number))
            lock.acquire()
            return OpenTrial(self._study, trial, self._space, lock)

    def records(self) -> list[TrialRecord]:
        """Return all trials, in the order of their numbers."""
        records = []
        for trial in self._study.trials:
            state = trial.user_attrs.get(_OUTCOME, trial.state.name.lower())
            seconds = trial.user_attrs.get(_SECONDS, 0)
            params = trial.params or trial.system_attrs.get("fixed_params", {})
            log_loss = trial.value if state == FINISHED else None
            steps = trial.last_step or 0
            last_loss = trial.intermediate_values.get(steps)
            records.append(
                TrialRecord(trial.number, params, state, log_loss, last_loss, steps, seconds / 60)
            )
        return records

    def best(self) -> TrialRecord | None:
        """Return the finished trial with the lowest validation log loss, None without any."""
        finished = [record for record in self.records() if record.log_loss is not None]
        return min(finished, key=lambda record: record.log_loss or 0, default=None)

    def importances(self) -> dict[str, float]:
        """Return the share of the variance of the log loss that each option accounts for, 0 to 1.

        By functional ANOVA (Hutter et al. 2014); empty where too few trials are finished.
        """
        import optuna

        try:
            return optuna.importance.get_param_importances(
                self._study,
                evaluator=optuna.importance.FanovaImportanceEvaluator(seed=self._seed),
            )
        except (ValueError, RuntimeError):  # its way to say that there is nothing to compare
            return {}

    def _set_sampler(self, number: int) -> None:
        """Give a trial a sampler of its own: what it draws depends on the trials before, and not on
        how often the search was interrupted."""
        import optuna

        with warnings.catch_warnings(action="ignore"):  # constant_liar is new
            self._study.sampler = optuna.samplers.TPESampler(
                seed=self._seed + number, constant_liar=True
            )

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """No other process opens or begins a trial meanwhile."""
        with wait_for_lock(self._folder.lock):
            yield
