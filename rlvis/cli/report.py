"""`rlvis report RUN [RUN ...]`: the page of a run written anew, or one that compares several."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlvis.cli.exit_codes import OK, exit_code_of
from rlvis.findings import ConfigError, mistake

HELP = """\
usage: rlvis report RUN [RUN ...] [to=FILE] [base=ARM] [threshold=NUMBER]

  rlvis report outputs/NAME/DATE_TIME                  writes RUN/report.html anew
  rlvis report outputs/NAME                            compares the runs in that folder
  rlvis report outputs/sweeps/DATE_TIME                compares the runs of a sweep (-m), as its end does
  rlvis report RUN RUN RUN to=compared.html            compares these runs

  to=FILE       where a comparison is written; without it, report.html in the folder that holds these runs and
                no others or is that of the sweep, else comparison.html in the current folder
  base=ARM      the arm that others are held against, as the page calls it; without it, defaults, grpo, or the
                first
  threshold=NUMBER   what arms have to reach (steps, samples, minutes); without it, what the base ends at
  -h, --help    this text

The page needs nothing beside itself: no network, no other file. In a comparison, runs that differ only in
their seed are one arm. Exit codes: 0 done, 1 failed, 2 no such folder.
"""
FOLDERS = "runs.txt"  # of a sweep: the folders of its runs, a line each, seen from where the file lies
KEYS = ("to", "base", "threshold")


def run(words: Sequence[str]) -> int:
    """`rlvis report`. Prints the path of the page."""
    if "-h" in words or "--help" in words:
        print(HELP, end="")
        return OK
    named, options = _parse(words)
    folders = [Path(word).expanduser() for word in named]
    runs = [path for folder in folders for path in _runs(folder)]
    if len(runs) > 1:
        if "to" not in options and len(folders) == 1 and (folders[0] / FOLDERS).is_file():
            options["to"] = str(folders[0] / "report.html")
        return exit_code_of(lambda: _write_comparison(runs, options))
    for key, value in options.items():
        raise ConfigError(f"{key}={value} is for comparisons; the page of one run is {runs[0]}/report.html")
    return exit_code_of(lambda: _write_page(runs[0]))


def of_sweep(folder: Path) -> Path | None:
    """Write the page that compares the runs of a sweep; None where fewer than two left a folder."""
    from rlvis.report.compare import page

    runs = _listed(folder)
    return page.write(runs, folder / "report.html") if len(runs) > 1 else None


def page(run_dir: Path) -> Path:
    """Write the page of one run, which is compared with the defaults of a training, and return its path."""
    from rlvis import schema
    from rlvis.compose.command import compose
    from rlvis.report import html

    return html.write(run_dir, defaults=schema.plain(compose([]).typed()))


def _write_page(run_dir: Path) -> int:
    print(page(run_dir))
    return OK


def _write_comparison(runs: Sequence[Path], options: Mapping[str, str]) -> int:
    from rlvis.report.compare import page

    to = Path(options["to"]).expanduser() if "to" in options else None
    threshold = float(options["threshold"]) if "threshold" in options else None
    print(page.write(runs, to, options.get("base"), threshold))
    return OK


def _parse(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    named, options = [], {}
    for word in words:
        key, _, value = word.partition("=")
        if key in KEYS and value:
            options[key] = value
        elif word.startswith("-") or (key in KEYS and "=" in word):
            raise ConfigError(
                f"report: {word} is not known here; it takes run folders, to=FILE, base=ARM, threshold=NUMBER"
            )
        else:
            named.append(word)
    if not named:
        raise ConfigError(mistake("report: no run was named", "rlvis report outputs/NAME/DATE_TIME"))
    try:
        float(options.get("threshold", 0))
    except ValueError:
        wanted = f"report: threshold={options['threshold']} is no number"
        raise ConfigError(mistake(wanted, "threshold=0.5")) from None
    return named, options


def _runs(path: Path) -> list[Path]:
    """The runs that a word stands for: a run folder itself, those of a sweep, or all in a folder."""
    from rlvis.report.folder import is_run, runs_below, stage_of

    if not path.is_dir():
        raise ConfigError(mistake(f"report: {path} is not a folder", "rlvis report outputs/NAME/DATE_TIME"))
    found = [path] if is_run(path) else _listed(path) or runs_below(path)
    if not found:
        raise ConfigError(
            mistake(
                f"report: {path} is no run folder and holds none: no config.yaml, metrics.jsonl or exit.json",
                "rlvis report outputs/NAME/DATE_TIME",
            )
        )
    runs = [run for run in found if not stage_of(run)]
    if not runs:
        raise ConfigError(
            f"report: {found[0]} ran one stage alone (stage={stage_of(found[0])}), which has no training "
            "steps to show; what it made lies in the folder that its config.yaml names as records"
        )
    return runs


def _listed(folder: Path) -> list[Path]:
    """The run folders of a sweep that are there; none where the folder is not that of a sweep."""
    from rlvis.report.folder import is_run

    try:
        names = dict.fromkeys((folder / FOLDERS).read_text(encoding="utf-8").splitlines())
    except OSError:
        return []
    return [path for name in names if name and is_run(path := Path(os.path.normpath(folder / name)))]
