"""Ray actors: their arithmetic and faults with a stand-in for Ray, and once (slow) with Ray itself."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlvis.reward.contract import Term
from rlvis.reward.serving import ray as pools
from rlvis.reward.serving.ray import Pool, share, spans
from rlvis.reward.stage import score
from tests.reward.serving.places import pictures

LEVELS = [3, 1, 4, 1, 5]
CALL = pictures(LEVELS), ["x"] * 5, [{}] * 5

SCORERS = """
import os

LEAVE = os._exit

class Level:
    not_cached = "for a test"
    def __call__(self, images, prompts, metadata):
        images += 0  # may be written to
        return images[:, 0, 0, 0, 0].double().tolist()

def picky(images, prompts, metadata):
    found = images[:, 0, 0, 0, 0].double().tolist()
    if 4 in found:
        raise ValueError("no fours")
    return found

def dies(images, prompts, metadata):
    if 4 in images[:, 0, 0, 0, 0].tolist():
        LEAVE(1)
    return images[:, 0, 0, 0, 0].double().tolist()

def uneven(images, prompts, metadata):
    found = images[:, 0, 0, 0, 0].double().tolist()
    return found[1:] if 3 in found else found + [0.0]
"""


@pytest.fixture
def scorers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "ray_scorers.py").write_text(SCORERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ray_scorers", raising=False)
    return "ray_scorers."


class StandIn(types.SimpleNamespace):
    """As much of Ray as a pool uses, in this process."""

    class RayError(Exception):
        """Wraps what a task raised, as Ray does."""

        def __init__(self, cause: Exception) -> None:
            super().__init__("\n".join(["a long", "traceback", str(cause)]))
            self.cause = cause

    class RayActorError(RayError):
        """An actor that is gone."""

    class GetTimeoutError(RayError, TimeoutError):
        """The time is up."""

    def __init__(self, gpus: float = 0.0) -> None:
        super().__init__(gpus=gpus, options={}, exceptions=StandIn, killed=[])

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 8.0} | ({"GPU": self.gpus} if self.gpus else {})

    def remote(self, **options: Any) -> Callable[[type], Any]:
        self.options = options

        def method(function: Callable[..., Any]) -> Any:
            return types.SimpleNamespace(remote=lambda *args: lambda: function(*args))

        def actor(cls: type, args: tuple[Any, ...]) -> Any:
            instance = cls(*args)
            return types.SimpleNamespace(ready=method(instance.ready), score=method(instance.score))

        return lambda cls: types.SimpleNamespace(remote=lambda *args: actor(cls, args))

    def get(self, asked: Any, timeout: float) -> Any:
        if timeout < 1:
            raise StandIn.GetTimeoutError(TimeoutError())
        if isinstance(asked, list):
            return [self.get(one, timeout) for one in asked]
        try:
            return asked()
        except Exception as error:
            if isinstance(error.__cause__, SystemExit):  # stands for os._exit, which no boundary catches
                raise StandIn.RayActorError(RuntimeError("it exited")) from error
            raise StandIn.RayError(error) from error

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


def pool(monkeypatch: pytest.MonkeyPatch, path: str, ray: Any = None, **kwargs: Any) -> Pool:
    if ray is not None:
        monkeypatch.setattr(pools, "started", lambda: ray)
    return Pool(path, {}, where="reward.terms.own", **({"actors": 2, "timeout": 60.0} | kwargs))


def test_each_actor_gets_neighbours_and_the_order_stays(
    scorers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = pool(monkeypatch, scorers + "Level", StandIn(), actors=3)
    assert scorer(*CALL).value.tolist() == LEVELS
    assert scorer(pictures([7]), ["x"], [{}]).value.tolist() == [7]  # fewer samples than actors
    assert scorer.not_cached == "for a test"


def test_one_bad_image_costs_one_sample(scorers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    local = score([Term("own", pool(monkeypatch, scorers + "picky", StandIn()), 1.0)], *CALL[1:], CALL[0])
    assert local.valid.tolist() == [True, True, False, True, True]
    assert local.failures == {"own/raised": 1}


def test_its_words_are_the_scorer_s_and_not_ray_s(scorers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match=r"^ValueError: no fours$"):
        pool(monkeypatch, scorers + "picky", StandIn())(*CALL)


def test_scores_that_only_sum_up_do_not_pass(scorers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two for three samples and three for two would move every score to its neighbour."""
    with pytest.raises(RuntimeError, match="2 scores for 3 samples"):
        pool(monkeypatch, scorers + "uneven", StandIn())(*CALL)


def test_an_actor_that_is_lost_is_replaced(scorers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn()
    scorer = pool(monkeypatch, scorers + "dies", ray)
    monkeypatch.setattr(sys.modules["ray_scorers"], "LEAVE", sys.exit)  # the stand-in shares our process
    before = list(scorer.actors)
    local = score([Term("own", scorer, 1.0)], *CALL[1:], CALL[0], retries=0)
    assert local.valid.tolist() == [True, True, False, True, True]
    assert local.failures == {"own/raised": 1}
    assert before[0] in ray.killed
    assert before[1] in scorer.actors


def test_late_answers_and_scorers_that_do_not_load(scorers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = pool(monkeypatch, scorers + "Level", StandIn())
    scorer.timeout = 0.5
    with pytest.raises(TimeoutError, match=r"no answer within 0\.5 s"):
        scorer(*CALL)
    scorer.timeout = 60.0
    assert scorer(*CALL).value.tolist() == LEVELS
    ray = StandIn()
    with pytest.raises(ValueError, match="2 Ray actors did not load"):
        pool(monkeypatch, scorers + "Level", ray, timeout=0.5)
    assert len(ray.killed) == 2


@pytest.mark.parametrize(
    ("gpus", "actors", "each"), [(0, 4, 0.0), (8, 4, 1.0), (1, 3, 0.33), (2, 3, 0.66), (1, 1000, 0.0)]
)
def test_actors_share_the_gpus_there_are(gpus: float, actors: int, each: float) -> None:
    assert share(gpus, actors) == each
    assert share(gpus, actors) * actors <= gpus


def test_the_share_counts_all_terms(scorers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = StandIn(gpus=2)
    pool(monkeypatch, scorers + "Level", ray, actors=2, terms=2)
    assert ray.options == {"num_cpus": 0, "num_gpus": 0.5}


@pytest.mark.parametrize(("count", "parts"), [(0, 3), (1, 3), (5, 2), (7, 3), (6, 3)])
def test_spans_cover_all_samples_once(count: int, parts: int) -> None:
    runs = spans(count, parts)
    assert [i for rows in runs for i in range(count)[rows]] == list(range(count))
    sizes = [rows.stop - rows.start for rows in runs]
    assert len(sizes) == min(count, parts)
    assert max(sizes, default=0) - min(sizes, default=0) <= 1


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed")
def test_with_ray_itself(scorers: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(Path(__file__).parents[3])]))
    try:
        scorer = pool(monkeypatch, scorers + "Level", timeout=240.0)
        assert scorer(*CALL).value.tolist() == LEVELS
        scorer.close()
        picky = pool(monkeypatch, scorers + "picky", timeout=240.0)
        with pytest.raises(RuntimeError, match="ValueError: no fours"):
            picky(*CALL)
        dies = pool(monkeypatch, scorers + "dies", timeout=240.0)
        local = score([Term("own", dies, 1.0)], *CALL[1:], CALL[0])
        assert local.value[[0, 1, 4], 0].tolist() == [3, 1, 5]  # whoever died with its process is back
        assert not bool(local.valid[2])
        with pytest.raises(ValueError, match="did not load"):
            pool(monkeypatch, scorers + "Nothing", timeout=240.0)
    finally:
        ray.shutdown()
