"""The plan in words: two tables, what is assumed, and the change that would fit."""

from __future__ import annotations

from collections.abc import Iterator

from rlvis.plan.advice import Advice
from rlvis.plan.memory import CONTEXT, GIB, SLACK, Memory, Part
from rlvis.plan.speed import Rate, Times
from rlvis.schema import Config

NAME, NUMBER = 34, 12


def told(
    config: Config,
    gpus: int,
    found: Memory,
    *,
    room: float | None,
    advice: Advice | None,
    speed: Rate | None,
    seconds: Times | None,
) -> str:
    """The whole plan. room: GiB of a GPU, None where it is not known; then there is no advice either."""
    lines = [f"plan for {gpus} GPU{'' if gpus == 1 else 's'}: {config.model.path}", ""]
    lines += _memory(found)
    lines += ["", *_verdict(found, room, advice), "", *_time(config, speed, seconds)]
    return "\n".join(lines)


def _memory(found: Memory) -> Iterator[str]:
    yield _row("on each GPU, all the time", "", "")
    yield from (_line(part) for part in found.standing if part.bytes or part.note)
    yield _row("then, one after the other", "", "the largest counts")
    yield from (_line(part) for part in found.phases)
    slack = f"assumed: {CONTEXT / GIB:g} GiB for CUDA and NCCL, {SLACK:.0%} that the allocator loses"
    yield _row("  context and slack", _size(_slack(found)), slack)
    yield _row("most on each GPU", _size(found.total), f"while it does: {found.largest.name}")
    yield _row("on the CPU, each process", "", "beside Python and its libraries")
    yield from (_line(part) for part in found.host)
    for what in found.uncounted:
        yield f"not counted: {what}"


def _slack(found: Memory) -> int:
    return found.total - sum(part.bytes for part in found.standing) - found.largest.bytes


def _verdict(found: Memory, room: float | None, advice: Advice | None) -> Iterator[str]:
    need = found.total / GIB
    if room is None or advice is None:
        yield "no GPU here, so nothing to compare with: type plan_gib=80"
    elif not advice.words and advice.fits:
        yield f"fits: {need:.1f} of {room:g} GiB"
    else:
        yield f"does not fit: {need:.1f} of {room:g} GiB"
        what = (
            "the smallest change that would"
            if advice.fits
            else "not enough, but the most that changes here do"
        )
        yield f"{what} ({advice.memory.total / GIB:.1f} GiB): {' '.join(advice.words) or 'none'}"


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
