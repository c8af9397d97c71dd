"""`rlvis doctor`: everything that is looked at before a training, without the training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rlvis.cli.arguments import overrides_of, process
from rlvis.cli.exit_codes import FAILED, OK, exit_code_of, log_to_stderr
from rlvis.cli.one_run import checked
from rlvis.findings import ConfigError, mistake

if TYPE_CHECKING:
    from rlvis.schema import Config

WIDTH = 110  # columns where no terminal says how many it has

HELP = """\
usage: rlvis doctor [GROUP=OPTION ...] [KEY=VALUE ...] [--config-dir DIR]

  rlvis doctor                                         the embedded default
  rlvis doctor experiment=tiny_video                   the words of a training, without the training
  rlvis doctor experiment=flow_grpo_sd3_pickscore data.path=prompts.txt doctor=strict
  rlvis doctor advantage=bpgo trust=posterior debug=tiny
  rlvis doctor resume=auto                             the run as it would go on
  rlvis doctor run_dir=DIR                             also writes DIR/doctor.json
  torchrun --nproc-per-node 8 --no-python rlvis doctor experiment=jpeg_sd3 data.path=prompts.txt

  --config-dir DIR     a folder with option files of your own
  -h, --help           this text

Composes, checks and assembles what rlvis train would, then looks: machine, sizes, files, parameters on every
rank, the ratio before any update, a gradient for every loss term, and what the scorers say of a small step.
Nothing is trained. A training does the same first; there doctor=warn stops it for failures, doctor=strict
for warnings too, doctor=off leaves it out (here all is looked at in any case).
Exit codes: 0 the training would start, 1 it would not, 2 a mistake in the configuration.
"""


def run(words: Sequence[str]) -> int:
    """`rlvis doctor`: look at what these words would train, and print a table."""
    overrides, folder = overrides_of(words, "doctor")
    if overrides is None:
        print(HELP, end="")
        return OK
    from rlvis.compose.command import compose
    from rlvis.schema import Stage

    rank, size = process()
    config = checked(compose([*overrides, *folder]), size, is_main=rank == 0)
    if config.stage is not Stage.all:
        raise ConfigError(mistake(f"stage={config.stage}: rlvis doctor looks at whole runs", "stage=all"))
    if config.dry_run:
        if rank == 0:
            print("dry run: the configuration and its files are in order; nothing was loaded")
        return OK
    log_to_stderr(rank)
    return exit_code_of(lambda: _examine(config, rank))


def _examine(config: Config, rank: int) -> int:
    from rlvis.doctor.run import diagnose
    from rlvis.findings import table

    diagnosis = diagnose(config)
    stopping = diagnosis.stopping
    if rank == 0:
        terminal = sys.stdout.isatty()
        print(table(diagnosis.findings, None if terminal else WIDTH, terminal), end="")
        print(f"{diagnosis.headline}; doctor={config.doctor}")
        if stopping:
            names = ", ".join(dict.fromkeys(f.name for f in stopping))
            print(f"this training would not start ({names}); doctor=off goes on all the same")
    return FAILED if stopping else OK
