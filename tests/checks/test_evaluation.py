"""What of the eval section is refused, and what is said to type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlvis.checks.config import check, check_evaluation
from rlvis.checks.evaluation import eval_files
from rlvis.compose.command import compose
from rlvis.findings import Finding


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["eval=shapes", "data=txt", "data.path=x.txt"], "type eval=none and name a scorer"),
        (["eval=none", "eval.every=5"], "eval.every=5 there is nothing to measure; type eval=shapes"),
        (["eval=shapes", "eval.run=outputs/x"], "type rlvis eval eval.run=outputs/x"),
        (["eval=shapes", "eval.samples=0"], "eval.samples=0: wanted at least 1"),
        (["eval=shapes", "eval.steps=0"], "type eval.steps=1"),
        (["eval=shapes", "eval.every=-1"], "type eval.every=0"),
        (["eval=shapes", "eval.kinds=[singel]"], "type eval.kinds=[single]"),
        (["eval=shapes", "eval.path=x.txt"], "eval.path=x.txt does nothing with data.source=shapes"),
        (["eval=shapes", "eval.column=text"], "eval.column=text does nothing with data.source=shapes"),
        (["eval=shapes", "eval.guidance=3"], "type eval.guidance=null, and eval.cfg=..."),
        (
            [
                "eval.every=5",
                "data=txt",
                "data.path=x.txt",
                "eval.terms.x.scorer=ocr",
                "eval.paraphrase=world",
            ],
            "type eval.paraphrase=FIELD",
        ),
        (["eval=shapes", "eval.terms.diversity.scorer=ocr"], "is not free"),
        (["eval=shapes", "eval.terms.accuracy.scorer=ocr"], "is not free"),
        (["eval=shapes", "eval.terms.x={scorer: ocr, weight: 2}"], "type eval.terms.x.weight=1"),
    ],
)
def test_a_contradiction_is_one_message(words: list[str], message: str) -> None:
    errors = check(compose(words).typed())
    assert len(errors) == 1, errors
    assert message in str(errors[0])


def test_scorers_of_ones_own_evaluate_any_prompts() -> None:
    words = [
        "eval=none",
        "data=txt",
        "data.path=x.txt",
        "eval.every=5",
        "eval.terms.jpeg.scorer=jpeg_compressibility",
    ]
    assert check(compose(words).typed()) == []


def test_alone_needs_no_interval_but_something_to_measure() -> None:
    assert check_evaluation(compose(["eval=shapes", "eval.every=0"]).typed()) == []
    (error,) = check_evaluation(compose(["eval=none"]).typed())
    assert error.type.startswith("eval=shapes for")
    assert (
        check_evaluation(compose(["eval=shapes", "model=sd3", "data=shapes", "engine=zero0"]).typed()) == []
    )  # any engine


def test_one_file_has_no_held_out_prompts(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("all.txt").write_text("a\n")
    words = ["eval=none", "data=txt", "data.path=all.txt", "eval.terms.jpeg.scorer=jpeg_compressibility"]

    def errors(*more: str) -> list[Finding]:
        return eval_files(compose([*words, *more]).typed(), alone=True)

    assert errors()[0].type.startswith("eval.path=FILE with")
    assert errors("eval.split=train") == []
    assert errors("data.heldout=0.02") == []
    assert "eval.path=heldout.txt: there is no such file" in errors("eval.path=heldout.txt")[0].what
    Path("heldout.txt").write_text("b\n")
    assert errors("eval.path=heldout.txt") == []
    assert eval_files(compose(words).typed()) == []  # training does not look at them


def test_prompts_of_another_form_need_a_file_of_their_own(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["eval.source=jsonl", "eval.terms.jpeg.scorer=jpeg_compressibility"]
    (error,) = eval_files(compose(words).typed(), alone=True)
    assert error.what == "eval.source=jsonl reads its prompts from a file, and eval.path names none"
    Path("own.jsonl").write_text('{"prompt": "a"}')
    assert eval_files(compose([*words, "eval.path=own.jsonl"]).typed(), alone=True) == []
