"""Prompts and scorers that do not fit are found before weights are read."""

from __future__ import annotations

import pytest

from rlvis import schema as S
from rlvis.checks.data import WORLD_SCORERS, check_prompts
from rlvis.data.prompts import PromptSet


def prompts(*texts: str) -> PromptSet:
    return PromptSet(texts=texts, metadata=tuple({} for _ in texts), source="mine.txt")


@pytest.mark.parametrize("name", WORLD_SCORERS)
def test_a_scorer_of_the_world_refuses_other_prompts(name: str) -> None:
    reward = S.RewardConfig(terms={"mine": S.RewardTerm(scorer=name)})
    check_prompts(reward, prompts("a red circle", "two squares"))
    with pytest.raises(ValueError, match=rf"mine\.scorer={name} .* mine\.txt has others: 'a lighthouse'"):
        check_prompts(reward, prompts("a red circle", "a lighthouse"))


def test_other_scorers_take_any_prompt() -> None:
    reward = S.RewardConfig(terms={"size": S.RewardTerm(scorer="jpeg_compressibility")})
    check_prompts(reward, prompts("a lighthouse"))
