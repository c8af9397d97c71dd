"""The program: help, version, and one verb of `VERBS`, each in the module of its name.

`main` can be called many times in one process, which is how the tests use it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import rlvis
from rlvis.cli.arguments import require_known
from rlvis.cli.exit_codes import INTERRUPTED, OK, cut_off, ended_by, refuse
from rlvis.findings import ConfigError, mistake

HELP = """\
rlvis: post-training of image and video generators with GRPO on diffusers models

usage: rlvis VERB ...

  train        train a policy (python train.py is the same); rlvis train --help
  doctor       look at everything that a training needs, without the training; rlvis doctor --help
  eval         judge held-out samples of a policy or a run; rlvis eval --help
  serve        scorers for trainings elsewhere: rlvis serve reward=NAME; rlvis serve --help
  score        scores of pictures and clips in a folder, as a table; rlvis score --help
  report       the page of a run, or of several beside each other: rlvis report RUN [RUN ...]
  autopsy      why a run crashed or went bad, and what to type: rlvis autopsy RUN
  checkpoint   inspect, verify, prune or export checkpoints; rlvis checkpoint --help
  list         config groups and their options: rlvis list [GROUP ...]

  -h, --help     this text
  -V, --version  the version

Exit codes: 0 done, 1 the run failed, 2 a mistake in the configuration (nothing was loaded), 3 the run saved
and ended because its steps trained nothing (reward.max_invalid_steps), 130 interrupted.
"""

# Verb -> the module that has `run(words) -> exit code`.
VERBS = {
    "train": "train",
    "doctor": "doctor",
    "eval": "evaluate",
    "score": "score",
    "report": "report",
    "serve": "serve",
    "autopsy": "autopsy",
    "checkpoint": "checkpoint",
    "list": "options",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name; None takes that of the process) and return its exit
    code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words or words[0] in ("-h", "--help"):
            print(HELP, end="")
            return OK
        if words[0] in ("-V", "--version"):
            print(rlvis.__version__)
            return OK
        code = _verb(words[0])(words[1:])
        sys.stdout.flush()
        return code
    except ConfigError as error:
        return refuse(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return cut_off()
    except Exception as error:
        return ended_by(error)


def entry() -> NoReturn:
    """The console script."""
    sys.path.append(os.getcwd())  # `python train.py` finds my_rewards.py of the current folder; so do we
    sys.exit(main())


def _verb(word: str) -> Callable[[Sequence[str]], int]:
    if "=" in word:
        raise ConfigError(mistake(f"{word} needs a verb before it", f"rlvis train {word}"))
    require_known(word, list(VERBS), "verb")
    run: Callable[[Sequence[str]], int] = importlib.import_module(f"rlvis.cli.{VERBS[word]}").run
    return run
