"""`rlvis score`: a reward's scores of pictures and clips that somebody has already, as a table."""

from __future__ import annotations

import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvis.cli import rewards
from rlvis.cli.arguments import overrides_of, process, require_known
from rlvis.cli.exit_codes import FAILED, OK, exit_code_of, log_to_stderr
from rlvis.findings import ConfigError, mistake

if TYPE_CHECKING:
    from torch import Tensor

    from rlvis.data.media_files import Sample
    from rlvis.evaluation.folder import Columns
    from rlvis.schema import RewardConfig

log = logging.getLogger(__name__)

HELP = """\
usage: rlvis score reward=OPTION images=DIR [prompts=FILE] [out=scores.csv] [KEY=VALUE ...] [--config-dir DIR]

  rlvis score reward=pickscore images=samples prompts=prompts.txt
  rlvis score reward=[pickscore,aesthetic] images=samples prompts=prompts.csv out=scores.parquet
  rlvis score reward=clip images=clips prompts=prompts.jsonl fps=8 "reward.terms.clip.frames='every 4'"
  rlvis score reward=function reward.terms.function.scorer=my_module.my_function images=samples

  images=DIR           pictures (png, jpg, webp) and clips (mp4, gif, ...); their sizes may differ
  prompts=FILE         .txt: one a line, in the order of the sorted file names; .csv, .jsonl, .json, .parquet:
                       columns file, prompt, and any others, which scorers get as metadata; without it prompts
                       are empty
  out=FILE             .csv or .parquet; overwrite=true replaces one that is there
  batch=N              files of one call (16)
  fps=N                frames a second that are read of a clip; all of them without it
  reward.cache=FOLDER  keep scores by content: what was scored is not scored again after an interruption
  --config-dir DIR     a folder with option files of your own
  -h, --help           this text

The table has a row for each file: file, prompt, a column for each term, valid (no term failed), and
NAME_noise_var, NAME_noise_dof where a scorer states its noise. A score that failed is empty. Exit codes: 0
done, 1 failed, or no file has a score, 2 a mistake in the configuration, 130 interrupted.
"""

FIXED = ("file", "prompt", "valid")


@dataclass(frozen=True)
class Options:
    """What the verb takes beside the reward."""

    images: Path = Path()
    prompts: Path | None = None
    out: Path = Path("scores.csv")
    overwrite: bool = False
    batch: int = 16
    fps: float | None = None


def run(words: Sequence[str]) -> int:
    """`rlvis score`: score the files of a folder into a table."""
    overrides, folder = overrides_of(words, "score")
    if overrides is None:
        print(HELP, end="")
        return OK
    if process()[1] > 1:
        raise ConfigError("rlvis score runs in one process; start it without torchrun, or with other folders")
    options, overrides = options_of(overrides)
    reward = reward_of([*overrides, *folder])
    from rlvis.data.media_files import listed

    try:
        samples = listed(options.images, options.prompts)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    rewards.require_reachable(reward)
    log_to_stderr(0)
    return exit_code_of(lambda: _score(reward, samples, options))


def options_of(words: Sequence[str]) -> tuple[Options, list[str]]:
    """The words of the verb, and those that compose the reward. Raises ConfigError for any other."""
    options, rest = Options(), []
    names = list(Options.__dataclass_fields__)
    for word in words:
        key, equals, value = word.partition("=")
        if key.split(".")[0] in ("reward", "+reward", "experiment"):
            rest.append(word)
            continue
        require_known(key, [*names, "reward", "experiment"], "word")
        if not equals or not value:
            raise ConfigError(f"{word}: wanted {key}=VALUE; rlvis score --help shows examples")
        options = replace(options, **{key: _value_of(word, key, value)})
    if not any(word.startswith("images=") for word in words):
        raise ConfigError(
            mistake("nothing says what to score", "rlvis score reward=NAME images=DIR prompts=FILE")
        )
    if options.out.suffix not in (".csv", ".parquet"):
        raise ConfigError(f"out={options.out}: wanted a name that ends in .csv or .parquet")
    if not options.out.parent.is_dir():
        raise ConfigError(f"out={options.out}: there is no folder {options.out.parent}")
    if options.out.exists() and not options.overwrite:
        raise ConfigError(mistake(f"{options.out} exists", "out=FILE for another, or overwrite=true"))
    return options, rest


def _value_of(word: str, key: str, value: str) -> Any:
    """The value of a word in its type. Raises ConfigError."""
    if key in ("images", "prompts", "out"):
        return Path(value).expanduser()
    if key == "overwrite":
        if value not in ("true", "false"):
            raise ConfigError(f"{word}: wanted true or false")
        return value == "true"
    try:
        number = int(value) if key == "batch" else float(value)
    except ValueError:
        number = 0
    if not 0 < number < math.inf:
        raise ConfigError(f"{word}: wanted a {'whole ' if key == 'batch' else ''}number above 0")
    return number


def reward_of(overrides: Sequence[str]) -> RewardConfig:
    """The reward that the words compose. Raises ConfigError for what means nothing here."""
    from rlvis.schema import CanaryConfig, Executor

    unsaid = "nothing says how to score; type rlvis score reward=NAME images=DIR prompts=FILE"
    reward = rewards.compose_reward(overrides, unsaid)
    if reward.executor is Executor.thread:
        raise ConfigError("reward.executor=thread is for the training, which samples meanwhile; leave it out")
    if reward.refill or reward.canary != CanaryConfig():
        raise ConfigError("reward.refill and reward.canary are for the training; leave them out")
    if clash := [name for name in reward.terms if name in FIXED]:
        raise ConfigError(f"the table has a column {clash[0]} of its own; give that term another name")
    return reward


def _score(reward: RewardConfig, samples: Sequence[Sample], options: Options) -> int:
    from rlvis.evaluation.folder import Columns, batches, judge, table_of, write_table
    from rlvis.reward.scorer import build

    terms = build(reward)
    columns = Columns()
    with _progress(len(samples)) as advance:
        for batch in batches(_read(samples, options.fps, columns, advance), samples, options.batch):
            judge(batch, samples, terms, columns)
            advance(len(batch))
    table = table_of(samples, [term.name for term in terms], columns)
    write_table(table, options.out)
    valid = int(table["valid"].sum())
    print(f"{valid} of {len(samples)} files scored{_failure_summary(columns.failures)}")
    for term in terms:
        some = table[term.name].dropna()
        if len(some):
            spread = some.std(ddof=0)
            print(f"  {term.name:<20} mean {some.mean():.5g}, deviation {spread:.3g}, {len(some)} files")
    print(options.out)
    return OK if valid else FAILED


def _read(
    samples: Sequence[Sample], fps: float | None, columns: Columns, advance: Callable[[int], None]
) -> Iterator[tuple[int, Tensor]]:
    """(position, frames) of each file that can be read."""
    from rlvis.data.media_files import read

    for i, sample in enumerate(samples):
        try:
            yield i, read(sample.path, fps)
        except ValueError as error:
            log.warning("%s", error)
            columns.failures["unreadable"] += 1
            advance(1)


def _failure_summary(failures: Counter[str]) -> str:
    return f"; failed: {', '.join(f'{kind} {count}' for kind, count in failures.items())}" if failures else ""


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; yields what moves it."""
    from rich import progress
    from rich.console import Console

    with progress.Progress(
        progress.TextColumn("scoring"),
        progress.BarColumn(bar_width=24),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        disable=not sys.stderr.isatty(),
    ) as bars:
        task = bars.add_task("scoring", total=total)
        yield lambda count: bars.advance(task, count)
