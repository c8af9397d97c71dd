"""What is known of a scorer before it is made: found by name, checked against its kwargs, asked for facts.

A scorer states facts in an attribute `facts`: Facts, or a function of its kwargs (defaults filled in) that
gives them, and raises ValueError for kwargs that make no sense together. What has no such attribute has the
usual ones. Nothing is loaded here; importing this needs no torch, though the module of a scorer may.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from rlvis.findings import ConfigError, mistake
from rlvis.named import Folder, bind

ARGUMENTS = ("images", "prompts", "metadata")
SCORERS = Folder(
    "scorer",
    "rlvis.reward.scorers",
    "def my_reward(images, prompts, metadata, **kwargs): ... with one number for each image, or a class "
    "whose instances are called so",
)

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Repository:
    """What a scorer reads of the hub: the kwarg that names the repository, the name, a small file that lies
    in it, the commit, tag or branch (None: the newest). A name may be a local folder as well.
    """

    kwarg: str
    name: str
    file: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What others have to know of a scorer.

    weights: bytes that it puts on the GPU, or why they are not known, or what counts them when asked (the
    last may import heavy libraries). world: it judges prompts of the shapes world only. group: for a scorer
    that compares the samples of a prompt, all of which it must see in one call: the kwarg that says how many
    they are, and its value. around: (scorer, kwargs) that it asks itself, given to it as the kwargs `scorer`
    and `kwargs`; the facts of that one are its own.
    """

    repositories: tuple[Repository, ...] = ()
    weights: int | str | Callable[[], int | str] = "its weights are not counted"
    world: bool = False
    group: tuple[str, int | None] | None = None
    around: tuple[str, Mapping[str, Any]] | None = None

    def gpu_bytes(self) -> int | str:
        """Of its weights; or why they are not known."""
        return self.weights() if callable(self.weights) else self.weights


UNSTATED = Facts(weights="a function of your own may load anything")


def states(facts: Facts) -> Callable[[T], T]:
    """Put `facts` on a function that scores; a class simply has the attribute."""

    def state(function: T) -> T:
        vars(function)["facts"] = facts
        return function

    return state


def repository(
    kwargs: Mapping[str, Any], kwarg: str, file: str, pinned: Mapping[str, str] | None = None
) -> Repository:
    """The repository that `kwarg` names, at `revision` (of another kwarg than path: KWARG_revision) or, where
    that is null, at its commit in `pinned` (name -> commit).
    """
    name = str(kwargs[kwarg]).removeprefix("hf-hub:")
    revision = kwargs.get("revision" if kwarg == "path" else f"{kwarg}_revision")
    return Repository(kwarg, name, file, revision or (pinned or {}).get(name))


def fit(scorer: str, kwargs: Mapping[str, Any], where: str) -> Callable[..., Any]:
    """The function or class called `scorer`, which can be called with `kwargs`.

    where: the section that holds `scorer` and `kwargs`, such as reward.terms.NAME. Raises ConfigError when it
    does not exist, cannot take (images, prompts, metadata), or the kwargs do not fit its signature.
    """
    target: Callable[..., Any] = SCORERS.find(scorer, f"{where}.scorer")
    given: tuple[str, ...] = ARGUMENTS
    typed, contract = f"{where}.scorer={scorer}", SCORERS.contract
    if inspect.isclass(target):
        call = next((c.__dict__["__call__"] for c in target.__mro__ if "__call__" in c.__dict__), None)
        if call is None:
            raise SCORERS.misfit(scorer, "a class whose instances cannot be called", f"{where}.scorer")
        bind(call, ("self", *ARGUMENTS), {}, f"{typed}: its __call__", contract=contract)
        given = ()
    what = f"{where}.kwargs: {scorer}"
    bind(target, given, kwargs, what, key=f"{where}.kwargs", contract=contract)
    if inner := _stated(target, kwargs, what).around:
        fit(*inner, f"{where}.kwargs")
    return target


def facts(scorer: str, kwargs: Mapping[str, Any]) -> Facts:
    """What the scorer called `scorer` states, with kwargs that fit."""
    stated = _stated(SCORERS.find(scorer), kwargs, scorer)
    if stated.around is None:
        return stated
    inner = facts(*stated.around)
    return replace(
        inner,
        repositories=tuple(replace(one, kwarg=f"kwargs.{one.kwarg}") for one in inner.repositories),
        group=inner.group and (f"kwargs.{inner.group[0]}", inner.group[1]),
    )


def _stated(target: Callable[..., Any], kwargs: Mapping[str, Any], what: str) -> Facts:
    said = getattr(target, "facts", UNSTATED)
    if callable(said):
        usual = {
            name: one.default
            for name, one in inspect.signature(target).parameters.items()
            if one.default is not one.empty
        }
        try:
            said = said({**usual, **kwargs})
        except ValueError as error:
            raise ConfigError(f"{what}: {error}") from error
    if not isinstance(said, Facts):
        raise ConfigError(
            mistake(
                f"{what}: its attribute `facts` is a {type(said).__name__}",
                why="wanted rlvis.reward.facts.Facts, or a function of the kwargs that returns them",
            )
        )
    return said
