"""Contradictions about how rewards are asked, each with what to type."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from rlvis.checks.config import check, check_evaluation
from rlvis.checks.domain import domain_errors
from rlvis.checks.reward import reward_errors
from rlvis.compose.command import compose
from rlvis.findings import Finding
from rlvis.schema import Config, Executor, MapSource, RewardTerm, Stage

URL, OTHER = "http://127.0.0.1:8700", "https://b"
HTTP: dict[str, Any] = {"executor": Executor.http, "servers": [URL]}
TWO = HTTP | {"servers": [URL, OTHER]}
THREAD = {"executor": Executor.thread}
RAY = {"executor": Executor.ray}


@cache
def usual() -> Config:
    return compose([]).typed()


def errors(reward: dict[str, Any], shard: int = 0, ranks: int = 1, maps: bool = False) -> list[Finding]:
    config = usual()
    map_ = replace(config.advantage.map, source=MapSource.psm if maps else MapSource.none)
    config = replace(
        config,
        reward=replace(config.reward, **reward),
        train=replace(config.train, shard=shard),
        advantage=replace(config.advantage, map=map_),
    )
    return list(domain_errors(config, ("reward",))) or list(reward_errors(config, ranks))


@pytest.mark.parametrize(
    "reward",
    [{}, HTTP, TWO | {"hedge": 5.0, "timeout": 30.0, "token_env": "X"}, RAY | {"actors": 4, "timeout": 3.0}],
)
def test_what_fits(reward: dict[str, Any]) -> None:
    assert errors(reward) == []


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"executor": Executor.http}, "type reward.servers=[http://127.0.0.1:8700]"),
        ({"servers": [URL]}, f"reward.servers=[{URL}] does nothing with reward.executor=inline"),
        ({"hedge": 3.0}, "type reward.executor=http, or reward.hedge=null"),
        (
            {"terms": {"a": RewardTerm("checker", 0.0), "b": RewardTerm("intact", 0.0)}},
            "and that of all others",
        ),
        ({"terms": {"a": RewardTerm("checker", -0.0)}}, "nothing to train on; type reward.terms.a.weight=1"),
        ({"patience": -1.0}, "type reward.patience=600"),
        ({"actors": 3}, "type reward.executor=ray, or reward.actors=1"),
        (HTTP | {"actors": 3}, "does nothing with reward.executor=http"),
        ({"token_env": "X"}, "does nothing with reward.executor=inline"),
        (RAY | {"actors": 0}, "type reward.actors=1"),
        (HTTP | {"timeout": 0.0}, "type reward.timeout=120"),
        (HTTP | {"hedge": 3.0}, "reward.servers has one"),
        (TWO | {"hedge": 200.0}, "below the timeout"),
        (HTTP | {"servers": ["localhost"]}, "no server's address"),
        (HTTP | {"servers": ["http://u:p@h"]}, "user or password"),
        (HTTP | {"servers": ["http://h", "http://h/"]}, "names http://h twice"),
        (THREAD, "train.shard=0 takes all 96 samples of a process at once; type train.shard=24"),
    ],
)
def test_what_does_not(reward: dict[str, Any], message: str) -> None:
    (error,) = errors(reward)
    assert message in str(error)


def test_a_thread_needs_a_next_shard_of_its_own_process() -> None:
    assert errors(THREAD, shard=48) == []
    assert "train.shard=96 takes all 96" in errors(THREAD, shard=96)[0].what
    assert "train.shard=48 takes all 48" in errors(THREAD, shard=48, ranks=2)[0].what
    assert errors(THREAD, maps=True) == []  # which are made meanwhile


def test_the_checks_of_a_run_ask_for_them() -> None:
    assert check(replace(usual(), reward=replace(usual().reward, executor=Executor.http))) == errors(
        {"executor": Executor.http}
    )


def reward_of(scorer: str, /, **kwargs: Any) -> dict[str, Any]:
    return {"terms": {"x": RewardTerm(scorer, kwargs=kwargs)}}


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (reward_of("jpeg_compressibility", quality=9999), "terms.x.kwargs.quality=9999: wanted at most"),
        (reward_of("jpeg_compressibility", qualty=9), "no argument 'qualty'; did you mean quality?"),
        (reward_of("clipp"), "reward.terms.x.scorer=clipp: did you mean clip?"),
        (
            reward_of("math.sqrt"),
            "takes 1 positional arguments; it is called with images, prompts, metadata; wanted def",
        ),
        (reward_of("noisy", scorer="ocr", kwargs={"every": 0}), "terms.x.kwargs.kwargs.every=0: wanted"),
        (RAY | reward_of("ocr", every=0), "reward.terms.x.kwargs.every=0"),
        (
            reward_of("noisy", scorer="vlm", kwargs={"model": "m", "mode": "pairwise", "group": 4}),
            "=4, but data",
        ),
    ],
)
def test_scorers_and_their_arguments_are_tried_before_anything_loads(
    reward: dict[str, Any], message: str
) -> None:
    (error,) = errors(reward)
    assert message in str(error)


def test_what_runs_elsewhere_is_not_looked_for() -> None:
    assert errors(HTTP | reward_of("of_the_servers.scorer")) == []
    assert errors(HTTP | reward_of("videoalign", clip_fps=None)) == []
    assert errors(RAY | reward_of("of_the_actors.scorer")) == []
    config = replace(usual(), reward=replace(usual().reward, **reward_of("nowhere.f")), stage=Stage.update)
    assert list(reward_errors(config, 1)) == []  # which reads the scores that another stage has saved


def test_scorers_of_an_evaluation_are_tried_too() -> None:
    words = ["+eval.terms.x.scorer=ocr", "+eval.terms.x.kwargs.every=0"]
    for problems in (
        check(compose(["eval.every=5", *words]).typed()),
        check_evaluation(compose(words).typed()),
    ):
        (error,) = problems
        assert str(error).startswith("eval.terms.x.kwargs.every=0: wanted at least 1")
