"""What README and docs name exists: links, files and their functions, keys, metrics, and command lines."""

from __future__ import annotations

import ast
import pkgutil
import re
import runpy
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from rlvis.cli import arguments
from rlvis.cli.program import VERBS
from rlvis.compose import command, describe, names, sweep
from rlvis.observe import metric_table
from rlvis.schema import Config

ROOT = Path(__file__).parents[1]
NAMES = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")
PAGES = [*(ROOT / name for name in NAMES), *sorted((ROOT / "docs").glob("*.md"))]
PLACES = (ROOT, ROOT / "rlvis", *(path for path in sorted((ROOT / "rlvis").rglob("*")) if path.is_dir()))
PREFIXES = {key.split("/")[0] for key in metric_table.KEYS}
SECTIONS = names.fields(Config)
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
YOURS = re.compile(r"\bmy_\w+\.py$")  # files that the reader writes


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def lines(page: Path) -> Iterator[list[str]]:
    """The words of every command in a block of a page; a line that ends in a backslash goes on."""
    for block in FENCE.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"(\w+=\S+ )*(python|rlvis|torchrun|make) ", line):
                yield shlex.split(line, comments=True)


def defines(path: Path, name: str) -> bool:
    """Whether a module has this function, class, Class.method or constant."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for part in name.split("."):
        matches = [node for node in body if part in _bound(node)]
        if not matches:
            return False
        body = getattr(matches[0], "body", [])
    return True


def _bound(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def key_exists(key: str) -> bool:
    """Whether a dotted key, which may end in `.*`, is one of the configuration's."""
    kind: object = Config
    return all(
        (kind := names.child(kind, part)) is not None
        for part in names.PYTHON_WORDS.get(key, key).removesuffix(".*").split(".")
    )


def composes(words: list[str]) -> None:
    """Raises what the command line would say to the words behind `python train.py`."""
    flags, overrides = arguments.parse(words)
    if "help" in flags or "..." in overrides:
        return
    for once in sweep.each_value_once(overrides) if "multirun" in flags else [overrides]:
        command.compose(once).typed()


def exists(words: list[str]) -> bool:
    """Whether the program of a command line is there; composes what trains."""
    while re.fullmatch(r"\w+=\S*", words[0]):
        words = words[1:]
    program, *rest = words
    if program == "make":
        return f"\n{rest[0]}:" in (ROOT / "Makefile").read_text()
    if program == "torchrun":
        program, rest = "python", rest[rest.index("train.py") :]
    if program == "rlvis":
        return rest[0] in VERBS
    if rest[0] == "-m":
        return find_spec(rest[1]) is not None
    if rest[0] == "train.py":
        composes(rest[1:])
    return (ROOT / rest[0]).is_file()


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("metrics", list(metric_table.KEYS)),
        ("configuration", [row.key for group in describe.sections() for row in describe.rows(group)]),
    ],
)
def test_a_page_made_from_the_code_is_up_to_date(name: str, keys: list[str]) -> None:
    maker = f"scripts/make_{name}_page.py"
    text = (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")
    assert text == runpy.run_path(str(ROOT / maker))["page"](), f"type python {maker}"
    assert len(keys) > 50
    assert [key for key in keys if f"`{key}`" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
class TestPage:
    def test_links_lead_somewhere(self, page: Path) -> None:
        targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose(page))
        dead = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
        assert dead == []

    def test_files_and_what_they_define_exist(self, page: Path) -> None:
        missing = []
        for span in spans(page):
            match = re.fullmatch(r"([\w./-]+\.py)(?:: ?([\w.]+))?", span)
            if match and not YOURS.search(match[1]):
                paths = [place / match[1] for place in PLACES if (place / match[1]).is_file()]
                fine = any(match[2] is None or defines(path, match[2]) for path in paths)
            elif re.fullmatch(r"(rlvis|tests|scripts|benchmarks|conf|docs)/[\w./-]*", span):
                fine = any(ROOT.glob(span.replace("NAME", "*")))
            elif module := re.match(r"rlvis(\.\w+)+", span):
                fine = pkgutil.resolve_name(module[0]) is not None
            else:
                continue
            if not fine:
                missing.append(span)
        assert missing == []

    def test_keys_and_metrics_exist(self, page: Path) -> None:
        wrong = []
        for word in (word.lstrip("+") for span in spans(page) for word in span.split()):
            key = re.match(r"([a-z]+)\.[A-Za-z_.]+(\.\*)?(?==|$)", word)
            if key and key[1] in SECTIONS and not word.endswith((".py", ".txt", ".jsonl", ".json")):
                fine = key_exists(key[0])
            elif re.fullmatch(r"[a-z]+/[a-z_/]+", word) and word.split("/")[0] in PREFIXES:
                fine = metric_table.find(word) is not None or (ROOT / "rlvis" / word).exists()
            else:
                continue
            if not fine:
                wrong.append(word)
        assert wrong == []

    def test_commands_are_accepted(self, page: Path) -> None:
        assert [words for words in lines(page) if not exists(words)] == []
