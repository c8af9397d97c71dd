"""`rlvis checkpoint inspect | verify | prune | export`: look at checkpoints, check, thin out, take the
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlvis.checkpoints import describe, disk, files
from rlvis.cli.arguments import require_known
from rlvis.cli.exit_codes import FAILED, OK, exit_code_of, log_to_stderr
from rlvis.findings import ConfigError, mistake

HELP = """\
usage: rlvis checkpoint VERB RUN|CHECKPOINT [KEY=VALUE]

  rlvis checkpoint inspect outputs/NAME/DATE_TIME                what each checkpoint of a run holds
  rlvis checkpoint inspect RUN/checkpoints/step_000020           one alone
  rlvis checkpoint verify RUN                                    read every byte; exit code 1 for damage
  rlvis checkpoint prune RUN keep=1                              remove all but the newest whole one
  rlvis checkpoint export RUN to=DIR                             the newest whole one's weights, for diffusers
  rlvis checkpoint export RUN/checkpoints/step_000020 to=DIR

  -h, --help           this text

export writes what a finished run writes: a pipeline, or a LoRA; averaged weights where there are some. It
runs in one process, however many wrote the checkpoint. prune never touches a run that is in use, and counts
whole checkpoints only: what it keeps can be resumed. Exit codes: 0 done, 1 damaged or failed, 2 a mistake.
"""
VERBS = ("inspect", "verify", "prune", "export")


def run(words: Sequence[str]) -> int:
    """`rlvis checkpoint VERB RUN|CHECKPOINT [KEY=VALUE]`."""
    if not words or {"-h", "--help"} & set(words):
        print(HELP, end="")
        return OK
    verb, *rest = words
    require_known(verb, list(VERBS), "verb of rlvis checkpoint")
    paths = [word for word in rest if "=" not in word]
    if len(paths) != 1 or paths[0].startswith("-"):
        raise ConfigError(
            mistake(
                f"rlvis checkpoint {verb} takes one run folder or checkpoint, got {len(paths)}",
                f"rlvis checkpoint {verb} outputs/NAME/DATE_TIME",
            )
        )
    options = _options(verb, [word for word in rest if "=" in word])
    log_to_stderr(0)
    path = Path(paths[0]).expanduser()
    work = {"inspect": _inspect, "verify": _verify, "prune": _prune, "export": _export}[verb]
    return exit_code_of(lambda: work(path, options))


def _inspect(path: Path, options: dict[str, str]) -> int:
    checkpoints = _checkpoints(path)
    print("\n\n".join(describe.inspect(folder) for folder in checkpoints))
    return OK


def _verify(path: Path, options: dict[str, str]) -> int:
    text, whole = describe.table(_checkpoints(path))
    print(text)
    return OK if whole else FAILED


def _prune(path: Path, options: dict[str, str]) -> int:
    from rlvis.runs import lock

    keep = options.get("keep", "")
    if not keep.isdecimal() or int(keep) < 1:
        raise ConfigError(mistake(f"prune needs how many whole checkpoints stay, got keep={keep}", "keep=1"))
    if _is_checkpoint(path):
        raise ConfigError(
            mistake(f"prune takes a run folder, and {path} is a checkpoint", str(path.parents[1]))
        )
    _checkpoints(path)
    with lock.hold(path):
        victims = files.outdated(path, int(keep), sums=True)
        for folder in victims:
            print(f"removing {folder} ({describe.mebibytes(_size(folder))})", flush=True)
            disk.remove(folder)
        disk.tidy(path)
    kept = ", ".join(folder.name for folder in files.folders(path)) or "none"
    print(f"removed {len(victims)}; there are left: {kept}")
    return OK


def _export(path: Path, options: dict[str, str]) -> int:
    if not options.get("to"):
        raise ConfigError(
            mistake("export needs a folder to write to", f"rlvis checkpoint export {path} to=DIR")
        )
    to = Path(options["to"]).expanduser()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(mistake(f"to={to} exists already and is not empty", "to=DIR with a new folder"))
    (folder, *rest) = _checkpoints(path)
    if rest or not _is_checkpoint(path):
        folder = files.choose(path)
    elif bad := files.damage(folder):
        raise ConfigError(f"{folder} is damaged ({files.shorten(bad)}); nothing was exported")
    from rlvis.checkpoints.export import export
    from rlvis.models import moved

    count, distance = export(folder, to)
    print(
        f"{to}: {count} trained tensors of {folder.name}, which {moved.words(distance)}; README.md there "
        "says how to open it"
    )
    return OK


def _options(verb: str, words: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE of a verb."""
    takes = {"prune": ["keep"], "export": ["to"]}.get(verb, [])
    options = dict(word.split("=", 1) for word in words)
    for key in options:
        if key not in takes:
            what = f"takes {takes[0]}=..." if takes else "takes no options"
            raise ConfigError(f"rlvis checkpoint {verb} {what}, got {key}={options[key]}")
    return options


def _checkpoints(path: Path) -> list[Path]:
    """The checkpoint that a path is, or those of the run folder that it is, oldest first."""
    if _is_checkpoint(path):
        return [path]
    checkpoints = files.folders(path)
    if not checkpoints:
        what = "there is no such folder" if not path.is_dir() else "it holds no checkpoints/step_NNNNNN"
        raise ConfigError(
            mistake(f"{path} is no run folder and no checkpoint: {what}", "outputs/NAME/DATE_TIME")
        )
    return checkpoints


def _is_checkpoint(path: Path) -> bool:
    marks = (files.COMPLETE, files.META, files.SUMS)
    return path.is_dir() and (path.name.startswith("step_") or any((path / name).is_file() for name in marks))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
