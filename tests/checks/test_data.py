"""Prompts and scorers that do not fit are found before weights are read."""

from __future__ import annotations

import pytest

from rlvis import schema as S
from rlvis.checks.data import check_prompts
from rlvis.data.prompts import PromptSet


def prompts(*texts: str) -> PromptSet:
    return PromptSet(texts=texts, metadata=tuple({} for _ in texts), source="mine.txt")


@pytest.mark.parametrize("name", ["checker", "coverage", "intact"])
def test_a_scorer_of_the_world_refuses_other_prompts(name: str) -> None:
    reward = S.RewardConfig(terms={"mine": S.RewardTerm(scorer=name)})
    check_prompts(reward, prompts("a red circle", "two squares"))
    with pytest.raises(ValueError, match=rf"mine\.scorer={name} .* mine\.txt has others: 'a lighthouse'"):
        check_prompts(reward, prompts("a red circle", "a lighthouse"))


def test_noise_around_such_a_scorer_refuses_them_too() -> None:
    reward = S.RewardConfig(terms={"mine": S.RewardTerm(scorer="noisy", kwargs={"scorer": "checker"})})
    with pytest.raises(ValueError, match=r"mine\.scorer=noisy .* has others: 'a lighthouse'"):
        check_prompts(reward, prompts("a red circle", "a lighthouse"))


def test_other_scorers_take_any_prompt() -> None:
    terms = {
        "size": S.RewardTerm(scorer="jpeg_compressibility"),
        "theirs": S.RewardTerm(scorer="of_the_servers.scorer"),
    }
    check_prompts(S.RewardConfig(terms=terms, executor=S.Executor.http), prompts("a lighthouse"))
