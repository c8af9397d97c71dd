"""A scorer that hands its samples out to Ray actors, each with a copy of the scorer.

Unusual: actors take no CPU slot of Ray (the training's processes do not either), so that only memory and
GPUs decide how many there may be. One that dies is replaced, and its samples are scored again by the score
stage's retries.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rlvis.reward import function
from rlvis.reward.away import AwayError
from rlvis.reward.boundary import Boundary
from rlvis.reward.cache import not_cached
from rlvis.reward.contract import Scorer, Scores, joined

log = logging.getLogger(__name__)


class Worker:
    """What an actor runs: one scorer, loaded there."""

    def __init__(self, path: str, kwargs: dict[str, Any], where: str) -> None:
        self.scorer: Scorer = function.load(path, kwargs, where)
        self.boundary, self.where = Boundary(), where

    def ready(self) -> str | None:
        """Answers once the scorer is loaded: why its scores are not to be kept, if it says so."""
        return not_cached(self.scorer)

    def score(self, images: Any, prompts: list[str], metadata: list[dict[str, Any]]) -> tuple[Any, ...]:
        """Columns of Scores as arrays; images: uint8 [b, M, 3, Y, X], an array that cannot be written."""
        pixels = torch.from_numpy(images.copy())
        scores: Scores = self.boundary.call(self.where, self.scorer, pixels, prompts, metadata)
        columns = (scores.value, scores.valid, scores.noise_var, scores.noise_dof)
        return tuple(None if x is None else x.detach().cpu().numpy() for x in columns)


class Pool:
    """Scores by `actors` copies of a scorer; each gets a run of neighbouring samples.

    Args: path, kwargs, where, as of `function.load`; actors; timeout, seconds for a call, and for the
    actors to load; terms, pools that share the GPUs of the cluster (an actor asks for a whole one at most).
    Ray is started on this machine, or joined where the environment variable RAY_ADDRESS names a cluster.
    Raises ValueError when Ray is not installed, or a scorer cannot be loaded.
    """

    def __init__(
        self,
        path: str,
        kwargs: dict[str, Any],
        *,
        where: str,
        actors: int,
        timeout: float,
        terms: int = 1,
    ) -> None:
        self.ray = started()
        self.where, self.timeout = where, timeout
        gpus = share(float(self.ray.cluster_resources().get("GPU", 0)), actors * terms)
        make = self.ray.remote(num_cpus=0, num_gpus=gpus)(Worker)
        self._new: Callable[[], Any] = lambda: make.remote(path, kwargs, where)
        self.actors = [self._new() for _ in range(actors)]
        try:
            reasons = self.ray.get([actor.ready.remote() for actor in self.actors], timeout=timeout)
        except Exception as error:
            self.close()
            raise ValueError(
                f"{where}: {actors} Ray actors did not load {path} within {timeout:g} s: {words(error)}"
            ) from error
        self.not_cached = reasons[0]
        log.info("%s: %d Ray actors, %g of a GPU each", where, actors, gpus)

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores of images uint8 [B, M, 3, Y, X] in their order.

        Raises RuntimeError with the words of a scorer that raised or of a lost actor, and TimeoutError. An
        actor that is lost or late is replaced; the next call waits for the new one.
        """
        parts = spans(len(images), len(self.actors))
        pixels = images.cpu().numpy()
        running = [
            actor.score.remote(pixels[rows], list(prompts[rows]), list(metadata[rows]))
            for actor, rows in zip(self.actors, parts, strict=False)
        ]
        end = time.monotonic() + self.timeout
        answers: list[Scores] = []
        failure: Exception | None = None
        for i, answer in enumerate(running):
            try:
                columns = self.ray.get(answer, timeout=max(0.0, end - time.monotonic()))
                tensors: list[Any] = [None if x is None else torch.from_numpy(x.copy()) for x in columns]
                answers.append(Scores(*tensors))
            except self.ray.exceptions.GetTimeoutError:
                failure = TimeoutError(f"{self.where}: no answer within {self.timeout:g} s")
                self._replace(i)
            except self.ray.exceptions.RayActorError as error:
                failure = AwayError(words(error))
                self._replace(i)
            except self.ray.exceptions.RayError as error:
                failure = RuntimeError(words(error))
        if failure is not None:
            raise failure
        for scores, rows in zip(answers, parts, strict=True):
            size = rows.stop - rows.start
            if len(parts) > 1 and len(scores.value) != size:  # others would move up
                raise RuntimeError(f"{self.where}: {len(scores.value)} scores for {size} samples")
        return joined(answers)

    def _replace(self, index: int) -> None:
        log.warning("%s: Ray actor %d is replaced", self.where, index)
        self.ray.kill(self.actors[index])
        self.actors[index] = self._new()

    def close(self) -> None:
        """End the actors."""
        for actor in self.actors:
            self.ray.kill(actor)


def started() -> Any:
    """The module, connected to a cluster. Raises ValueError where it is not installed."""
    try:
        import ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ValueError(
            "reward.executor=ray needs Ray, which is an extra of rlvis: pip install 'rlvis[ray]', or type "
            "reward.executor=thread"
        ) from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.WARNING)
    return ray


def share(gpus: float, actors: int) -> float:
    """The part of a GPU for each of so many actors, at most a whole one; in hundredths, rounded down."""
    return min(1.0, int(100 * gpus / actors) / 100)


def spans(count: int, parts: int) -> list[slice]:
    """At most `parts` runs of neighbours that cover `count` samples, of sizes that differ by at most 1."""
    small, more = divmod(count, parts)
    ends = [small * (i + 1) + min(i + 1, more) for i in range(parts)]
    return [slice(a, b) for a, b in zip([0, *ends], ends, strict=False) if b > a]


def words(error: BaseException) -> str:
    """An error of Ray in a line: what the actor itself raised where it did, without its traceback."""
    inner = getattr(error, "cause", None) or error
    return " ".join(f"{type(inner).__name__}: {inner}".split())[:500]
