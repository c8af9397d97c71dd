"""Where numbers stop being finite: samples, transitions, layers, and the first module whose output was not.

Slow (hooks look at every output and wait for the device), so it runs once, when a step is broken anyway. The
result stands in RUN/dump/step_NNNNNN/broken.json:

    {"step": 3, "stage": "update", "what": "the loss ...", "optimizer_step": 0, "rows": [{"prompt": 17,
     "sample": 2, "text": "a red ring", "at": 1, "step": 1, "sigma": 0.94, "value": "nan"}], "layers": [],
     "module": "transformer_blocks.3.ff", "weights": false}

step is that of metrics.jsonl, which counts from 1; the folder's name counts from 0, as records do. In rows,
`at` is the trained transition (null for a rollout) and `step` the sampling step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlvis.findings import write_json
from rlvis.records import PromptBatch, Schedule, Trajectories
from rlvis.runtime import dist

NAME = "broken.json"
INPUT = "input"
MOST = 20  # rows that are named

Row = dict[str, Any]


@dataclass(frozen=True)
class NonFinite:
    """Where a step broke.

    optimizer_step: of the training step, from 0. rows: {"prompt": position in the data set, "sample", "text",
    "at": trained transition or None, "step": sampling step, "sigma", "value": "nan" | "inf" | "-inf", of the
    loss or else of the ratio}, at most MOST. layers: blocks whose gradient was not finite. module: the first
    module of the forward whose output was not; weights: because its own parameters are not.
    """

    optimizer_step: int
    rows: list[Row] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    module: str | None = None
    weights: bool = False

    def __str__(self) -> str:
        """Where it is, for a message; empty where nothing is known."""
        parts = []
        if self.rows:
            row = self.rows[0]
            parts.append(
                f"{row['value']} first at transition {row['at']} (sigma {row['sigma']:.3f}) of prompt "
                f"{row['prompt']}, sample {row['sample']}"
            )
        if self.module is not None:
            parts.append(f"from {self.module}{' (its weights)' if self.weights else ''} on")
        return f" ({', '.join(parts)})" if parts else ""


@dataclass(frozen=True)
class ReplayedBatch:
    """One micro-batch of an update at one transition: local row numbers, weights, losses and |ratio - 1|,
    each [B]. Small: those of an optimizer step are kept, and looked at only when it is broken.
    """

    rows: tuple[int, ...]
    weights: Tensor
    s: int
    per_row: Tensor
    ratio: Tensor  # clipping can make the loss of an infinite ratio finite, but not its gradient

    @property
    def values(self) -> Tensor:
        """The losses, and where they are finite the ratios [B]."""
        return torch.where(torch.isfinite(self.per_row), self.ratio, self.per_row)

    @property
    def bad(self) -> list[int]:
        """Positions of the rows that count and whose loss or ratio is not finite."""
        return torch.nonzero((self.weights > 0) & ~torch.isfinite(self.values)).flatten().tolist()


def trace_rollout(
    rows: Sequence[tuple[int, int]],
    micro_batch: list[int],
    prompts: PromptBatch,
    samples_per_prompt: int,
    schedule: Schedule,
    module: nn.Module,
    sample: Callable[[list[int]], object],
) -> tuple[str, NonFinite]:
    """(message, what was not finite) of a rollout that broke on some rank; a collective.

    Args:
        rows: this rank's (global row, first sampling step after which it was not finite); may be empty.
        micro_batch: global rows to sample once more, which tells where in the module it begins.
        prompts, samples_per_prompt, schedule: of the step.
        module: the trained one.
        sample: samples a micro-batch of rows; may raise FloatingPointError.
    """
    local = torch.tensor([[float(row), float(t)] for row, t in rows], dtype=torch.float64).reshape(-1, 2)
    table = dist.all_gather_rows(local).tolist()
    named = [
        _row(prompts, int(row) // samples_per_prompt, int(row) % samples_per_prompt, None, int(t), schedule)
        for row, t in sorted(table, key=lambda pair: (pair[1], pair[0]))
    ]
    with watch(module) as first, suppress(FloatingPointError):
        sample(micro_batch)
    first = agree(first, module)
    result = NonFinite(0, named[:MOST], [], first.module, first.weights)
    message = (
        f"{len(named)} of {prompts.rows * samples_per_prompt} samples are not finite: first sample "
        f"{named[0]['sample']} of prompt {named[0]['prompt']} ({named[0]['text']!r}), after sampling step "
        f"{named[0]['step']} of {schedule.steps} (sigma {named[0]['sigma']:.3f})"
    )
    return f"{message}{replace(result, rows=[])}", result


def trace_update(
    batches: list[ReplayedBatch],
    optimizer_step: int,
    prompts: PromptBatch,
    trajectories: Trajectories,
    layers: dict[str, float],
    module: nn.Module,
    forward: Callable[[tuple[int, ...], int], object],
) -> NonFinite:
    """What was not finite in an optimizer step; a collective, with as many forwards on every rank: of the
    first bad micro-batch and transition, or of all where every loss and ratio is finite.

    layers: gradient norm of each block. module: the trained one. forward: (rows, s) -> anything, runs the
    policy on that micro-batch.
    """
    faulty = [(batch, at) for batch in batches if (at := batch.bad)]
    local = [
        [
            float(trajectories.prompt[batch.rows[i]]),
            float(trajectories.sample[batch.rows[i]]),
            float(batch.s),
            float(trajectories.step[batch.rows[i], batch.s]),
            float(batch.values[i]),
        ]
        for batch, at in faulty
        for i in at
    ][:MOST]
    table = dist.all_gather_rows(torch.tensor(local, dtype=torch.float64).reshape(-1, 5)).tolist()
    named = [
        _row(prompts, int(p), int(k), int(s), int(step), trajectories.schedule, value)
        for p, k, s, step, value in sorted(table, key=lambda row: (row[2], row[0], row[1]))
    ]
    again = [faulty[0][0] if faulty else batches[0]] if named else batches
    # With gradients, as in the forward that broke: without them other kernels would run.
    with torch.enable_grad(), watch(module) as first:
        for batch in again:
            forward(batch.rows, batch.s)
    first = agree(first, module)
    broken = [block for block, norm in layers.items() if not math.isfinite(norm)]
    return NonFinite(optimizer_step, named[:MOST], broken, first.module, first.weights)


def write(folder: Path, step: int, stage: str, what: str, result: NonFinite) -> Path:
    """Write broken.json into a dump's folder, whole or not at all. step: from 1, as in metrics.jsonl."""
    content = {"step": step, "stage": stage, "what": what, **dataclasses.asdict(result)}
    return write_json(folder / NAME, content)


def _row(
    prompts: PromptBatch,
    prompt: int,
    sample: int,
    at: int | None,
    step: int,
    schedule: Schedule,
    value: float | None = None,
) -> Row:
    """One sample as broken.json names it. prompt: position in the batch."""
    return {
        "prompt": int(prompts.index[prompt]),
        "sample": sample,
        "text": prompts.texts[prompt],
        "at": at,
        "step": step,
        "sigma": float(schedule.sigma[step]),
        "value": "not finite" if value is None else number_name(value),
    }


def number_name(value: float) -> str:
    """ "nan", "inf" or "-inf"."""
    return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")


@dataclass
class First:
    """What a watched forward showed: module is the dotted name of the first one whose output was not finite,
    `input` where that holds for what went in, None where all was finite. weights: whether parameters of that
    module are not finite themselves.
    """

    module: str | None = None
    weights: bool = False


@contextmanager
def watch(module: nn.Module) -> Iterator[First]:
    """Watch the forwards of `module` inside the block.

    Children end before their parents, so the first to end with such an output is the innermost one.
    """
    first = First()

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        if first.module is None and not _finite((args, kwargs)):
            first.module = INPUT

    def after(name: str) -> Any:
        def hook(part: nn.Module, args: Any, out: Any) -> None:
            if first.module is None and not _finite(out):
                first.module = name
                first.weights = not _finite([p.detach() for p in part.parameters(recurse=False)])

        return hook

    hooks = [module.register_forward_pre_hook(before, with_kwargs=True)]
    for name, part in module.named_modules():
        hooks.append(part.register_forward_hook(after(_name(name, part))))
    try:
        yield first
    finally:
        for handle in hooks:
            handle.remove()


def agree(first: First, module: nn.Module) -> First:
    """What some rank saw, on all: the last in the module's order where they differ. A collective."""
    names = [INPUT, *(_name(name, part) for name, part in module.named_modules())]
    local = -1 if first.module is None else 2 * names.index(first.module) + first.weights
    code = int(dist.all_reduce(torch.tensor([float(local)]), "max")[0])
    return First() if code < 0 else First(names[code // 2], bool(code % 2))


def _name(name: str, part: nn.Module) -> str:
    """A submodule's dotted name; the class of the module itself."""
    return name or type(part).__name__


def _finite(value: Any) -> bool:
    """Whether every floating number in tensors, lists, tuples, dicts and diffusers' outputs is finite."""
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(torch.isfinite(value).all())
    if isinstance(value, dict):
        return all(_finite(part) for part in value.values())
    if isinstance(value, list | tuple):
        return all(_finite(part) for part in value)
    return True
