"""`rlvis train`: one run, or only what --help and --cfg print; sweeps are in sweep.py."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlvis.cli.arguments import parse, process, search
from rlvis.cli.exit_codes import OK, exit_code_of, log_to_stderr
from rlvis.findings import ConfigError

if TYPE_CHECKING:
    from rlvis.compose.command import Composed
    from rlvis.schema import Config
    from rlvis.training.loop import Outcome

log = logging.getLogger(__name__)

HELP = """\
usage: python train.py [GROUP=OPTION ...] [KEY=VALUE ...] [-m] [--cfg job [--resolve]] [--config-dir DIR]

  python train.py                                      the embedded default: a tiny policy, on a CPU
  python train.py model=sd3 engine=zero1 data=txt data.path=prompts.txt reward=jpeg
  python train.py experiment=jpeg_sd3 data.path=prompts.txt
  python train.py experiment=flow_grpo_sd3_pickscore debug=tiny  two steps of a recipe with the tiny policy
  python train.py model.lora.rank=8 optim.lr=1e-4      values; naming a key below a null section turns it on
  python train.py reward=[coverage,jpeg] reward.terms.jpeg.weight=0.1
  python train.py reward=function reward.terms.function.scorer=my_module.my_function
  python train.py dry_run=true                         checks and the numbers that follow; loads nothing
  python train.py experiment=flow_grpo_sd3_pickscore data.path=prompts.txt plan=true plan_gpus=32 plan_gib=80
                                                       memory of a GPU, seconds of a step; loads nothing
  python train.py resume=auto                          go on with the newest run of this name (or RUN_DIR)
  python train.py resume=auto optim.lr=1e-4 resume_allow=[optim.lr]     ... with this one change
  python train.py stage=rollout records=DIR            one stage alone; then score, weigh, build, update
  python train.py stage=reference trust=ras prior=reference     scores for that prior, kept in prior.cache
  python train.py -m sampler.eta=0.3,0.7 seed=1,2      a sweep: every combination, one after the other
  torchrun --nproc-per-node 8 train.py experiment=jpeg_sd3 data.path=prompts.txt

  -m, --multirun       values such as A,B or range(3) run one after the other (hydra/launcher=...: elsewhere)
  -c, --cfg job        print the composed configuration and stop; --resolve fills in interpolations
  --config-dir DIR     a folder with option files of your own, such as DIR/reward/mine.yaml
  -h, --help           this text

Groups and options (* is the default):

{options}

A run writes into outputs/NAME/DATE_TIME (or run_dir=DIR): config.yaml, manifest.json, metrics.jsonl, samples,
checkpoints, the trained weights for diffusers, report.html. Exit codes: 0 done, 1 failed, 2 a mistake in the
configuration, 130 interrupted.
"""


def run(words: Sequence[str]) -> int:
    """`rlvis train`: one run, a sweep, or only what --help and --cfg print."""
    flags, overrides = parse(words)
    if "help" in flags:
        from rlvis.compose.describe import listing

        print(HELP.format(options=listing()), end="")
        return OK
    if "config-dir" in flags:
        overrides.append(search(flags["config-dir"]))
    if "cfg" in flags:
        return _print_config(flags, overrides)
    if "multirun" in flags:
        from rlvis.cli.sweep import sweep

        return sweep(overrides)
    return one(overrides)


def one(overrides: Sequence[str]) -> int:
    """One run: compose, check, tell the numbers, train, report."""
    from rlvis.checks.files import count_prompts
    from rlvis.compose.command import compose
    from rlvis.plan.summary import summary

    rank, size = process()
    composed = compose(overrides)
    config = checked(composed, composed.typed().plan_gpus or size, is_main=rank == 0)
    size = config.plan_gpus or size
    if rank == 0:
        print(summary(config, size, count_prompts(config)), flush=True)
    if config.dry_run:
        if rank == 0:
            print("dry run: the configuration and its files are in order; nothing was loaded")
        return OK
    log_to_stderr(rank)
    if config.plan:
        return exit_code_of(lambda: _plan(config, size, rank))
    return exit_code_of(lambda: _train(config, overrides, rank))


def _plan(config: Config, size: int, rank: int) -> int:
    """Print the plan, on the leading process."""
    if rank == 0:
        from rlvis.plan.run import plan
        from rlvis.runtime.deepspeed_setup import quiet_deepspeed

        quiet_deepspeed("cpu")
        print(plan(config, size))
    return OK


def _train(config: Config, overrides: Sequence[str], rank: int) -> int:
    outcome = start(config, ["rlvis", "train", *overrides])
    if rank == 0:
        _write_report(outcome.run_dir)
    return outcome.exit_code


def checked(composed: Composed, world_size: int = 1, *, is_main: bool = True) -> Config:
    """The configuration of a run, without contradictions; `resume` is a folder in it, or null.

    Raises ConfigError with every problem, one a line. is_main: also look whether the run's folder is free.
    """
    from rlvis.checkpoints import open_run
    from rlvis.checkpoints.resume import resume_config
    from rlvis.checks.config import check
    from rlvis.checks.evaluation import eval_files
    from rlvis.checks.files import files

    config = composed.typed()
    errors = check(config, world_size)
    if not errors and config.resume is not None:
        auto, config = config.name, resume_config(config, composed.touched)
        if config.resume is None and is_main:
            print(
                f"resume=auto: no run below outputs/{auto} has a whole checkpoint; this is a new run",
                file=sys.stderr,
            )
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


def _print_config(flags: dict[str, str], overrides: Sequence[str]) -> int:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from rlvis.compose.command import compose, one_line

    if flags["cfg"] != "job":
        raise ConfigError(f"--cfg {flags['cfg']}: wanted --cfg job, which prints the configuration of a run")
    if "multirun" in flags:
        raise ConfigError("--cfg prints one configuration; leave out -m")
    try:
        print(OmegaConf.to_yaml(compose(overrides).config, resolve="resolve" in flags), end="")
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    return OK


def _write_report(run_dir: Path) -> None:
    """The report is worth a word when it fails, but not the run."""
    from rlvis.cli.report import page
    from rlvis.report import card

    try:
        card.complete(run_dir)
        print(page(run_dir))
    except Exception:
        log.exception(
            "the run in %s is done, but its report is not; rlvis report %s tries again", run_dir, run_dir
        )
