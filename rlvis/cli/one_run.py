"""One run of `rlvis train`: composed, checked, announced, trained, reported."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlvis.cli.arguments import process
from rlvis.cli.exit_codes import OK, exit_code_of, log_to_stderr
from rlvis.findings import ConfigError

if TYPE_CHECKING:
    from rlvis.compose.command import Composed
    from rlvis.schema import Config
    from rlvis.training.loop import Outcome

log = logging.getLogger(__name__)


def one(overrides: Sequence[str], ended: Callable[[Path], None] = lambda run_dir: None) -> int:
    """One run: compose, check, tell the numbers, train, report. ended: gets the folder of a training."""
    from rlvis.checks.files import count_prompts
    from rlvis.compose.command import compose
    from rlvis.plan.summary import summary

    rank, size = process()
    composed = compose(overrides)
    config = checked(composed, composed.typed().plan_gpus or size, is_main=rank == 0)
    size = config.plan_gpus or size
    if rank == 0:
        print(summary(config, size, count_prompts(config)), flush=True)
        print(*remarks(composed, config), sep="", end="", file=sys.stderr)
    if config.dry_run:
        if rank == 0:
            print("dry run: the configuration and its files are in order; nothing was loaded")
        return OK
    log_to_stderr(rank)
    if config.plan:
        return exit_code_of(lambda: _plan(config, size, rank))
    if done := finished(config):
        if rank == 0:
            print(done)
        return OK
    return exit_code_of(lambda: _train(config, overrides, rank, ended))


def finished(config: Config) -> str:
    """Why there is nothing to do: a run that is resumed has more steps than are asked for; else empty."""
    from rlvis.checkpoints import files
    from rlvis.schema import Stage

    if config.resume is None or config.stage is not Stage.all:
        return ""
    done = max(map(files.step_of, files.whole(Path(config.resume))), default=0)
    if done <= config.train.steps:
        return ""
    return (
        f"nothing to do: {config.resume} has {done} training steps done, and train.steps="
        f"{config.train.steps} asks for no more; type train.steps={done + 1} or more to go on. Its files "
        "are as they were"
    )


def _plan(config: Config, size: int, rank: int) -> int:
    """Print the plan, on the leading process."""
    if rank == 0:
        from rlvis.plan.run import plan
        from rlvis.runtime.deepspeed_setup import quiet_deepspeed

        quiet_deepspeed("cpu")
        print(plan(config, size))
    return OK


def _train(config: Config, overrides: Sequence[str], rank: int, ended: Callable[[Path], None]) -> int:
    from rlvis.runs.exit_state import folder_of
    from rlvis.schema import Stage

    try:
        outcome = start(config, ["rlvis", "train", *overrides])
    except Exception as error:
        if run_dir := folder_of(error):
            ended(run_dir)
        raise
    ended(outcome.run_dir)
    if rank == 0:
        if config.stage is Stage.all:  # one stage has no curves: what it made lies in `records`
            write_report(outcome.run_dir)
        if outcome.remark:
            print(f"warning: {outcome.remark}", file=sys.stderr)
    return outcome.exit_code


def remarks(composed: Composed, config: Config) -> list[str]:
    """A line each about what the words mean beyond what they say: values of an experiment that an option
    replaced, a prior that nothing reads.
    """
    lines = [f"{composed.replaced}\n"] if composed.replaced and config.resume is None else []
    kind = composed.typed().prior.kind
    if config.resume is None and config.prior.kind != kind:
        lines.append(
            f"prior.kind={kind} is not computed, as nothing reads it: trust.kind=none, "
            "trust.crt.form=none; type trust=ras for what does\n"
        )
    return lines


def checked(composed: Composed, world_size: int = 1, *, is_main: bool = True) -> Config:
    """The configuration of a run, without contradictions; `resume` is a folder in it, or null.

    Raises ConfigError with every problem, one a line. is_main: also look whether the run's folder is free.
    """
    from rlvis.checkpoints import open_run
    from rlvis.checkpoints.resume import resume_config
    from rlvis.checks.config import check
    from rlvis.checks.evaluation import eval_files
    from rlvis.checks.files import files
    from rlvis.checks.trust import without_unread_prior

    config = composed.typed()
    if config.resume is None or "*" in composed.touched:  # else the run that is resumed says what reads it
        config = without_unread_prior(config)
    errors = check(config, world_size)
    if not errors and config.resume is not None:
        auto, config = config.name, resume_config(config, composed.touched)
        if config.resume is None and is_main:
            print(
                f"resume=auto: no run below outputs/{auto} has a whole checkpoint; this is a new run",
                file=sys.stderr,
            )
        config = without_unread_prior(config)
        errors = check(config, world_size)
    errors = errors or [*files(config), *eval_files(config)] or (open_run.errors(config) if is_main else [])
    if errors:
        raise ConfigError(*errors)
    return config


def start(config: Config, argv: list[str]) -> Outcome:
    """Import what a run needs, and run."""
    from rlvis.doctor import examine
    from rlvis.training.loop import train

    return train(config, argv, examine)


def write_report(run_dir: Path) -> None:
    """The report is worth a word when it fails, but not the run."""
    from rlvis.cli.report import page
    from rlvis.report import card, heldout

    try:
        card.complete(run_dir)
        print(*filter(None, [heldout.outcome(run_dir), page(run_dir)]), sep="\n")
    except Exception:
        log.exception(
            "the run in %s is done, but its report is not; rlvis report %s tries again", run_dir, run_dir
        )
