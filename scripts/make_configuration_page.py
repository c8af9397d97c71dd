"""Write docs/configuration.md from the schema: every key with its default, unit, domain, and when it is read.

    python scripts/make_configuration_page.py

A test compares the page with what this would write.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rlvis.compose import describe
from rlvis.reward.facts import SCORERS
from rlvis.schema.key import argument_marks

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
HEAD = """\
# Every key

Made by `python scripts/make_configuration_page.py` from the schema, which checks the same words.
`python train.py --help GROUP` prints one group, `rlvis list GROUP` its options, `--cfg job` what a command
line comes to. The default is that of the schema: an option's file may set another. A value outside of its
domain, a key that nothing reads as the rest stands, and a key that does not exist are refused before anything
loads. Every number is finite. `null` is a value where a key says so. A key below a section that is null turns
it on (`model.lora.rank=8`).

**What is typed wins.** An experiment's values belong to the option it chose. When another option of that
group is typed, the keys which its file or the replaced one's writes take the new option's values (a section
such as `sampler.window` as a whole); all else of the experiment stays. Keys marked *size* are never replaced
by an option. Values typed win over all.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for group in describe.sections():
        where = "Outside of the sections" if group == describe.RUN else f"`{group}`"
        parts.append(f"## {where}\n\n" + "\n".join(_table(group)) + "\n")
    parts.append(
        "## Arguments of built-in scorers\n\n`reward.terms.NAME.kwargs.ARGUMENT=VALUE` (and `eval.terms`).\n"
    )
    parts.append("\n".join(_arguments()) + "\n")
    return "\n".join(parts)


def _table(group: str) -> Iterator[str]:
    yield "| key | default | values | unit | read with | what it is |"
    yield "|---|---|---|---|---|---|"
    for row in describe.rows(group):
        about = row.about + (" (*size*)" if row.is_size else "")
        cells = (
            f"`{row.key}`",
            _code(row.default),
            row.domain,
            row.unit,
            _code(row.read_with),
            about,
        )
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _arguments() -> Iterator[str]:
    yield "| scorer | argument | values | what it is |"
    yield "|---|---|---|---|"
    for name in SCORERS.names():
        for argument, _, mark in argument_marks(SCORERS.find(name)):
            if mark is not None:
                about = f"{mark.about} ({mark.unit})" if mark.unit else mark.about
                yield f"| `{name}` | `{argument}` | {mark.domain()} | {about} |"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
