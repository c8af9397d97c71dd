"""`rlvis report RUN [RUN ...]`: the page of a run written anew, or one that compares runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlvis.cli.exit_codes import OK, exit_code_of
from rlvis.findings import ConfigError, mistake

HELP = """\
usage: rlvis report RUN [RUN ...] [to=FILE]

  rlvis report outputs/NAME/DATE_TIME                  writes RUN/report.html anew
  rlvis report outputs/NAME                            compares the runs in that folder
  rlvis report RUN RUN RUN to=compared.html            compares these runs

  to=FILE       where a comparison is written; without it, report.html in the folder that holds these runs and
                no others, else comparison.html in the current folder
  -h, --help    this text

The page needs nothing beside itself: no network, no other file. In a comparison, runs that differ only in
their seed are averaged. Exit codes: 0 done, 1 failed, 2 no such folder.
"""


def run(words: Sequence[str]) -> int:
    """`rlvis report`. Prints the path of the page."""
    if "-h" in words or "--help" in words:
        print(HELP, end="")
        return OK
    named, to = _parse(words)
    runs = [path for word in named for path in _runs(Path(word).expanduser())]
    several = len(runs) > 1
    if not several and to is not None:
        raise ConfigError(f"to={to} is for comparisons; the page of one run is {runs[0]}/report.html")
    return exit_code_of(lambda: _write_comparison(runs, to) if several else _write_page(runs[0]))


def page(run_dir: Path) -> Path:
    """Write the page of one run, which is compared with the defaults of a training, and return its path."""
    from rlvis import schema
    from rlvis.compose.command import compose
    from rlvis.report import html

    return html.write(run_dir, defaults=schema.plain(compose([]).typed()))


def _write_page(run_dir: Path) -> int:
    print(page(run_dir))
    return OK


def _write_comparison(runs: Sequence[Path], to: Path | None) -> int:
    from rlvis.report.compare import page

    print(page.write(runs, to))
    return OK


def _parse(words: Sequence[str]) -> tuple[list[str], Path | None]:
    named, to = [], None
    for word in words:
        if word.startswith("to=") and len(word) > 3:
            to = Path(word.removeprefix("to=")).expanduser()
        elif word.startswith("-") or word == "to=":
            raise ConfigError(f"report: {word} is not known here; it takes run folders and to=FILE")
        else:
            named.append(word)
    if not named:
        raise ConfigError(mistake("report: no run was named", "rlvis report outputs/NAME/DATE_TIME"))
    return named, to


def _runs(path: Path) -> list[Path]:
    """The runs that a word stands for: a run folder itself, or all runs in a folder."""
    from rlvis.report.folder import is_run, runs_below

    if not path.is_dir():
        raise ConfigError(mistake(f"report: {path} is not a folder", "rlvis report outputs/NAME/DATE_TIME"))
    return [path] if is_run(path) else runs_below(path) or [path]
