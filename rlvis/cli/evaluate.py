"""`rlvis eval`: held-out evaluation of the configured policy, or of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlvis.cli.arguments import overrides_of, process
from rlvis.cli.exit_codes import OK, exit_code_of, log_to_stderr
from rlvis.findings import ConfigError

if TYPE_CHECKING:
    from rlvis.compose.command import Composed
    from rlvis.schema import Config

HELP = """\
usage: rlvis eval [eval=OPTION] [GROUP=OPTION ...] [KEY=VALUE ...] [--config-dir DIR]

  rlvis eval eval=shapes                               the policy as it comes, before any training
  rlvis eval eval.run=outputs/NAME/DATE_TIME           a finished run: its weights, its configuration
  rlvis eval eval.run=RUN eval=shapes eval.samples=4 run_dir=DIR     with other settings, written to DIR
  rlvis eval eval.run=RUN/checkpoints/step_000020      a checkpoint
  rlvis eval data=txt data.path=prompts.txt eval.split=train eval.terms.jpeg.scorer=jpeg_compressibility
  torchrun --nproc-per-node 8 --no-python rlvis eval eval.run=RUN

  --config-dir DIR     a folder with option files of your own
  -h, --help           this text

Options (* is what training takes):

{options}

Keys of eval, with their values in that option:

{keys}

Samples are drawn by the deterministic sampler from noise that depends on the prompt and eval.seed alone.
Results: step_NNNNNN.parquet (a row for each sample) and summary.json, in RUN/eval, outputs/eval/NAME, or
run_dir. Printed intervals are bootstraps over prompts. Exit codes: 0 done, 1 failed, 2 a mistake in the
configuration, 130 interrupted.
"""


def run(words: Sequence[str]) -> int:
    """`rlvis eval`: held-out evaluation of the configured policy, or of a run."""
    overrides, folder = overrides_of(words, "eval")
    if overrides is None:
        from rlvis.compose.describe import listing, section

        print(HELP.format(options=listing(["eval"]), keys=section("eval", "shapes")), end="")
        return OK
    from rlvis.compose.command import compose

    rank, _ = process()
    composed = compose([*overrides, *folder])
    config = checked_evaluation(composed)
    if config.dry_run:
        if rank == 0:
            print("dry run: the configuration and its files are in order; nothing was loaded")
        return OK
    log_to_stderr(rank)
    return exit_code_of(lambda: _evaluate(config, rank))


def _evaluate(config: Config, rank: int) -> int:
    from rlvis.training.evaluate import evaluate_policy

    done = evaluate_policy(config)
    if rank == 0:
        print(f"{done.listing}\n{done.path}")
    return OK


def checked_evaluation(composed: Composed) -> Config:
    """The configuration of an evaluation: that of the run where eval.run names one.

    Raises ConfigError with every problem, one a line.
    """
    from dataclasses import replace

    from rlvis.checkpoints.eval_weights import evaluation_config
    from rlvis.checks.config import check_evaluation
    from rlvis.checks.evaluation import eval_files
    from rlvis.checks.files import files
    from rlvis.schema import Stage

    config = evaluation_config(composed.typed(), composed.touched)
    alone = replace(
        config, stage=Stage.all, data=replace(config.data, prompts_per_step=1)
    )  # it takes no steps
    errors = check_evaluation(config) or [*files(alone), *eval_files(config, alone=True)]
    if errors:
        raise ConfigError(*errors)
    return config
