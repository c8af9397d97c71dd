"""Names that stand for a module of a folder or a dotted path, and what is said where neither fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pytest

from rlvis.findings import ConfigError
from rlvis.named import Folder, bind, fits
from rlvis.schema.key import Key


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """Options `double` and `half`; a module `mine` beside them, and one that imports what is not there."""
    package = tmp_path / "rules_of_the_test"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "double.py").write_text("def double(x): return 2 * x\nENTRY = double\n", encoding="utf-8")
    (package / "half.py").write_text("raise RuntimeError('listing imports nothing')\n", encoding="utf-8")
    (tmp_path / "mine_of_the_test.py").write_text("def tripled(x): return 3 * x\nN = 3\n", encoding="utf-8")
    (tmp_path / "broken_of_the_test.py").write_text("import not_there_at_all\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return Folder("rule.kind", "rules_of_the_test", "def rule(x): ...")


def test_the_folder_is_the_list(folder: Folder) -> None:
    assert folder.names() == ("double", "half")
    assert folder.find("double")(4) == 8
    assert folder.find("mine_of_the_test.tripled")(4) == folder.find("mine_of_the_test:tripled")(4) == 12
    assert folder.path("half") == "rules_of_the_test.half.ENTRY"
    assert folder.path("a.b:c") == "a.b.c"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("duoble", "rule.kind=duoble: did you mean double?; one of your own is given as MODULE.NAME"),
        ("x y.z", "rule.kind=x y.z: there are double, half;"),
        ("nowhere_of_the_test.f", "there is no module 'nowhere_of_the_test' on Python's path"),
        ("mine_of_the_test.triple", "did you mean mine_of_the_test.tripled?"),
        ("mine_of_the_test.N", "mine_of_the_test has a int called N; write def rule(x): ..."),
    ],
)
def test_what_is_not_there(folder: Folder, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        folder.find(name)
    assert message in str(caught.value)


def test_what_fails_inside_the_user_s_module_is_one_line(folder: Folder) -> None:
    with pytest.raises(ConfigError, match=r"raised ModuleNotFoundError: No module named 'not_there_at_all'"):
        folder.find("broken_of_the_test.f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ndef f(:\n", r"raised SyntaxError: invalid syntax; raised at .*bad_0.py:2$"),
        ("import sys\nsys.exit(9)\n", r"raised SystemExit: 9; raised at .*bad_1.py:2$"),
        ("raise type('Own', (BaseException,), {})('a\\nb')", r"raised Own: a b; raised at .*bad_2.py:1$"),
    ],
)
def test_a_module_may_raise_anything(
    folder: Folder, text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = message.split(".*")[1].split(".py")[0]
    (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=message):
        folder.find(f"{name}.f")


def rule(
    x: float,
    share: Annotated[float, Key("of it", "share", above=0, most=1, usual=0.5)] = 1.0,
    *,
    steps: Annotated[list[int] | None, Key("taken", least=0, most=9)] = None,
    exact: bool = False,
    names: Mapping[str, int] | None = None,
    unknown: Callable[[], None] | None = None,
) -> float:
    return x


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"shaer": 1}, "R has no argument 'shaer'; did you mean share?"),
        ({"share": 0}, "r.share=0: wanted above 0 (share); type r.share=0.5"),
        ({"share": True}, "r.share=true: wanted a number (share)"),
        ({"share": None}, "r.share=null: wanted a number"),
        ({"steps": [1, 10]}, "r.steps=[1,10]: wanted at most 9"),
        ({"steps": [1, 2.5]}, "r.steps=[1,2.5]: wanted a list, each a whole number or null"),
        ({"exact": 1}, "r.exact=1: wanted true or false; type r.exact=false"),
        ({"names": []}, "r.names=[]: wanted a mapping or null"),
    ],
)
def test_kwargs_that_do_not_fit(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        bind(rule, ("x",), kwargs, "R", key="r")
    assert message in str(caught.value)


def test_kwargs_that_fit() -> None:
    bind(rule, ("x",), {"share": 1, "steps": [], "exact": True, "names": {}, "unknown": "it"}, "R", key="r")
    assert fits([1, 2.0], Sequence[float])
    assert not fits("ab", Sequence[str])
    assert fits({}, dict)


def test_the_contract_is_shown_where_the_call_does_not_fit() -> None:
    for given, why in ((("x", "y", "z"), "takes 2 positional"), ((), "missing a required argument: 'x'")):
        with pytest.raises(ConfigError, match=rf"{why}.*; wanted def rule\(x\): \.\.\."):
            bind(rule, given, {}, "R", contract="def rule(x): ...")
    with pytest.raises(ConfigError, match=r"^R: share=2: wanted at most 1"):
        bind(rule, ("x",), {"share": 2}, "R")
