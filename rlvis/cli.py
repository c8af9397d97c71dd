"""The command `rlvis` and its verbs; `python train.py` is `rlvis train`.

A mistake in the words or the configuration ends with exit code 2 and one message, before torch is imported;
everything heavy is imported by the verb that needs it. `main` can be called many times in one process, which
is how the tests use it.
"""

from __future__ import annotations

import difflib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import rlvis
from rlvis.training.checks import ConfigError

if TYPE_CHECKING:
    from rlvis.compose.command import Composed
    from rlvis.schema import Config
    from rlvis.training.loop import Outcome

log = logging.getLogger(__name__)

OK, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130

HELP = """\
rlvis: post-training of image and video generators with GRPO on diffusers models

usage: rlvis VERB ...

  train    train a policy (python train.py is the same); rlvis train --help
  eval     judge held-out samples of a policy or a run; rlvis eval --help
  list     config groups and their options: rlvis list [GROUP ...]
  report   write report.html of a run folder anew: rlvis report RUN_DIR

  -h, --help       this text
  -V, --version    the version

Exit codes: 0 done, 1 the run failed, 2 a mistake in the configuration (nothing was loaded), 130 interrupted.
"""

TRAIN_HELP = """\
usage: python train.py [GROUP=OPTION ...] [KEY=VALUE ...] [-m] [--cfg job [--resolve]] [--config-dir DIR]

  python train.py                                      the embedded default: a tiny policy, on a CPU
  python train.py model=sd3 engine=zero1 data=txt data.path=prompts.txt reward=jpeg
  python train.py experiment=jpeg_sd3 data.path=prompts.txt
  python train.py experiment=flow_grpo_sd3 debug=tiny  two steps of a recipe with the tiny policy
  python train.py model.lora.rank=8 optim.lr=1e-4      values; naming a key below a null section turns it on
  python train.py reward=[coverage,jpeg] reward.terms.jpeg.weight=0.1
  python train.py reward=custom reward.terms.custom.scorer=my_module.my_function
  python train.py dry_run=true                         checks and the numbers that follow; loads nothing
  python train.py resume=auto                          go on with the newest run of this name (or RUN_DIR)
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

EVAL_HELP = """\
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name; null takes the process's own) and return its exit
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
        return _verb(words[0])(words[1:])
    except ConfigError as error:
        return _wrong(error)
    except KeyboardInterrupt:
        return INTERRUPTED


def entry() -> NoReturn:
    """The console script."""
    sys.path.append(os.getcwd())  # `python train.py` finds my_rewards.py of the current folder; so do we
    sys.exit(main())


def train(words: Sequence[str]) -> int:
    """`rlvis train`: one run, a sweep, or only what --help and --cfg print."""
    flags, overrides = _flags(words)
    if "help" in flags:
        from rlvis.compose.describe import listing

        print(TRAIN_HELP.format(options=listing()), end="")
        return OK
    if "config-dir" in flags:
        overrides.append(_search(flags["config-dir"]))
    if "cfg" in flags:
        return _print_config(flags, overrides)
    if "multirun" in flags:
        return sweep(overrides)
    return run(overrides)


def run(overrides: Sequence[str]) -> int:
    """One run: compose, check, tell the numbers, train, report."""
    from rlvis.compose.command import compose
    from rlvis.training.files import count_prompts
    from rlvis.training.summary import summary

    rank, size = _process()
    config = checked(compose(overrides), size, leads=rank == 0)
    if rank == 0:
        print(summary(config, size, count_prompts(config)), flush=True)
    if config.dry_run:
        if rank == 0:
            print("dry run: the configuration and its files are in order; nothing was loaded")
        return OK
    _log_to_stderr(rank)
    return _guarded(lambda: _trained(config, overrides, rank))


def _trained(config: Config, overrides: Sequence[str], rank: int) -> int:
    outcome = start(config, ["rlvis", "train", *overrides])
    if rank == 0:
        _write_report(outcome.run_dir)
    return outcome.exit_code


def evaluate(words: Sequence[str]) -> int:
    """`rlvis eval`: held-out evaluation of the configured policy, or of a run."""
    flags, overrides = _flags(words)
    if "help" in flags:
        from rlvis.compose.describe import listing, section

        print(EVAL_HELP.format(options=listing(["eval"]), keys=section("eval", "shapes")), end="")
        return OK
    if odd := set(flags) - {"config-dir"}:
        raise ConfigError(f"--{min(odd)} belongs to rlvis train; rlvis eval takes --help and --config-dir")
    if "config-dir" in flags:
        overrides.append(_search(flags["config-dir"]))
    from rlvis.compose.command import compose

    rank, _ = _process()
    composed = compose(overrides)
    config = checked_evaluation(composed)
    if config.dry_run:
        if rank == 0:
            print("dry run: the configuration and its files are in order; nothing was loaded")
        return OK
    _log_to_stderr(rank)
    return _guarded(lambda: _evaluated(config, rank))


def _evaluated(config: Config, rank: int) -> int:
    from rlvis.training.evaluate import alone

    done = alone(config)
    if rank == 0:
        print(f"{done.listing}\n{done.path}")
    return OK


def _guarded(work: Callable[[], int]) -> int:
    """Exit code of something heavy: our own complaints are messages, anything else a failure."""
    try:
        return work()
    except ValueError as error:
        if isinstance(error, ConfigError) or _is_ours(error):
            return _wrong(error, everywhere=True)
        return _failed(error)
    except Exception as error:
        return _failed(error)


def checked(composed: Composed, world_size: int = 1, *, leads: bool = True) -> Config:
    """The configuration of a run, found to be without contradictions; `resume` is a folder in it, or null.

    Raises ConfigError with every problem, one a line. leads: also look whether the run's folder is free.
    """
    from rlvis.training import runfolder
    from rlvis.training.checks import check
    from rlvis.training.eval_checks import eval_files
    from rlvis.training.files import files
    from rlvis.training.resume import resumed

    config = composed.typed()
    found = check(config, world_size)
    if not found and config.resume is not None:
        auto, config = config.name, resumed(config, composed.touched)
        if config.resume is None and leads:
            print(
                f"resume=auto: no run below outputs/{auto} has a whole checkpoint; this is a new run",
                file=sys.stderr,
            )
        found = check(config, world_size)
    found = found or [*files(config), *eval_files(config)] or (runfolder.problems(config) if leads else [])
    if found:
        raise ConfigError("\n".join(found))
    return config


def checked_evaluation(composed: Composed) -> Config:
    """The configuration of an evaluation: the run's own where eval.run names one.

    Raises ConfigError with every problem, one a line.
    """
    from dataclasses import replace

    from rlvis.schema import Stage
    from rlvis.training.checks import check_evaluation
    from rlvis.training.eval_checks import eval_files
    from rlvis.training.eval_run import settled
    from rlvis.training.files import files

    config = settled(composed.typed(), composed.touched)
    alone = replace(
        config, stage=Stage.all, data=replace(config.data, prompts_per_step=1)
    )  # it takes no steps
    found = check_evaluation(config) or [*files(alone), *eval_files(config, alone=True)]
    if found:
        raise ConfigError("\n".join(found))
    return config


def start(config: Config, argv: list[str]) -> Outcome:
    """Import what a run needs, and run."""
    from rlvis.training.loop import train as run_all

    return run_all(config, argv)


def sweep(words: Sequence[str]) -> int:
    """`-m`: check every value, then let Hydra launch one run for each combination."""
    from rlvis.compose import command
    from rlvis.training.summary import summary

    plugins = [w for w in words if w.startswith("hydra") and not w.startswith("hydra.searchpath")]
    overrides = [w for w in words if w not in plugins]
    search = [w for w in overrides if w.startswith("hydra.searchpath")]
    runs = command.runs(overrides)
    for once in command.each_value_once(overrides):
        config = checked(command.compose(once))
        if config.resume is not None:
            raise ConfigError(
                f"resume={config.resume} goes on with one run; leave it out of a sweep, or go on without -m"
            )
    if config.run_dir is not None and len(runs) > 1:
        raise ConfigError(
            f"run_dir={config.run_dir}: {len(runs)} runs cannot share a folder; type name=NAME instead"
        )
    command.check_sweeper([*plugins, *search])
    rank, size = _process()
    if rank == 0:
        print(f"sweep of {len(runs)} runs")
    if config.dry_run:
        for once in runs:
            print(f"{' '.join(once)}: {summary(checked(command.compose(once), size), size)}")
        return OK
    return _launch(command.encoded(overrides), plugins)


def sweep_run(job: Any) -> None:
    """One run of a sweep, in whatever process the launcher put it. Raises RuntimeError when it fails, so that
    Hydra counts it.
    """
    from omegaconf import OmegaConf

    words = OmegaConf.to_container(job.run, resolve=False)
    assert isinstance(words, dict), "a sweep's run is a mapping of words"
    overrides = [str(word) for word in words.values()]
    print(f"run {' '.join(overrides)}", flush=True)
    try:
        code = run(overrides)
    except ConfigError as error:
        code = _wrong(error)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    if code:
        raise RuntimeError(f"the run {' '.join(overrides)} ended with exit code {code}")


def list_options(words: Sequence[str]) -> int:
    """`rlvis list [GROUP ...]`."""
    from rlvis.compose.describe import listing, table

    if any(word in ("-h", "--help") for word in words):
        print("usage: rlvis list [GROUP ...]   config groups and their options; * is the default")
        return OK
    for word in words:
        _known(word, list(table()), "config group")
    print(listing(list(words)))
    return OK


def report(words: Sequence[str]) -> int:
    """`rlvis report RUN_DIR`."""
    if len(words) != 1 or words[0].startswith("-"):
        print("usage: rlvis report RUN_DIR   writes RUN_DIR/report.html anew")
        return OK if "-h" in words or "--help" in words else WRONG
    if not Path(words[0]).is_dir():
        raise ConfigError(f"report: {words[0]} is not a folder; type rlvis report outputs/NAME/DATE_TIME")
    from rlvis.report import html

    print(html.write(Path(words[0])))
    return OK


VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "eval": evaluate,
    "list": list_options,
    "report": report,
}


def _search(folder: str) -> str:
    return f"hydra.searchpath=['file://{Path(folder).expanduser().absolute()}']"


def _verb(word: str) -> Callable[[Sequence[str]], int]:
    if "=" in word:
        raise ConfigError(f"{word} needs a verb before it; type rlvis train {word}")
    _known(word, list(VERBS), "verb")
    return VERBS[word]


def _known(word: str, known: list[str], what: str) -> None:
    if word not in known:
        near = difflib.get_close_matches(word, known, 1, 0.5)
        hint = f"; nearest: {near[0]}" if near else ""
        raise ConfigError(f"unknown {what} {word}{hint}; there are {', '.join(known)}")


def _flags(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The flags of `train`, name -> value, and the overrides."""
    short = {"-h": "--help", "-m": "--multirun", "-c": "--cfg", "-cd": "--config-dir"}
    valued = ("--cfg", "--config-dir")
    known = ["--help", "--multirun", "--resolve", *valued]
    flags: dict[str, str] = {}
    overrides: list[str] = []
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flag, equals, value = word.partition("=")
        flag = short.get(flag, flag)
        if flag in ("--local_rank", "--local-rank"):
            raise ConfigError(
                f"{word} comes from the launcher; start with deepspeed --no_local_rank train.py ..., or with "
                "torchrun"
            )
        _known(flag, known, "flag")
        if flag in valued and not equals:
            value = next(rest, "job" if flag == "--cfg" else "")
        if flag in valued and not value:
            raise ConfigError(f"{word} needs a value; type {flag} {'job' if flag == '--cfg' else 'DIR'}")
        flags[flag.removeprefix("--")] = value
    return flags, overrides


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


def _launch(encoded: list[str], plugins: list[str]) -> int:
    """Hydra's launcher on the encoded runs of a sweep."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    from rlvis.compose.command import CONF

    before = sys.argv
    sys.argv = ["rlvis", "--multirun", *encoded, *plugins]
    GlobalHydra.instance().clear()
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name="sweep")(sweep_run)()
    except SystemExit as stop:
        return FAILED if stop.code else OK
    finally:
        sys.argv = before
        GlobalHydra.instance().clear()
    return OK


def _write_report(run_dir: Path) -> None:
    """The report is worth a word when it fails, but not the run."""
    from rlvis.report import html

    try:
        print(html.write(run_dir))
    except Exception:
        log.exception(
            "the run in %s is done, but its report is not; rlvis report %s tries again", run_dir, run_dir
        )


def _process() -> tuple[int, int]:
    """(rank, world size) as a launcher set them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class _Plain(logging.Formatter):
    """Our own news as they are; everything above them, and other libraries', with level and origin."""

    def format(self, record: logging.LogRecord) -> str:
        told = super().format(record)
        if record.name.startswith("rlvis") and record.levelno == logging.INFO:
            return told
        return f"{record.levelname} {record.name}: {told}"


def _log_to_stderr(rank: int) -> None:
    """Our own messages from INFO on the leading process, warnings from everyone; a handler that is there
    already stays.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Plain())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("rlvis").setLevel(logging.INFO if rank == 0 else logging.WARNING)


def _is_ours(error: BaseException) -> bool:
    """Whether rlvis itself raised this, which it does with a message for users; a library's ValueError keeps
    its traceback.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and Path(trace.tb_frame.f_code.co_filename).is_relative_to(
        Path(rlvis.__file__).parent
    )


def _wrong(error: BaseException, *, everywhere: bool = False) -> int:
    if everywhere or _process()[0] == 0:
        print("\n".join(f"error: {line}" for line in str(error).splitlines()), file=sys.stderr)
    return WRONG


def _failed(error: BaseException) -> int:
    traceback.print_exception(error)
    print(f"error: the run failed: {type(error).__name__}: {error}", file=sys.stderr)
    return FAILED
