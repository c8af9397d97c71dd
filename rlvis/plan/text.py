"""The plan in words: two tables, what is assumed, and the change that would fit."""

from __future__ import annotations

from collections.abc import Iterator

from rlvis.findings import Finding, Severity
from rlvis.plan.memory import CONTEXT, GIB, SLACK, Memory, Part
from rlvis.plan.speed import Rate, Times
from rlvis.schema import Config

NAME, NUMBER = 34, 12


def render(
    config: Config,
    gpus: int,
    memory: Memory,
    *,
    verdict: Finding,
    speed: Rate | None,
    seconds: Times | None,
) -> str:
    """The whole plan. verdict: whether that fits, of `advice.verdict`."""
    lines = [f"plan for {gpus} GPU{'' if gpus == 1 else 's'}: {config.model.path}", ""]
    lines += _memory(memory)
    lines += ["", *_verdict(verdict), "", *_time(config, speed, seconds)]
    return "\n".join(lines)


def _memory(memory: Memory) -> Iterator[str]:
    yield _row("on each GPU, all the time", "", "")
    yield from (_line(part) for part in memory.standing if part.bytes or part.note)
    yield _row("then, one after the other", "", "the largest counts")
    yield from (_line(part) for part in memory.phases)
    slack = f"assumed: {CONTEXT / GIB:g} GiB for CUDA and NCCL, {SLACK:.0%} that the allocator loses"
    yield _row("  context and slack", _size(_slack(memory)), slack)
    yield _row("most on each GPU", _size(memory.total), f"while it does: {memory.largest.name}")
    yield _row("on the CPU, each process", "", "beside Python and its libraries")
    yield from (_line(part) for part in memory.host)
    for what in memory.uncounted:
        yield f"not counted: {what}"


def _slack(memory: Memory) -> int:
    return memory.total - sum(part.bytes for part in memory.standing) - memory.largest.bytes


def _verdict(verdict: Finding) -> Iterator[str]:
    if verdict.severity is Severity.failure:
        yield verdict.what
        yield f"{verdict.wanted}: {verdict.type or 'none'}"
    else:
        yield verdict.what + (f": type {verdict.type}" if verdict.type else "")


def _time(config: Config, speed: Rate | None, seconds: Times | None) -> Iterator[str]:
    if speed is None or seconds is None:
        yield "seconds of a step: type plan_gpu=H100 (or another GPU's name) or plan_tflops=N"
        return
    stages = ", ".join(f"{name} {_seconds(value)}" for name, value in seconds.stages.items())
    yield f"a step: about {_seconds(seconds.total)} ({stages})"
    yield f"at {speed.why}"
    whole = seconds.total * config.train.steps / 3600
    yield f"{config.train.steps} steps: about {whole:.1f} hours"
    yield "not in the time: communication, memory traffic, rewards and maps, sample sheets, evaluation"


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 100 else f"{value:.0f} s"


def _line(part: Part) -> str:
    return _row(f"  {part.name}", _size(part.bytes), part.note)


def _size(count: float) -> str:
    return f"{count / GIB:.2f} GiB" if count >= GIB / 100 else f"{count / 2**20:.2f} MiB"


def _row(name: str, number: str, note: str) -> str:
    return f"{name:<{NAME}}{number:>{NUMBER}}  {note}".rstrip()
