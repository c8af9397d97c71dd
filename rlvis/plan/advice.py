"""The smallest change of a configuration that would fit a GPU, by planning each.

Changes are tried in the order of what they cost: first those that leave the result of training as it is
(checkpointing, smaller micro-batches, sharding), then those that change it a little (tiles of the
autoencoder, bfloat16) or altogether (a LoRA). Where none is enough alone they are added up, and those that
are then not needed are left out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rlvis.findings import Finding, Severity
from rlvis.plan import measure, memory
from rlvis.plan.judges import Judges
from rlvis.plan.measure import Measured, Shapes
from rlvis.plan.memory import GIB, Memory
from rlvis.plan.sharding import Sharding
from rlvis.schema import Config, Dtype, LoraConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """A configuration and its sharding, with the words that lead to them."""

    config: Config
    cut: Sharding
    words: tuple[str, ...] = ()


Step = Callable[[Setup], Setup]  # one thing that changes; ValueError where it makes no sense
Change = Callable[[Setup], Iterator[Step]]  # steps of one kind, the mildest first


@dataclass(frozen=True)
class Advice:
    """words: what to type, empty when nothing is needed. memory: with them. fits: whether that is enough."""

    words: tuple[str, ...]
    memory: Memory
    fits: bool


def verdict(needed: Memory, room: float | None, advice: Advice | None) -> Finding:
    """Whether `needed` fits into a GPU of `room` GiB, and what to type where it does not.

    room, advice: None where there is no GPU to compare with.
    """
    if room is None or advice is None:
        what = "no GPU here, so nothing to compare with"
        return Finding(name="memory", severity=Severity.warning, what=what, type="plan_gib=80")
    sizes = f"{needed.total / GIB:.1f} of {room:g} GiB"
    numbers = {"needed_gib": needed.total / GIB, "room_gib": room}
    if advice.fits and not advice.words:
        return Finding(name="memory", severity=Severity.ok, what=f"fits: {sizes}", numbers=numbers)
    least, most = "the smallest change that would", "not enough, but the most that changes here do"
    change = least if advice.fits else most
    changed = advice.memory.total / GIB
    return Finding(
        name="memory",
        what=f"does not fit: {sizes}",
        numbers=numbers | {"changed_gib": changed},
        wanted=f"{change} ({changed:.1f} GiB)",
        type=" ".join(advice.words),
    )


class Planner:
    """Plans setups, building each model and counting each geometry once."""

    def __init__(self, judges: Judges) -> None:
        self.judges = judges
        self._shapes: dict[str, Shapes] = {}
        self._measured: dict[str, Measured] = {}

    def measured(self, config: Config) -> tuple[Shapes, Measured]:
        """The shapes of a configuration, and its phases. Raises ValueError as loading does."""
        model = repr(replace(config.model, gradient_checkpointing=False))
        if model not in self._shapes:
            self._shapes[model] = measure.shapes(config)
        key = repr((config.model, config.train.micro_batch, config.advantage.kl_beta, config.sampler))
        if key not in self._measured:
            self._measured[key] = measure.measure(self._shapes[model], config)
        return self._shapes[model], self._measured[key]

    def memory(self, setup: Setup) -> Memory:
        """The memory of a setup. Raises ValueError as loading does."""
        shapes, measured = self.measured(setup.config)
        return memory.memory(shapes.policy, setup.config, setup.cut, measured, self.judges)


def advise(planner: Planner, setup: Setup, room: int) -> Advice:
    """The smallest change under which `setup` fits into `room` bytes, or the most that changes can do."""
    now = planner.memory(setup)
    if now.total <= room:
        return Advice((), now, True)
    for change in CHANGES:
        for step in change(setup):
            tried, needed = _after(planner, setup, [step])
            if needed is not None and needed.total <= room:
                return Advice(tried.words, needed, True)
    best, least, taken = setup, now, list[Step]()
    for change in CHANGES:
        before = list(taken)
        for step in change(best):
            tried, needed = _after(planner, setup, [*before, step])
            if needed is not None and needed.total <= room:
                return _prune(planner, setup, [*before, step], room)
            if needed is not None and needed.total < least.total:
                best, least, taken = tried, needed, [*before, step]
    return Advice(best.words, least, False)


def _prune(planner: Planner, setup: Setup, steps: list[Step], room: int) -> Advice:
    """Leave out every step, the costliest first, without which the rest still fits."""
    for i in reversed(range(len(steps))):
        fewer = steps[:i] + steps[i + 1 :]
        needed = _after(planner, setup, fewer)[1]
        if needed is not None and needed.total <= room:
            steps = fewer
    tried, least = _after(planner, setup, steps)
    assert least is not None, "what fitted before it was pruned still can be planned"
    return Advice(tried.words, least, True)


def _after(planner: Planner, setup: Setup, steps: list[Step]) -> tuple[Setup, Memory | None]:
    """The setup after `steps`, and its memory; None where the model refuses it."""
    try:
        for step in steps:
            setup = step(setup)
        return setup, planner.memory(setup)
    except ValueError:
        log.debug("not for this model: %s", " ".join(setup.words), exc_info=True)
        return setup, None


def _checkpointing(setup: Setup) -> Iterator[Step]:
    if not setup.config.model.gradient_checkpointing:
        yield partial(_model, words="model.gradient_checkpointing=true", gradient_checkpointing=True)


def _micro_batch(setup: Setup) -> Iterator[Step]:
    rows = setup.config.train.micro_batch
    while rows > 1:
        rows = rows // 2
        yield partial(_rows, rows=rows)


def _rows(setup: Setup, rows: int) -> Setup:
    config = replace(setup.config, train=replace(setup.config.train, micro_batch=rows))
    return replace(setup, config=config, words=(*setup.words, f"train.micro_batch={rows}"))


def _stages(setup: Setup) -> Iterator[Step]:
    if setup.config.engine.config is None and setup.cut.gpus > 1:  # else the user's file decides
        for stage in range(setup.cut.stage + 1, 4):
            yield partial(_stage, stage=stage)


def _stage(setup: Setup, stage: int) -> Setup:
    words = (*_without_engine(setup), f"engine=zero{stage}")
    return replace(setup, cut=replace(setup.cut, stage=stage), words=words)


def _without_engine(setup: Setup) -> tuple[str, ...]:
    return tuple(word for word in setup.words if not word.startswith("engine="))


def _slicing(setup: Setup) -> Iterator[Step]:
    if not setup.config.model.vae_slicing:
        yield partial(_model, words="model.vae_slicing=true", vae_slicing=True)


def _tiling(setup: Setup) -> Iterator[Step]:
    if not setup.config.model.vae_tiling:
        yield partial(_model, words="model.vae_tiling=true", vae_tiling=True)


def _bfloat16(setup: Setup) -> Iterator[Step]:
    if setup.config.model.dtype is Dtype.float32:
        yield _half


def _half(setup: Setup) -> Setup:
    half = _model(setup, "model.dtype=bfloat16", dtype=Dtype.bfloat16)
    return half if half.cut.stage else _stage(half, 1)  # bfloat16 does not take stage 0


def _offload(setup: Setup) -> Iterator[Step]:
    if not setup.cut.offload_optimizer:
        yield _offloaded


def _offloaded(setup: Setup) -> Setup:
    if setup.cut.stage == 0:
        raise ValueError("DeepSpeed offloads an optimizer from stage 1 on")
    zero = f'{{"stage": {setup.cut.stage}, "offload_optimizer": {{"device": "cpu"}}}}'
    words = f'engine=json engine.config=FILE with {{"zero_optimization": {zero}}}'
    return replace(
        setup, cut=replace(setup.cut, offload_optimizer=True), words=(*_without_engine(setup), words)
    )


def _lora(setup: Setup) -> Iterator[Step]:
    if setup.config.model.lora is None:
        usual = LoraConfig()
        words = f"'model.lora={{rank: {usual.rank}, alpha: {usual.alpha:g}}}'"
        yield partial(_model, words=words, lora=usual)


def _model(setup: Setup, words: str, **changes: Any) -> Setup:
    model = replace(setup.config.model, **changes)
    return replace(setup, config=replace(setup.config, model=model), words=(*setup.words, words))


CHANGES: tuple[Change, ...] = (
    _checkpointing,
    _micro_batch,
    _stages,
    _slicing,
    _tiling,
    _bfloat16,
    _offload,
    _lora,
)
