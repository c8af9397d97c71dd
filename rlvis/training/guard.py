"""The sentinels in a run: look at each shard, judge each step, and act on an alarm.

What an action changes (learning rate, rollbacks so far) is in `Memory.sentinels`, so it is
checkpointed and a resumed run goes on with it. Rank 0 judges for all. Steps count on through a rollback:
weights and memory go back, the data and the noise do not repeat.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlvis.checkpoints import files, state
from rlvis.checkpoints.state import Saver
from rlvis.findings import Finding
from rlvis.observe import alarms, sentinels, step_statistics
from rlvis.observe.sentinels import Judged, Observation, Watch
from rlvis.observe.trackers import Trackers
from rlvis.records import StepRecords, Trajectories
from rlvis.runtime import dist
from rlvis.schema import SentinelAction
from rlvis.training.parts import MEMORY_KINDS, Memory, Parts

log = logging.getLogger(__name__)

HALF = 0.5  # of the learning rate after a rollback
SCORE, SCORE_CHANCE = 0.005, 0.1  # of eval/score, one deviation: at least, and by the root of its samples


class SentinelStopError(RuntimeError):
    """An alarm ended the run, as sentinels.action says; the checkpoint is written."""


@dataclass(frozen=True)
class Acted:
    """The run after an alarm. save: write a checkpoint now. halt: why the run must end."""

    parts: Parts
    memory: Memory
    save: bool = False
    halt: str | None = None


class Guard:
    """Of one run; does nothing with sentinels.action=off."""

    def __init__(self, parts: Parts, run_dir: Path, tracker: Trackers) -> None:
        self.config, self.run_dir, self.tracker = parts.config, run_dir, tracker
        self.settings = parts.config.sentinels
        self.active = self.settings.action is not SentinelAction.off
        self.device, self.is_main = parts.world.device, parts.world.is_main
        self.statistics: list[step_statistics.Look] = []
        self.seconds = 0.0
        self.alarms: list[Finding] = []
        held = parts.held_out
        drawn = 1 if held is None else held.batch.rows * held.settings.samples
        self.unit = max(SCORE, SCORE_CHANCE / drawn**0.5)
        self.held_out = [term.name for term in parts.terms if term.weight == 0]

    def look(self, piece: Trajectories) -> None:
        """Take the statistics of a shard of this rank, while it holds its media."""
        if self.active and piece.media is not None:
            start = time.perf_counter()
            self.statistics.append(step_statistics.look(piece.media, self.device))
            self.seconds += time.perf_counter() - start

    def begin(self, memory: Memory, scores: Mapping[str, float]) -> Memory:
        """Take the evaluation before the first step."""
        return self._judge(memory, Observation(), scores, 0)[0]

    def judge(
        self, memory: Memory, records: StepRecords, metrics: Mapping[str, float], step: int
    ) -> tuple[Memory, dict[str, float]]:
        """Judge step `step`, from 1; a collective. Returns the memory after it, and metrics of its own."""
        if not self.active:
            return memory, {}
        local = records.trajectories
        pictures: dict[str, float] = {}
        if dist.all_true(bool(self.statistics)):
            valid = records.rewards.valid
            pictures = step_statistics.means(
                self.statistics, local.prompt, local.sample, valid, dist.all_gather_rows
            )
        named = {key.removeprefix(step_statistics.PREFIX): value for key, value in pictures.items()}
        memory, judged = self._judge(memory, Observation(pictures=named), metrics, step)
        self.alarms = judged.alarms
        seconds = {"time/sentinels": self.seconds}
        self.statistics, self.seconds = [], 0.0
        return memory, pictures | sentinels.keys(judged.deviations, judged.alarms) | seconds

    def _judge(
        self, memory: Memory, observation: Observation, metrics: Mapping[str, float], step: int
    ) -> tuple[Memory, Judged]:
        sign = self.config.advantage.sign

        def signed(key: str) -> float | None:
            return sign * metrics[key] if key in metrics else None

        terms = {f"reward_{name}": signed(f"reward/{name}/mean") for name in self.held_out}
        observation = replace(
            observation,
            trained=signed("reward/mean"),
            held_out={name: value for name, value in terms.items() if value is not None},
            evaluated=signed("eval/score"),
            unit=self.unit,
        )
        judged: Judged = dist.broadcast_object(
            sentinels.judge(memory.sentinels, observation, step, self.settings) if self.is_main else None
        )
        return replace(memory, sentinels=judged.watch), judged

    def apply(self, parts: Parts, memory: Memory) -> Parts:
        """The run with the learning rate that alarms have left."""
        lr = self.config.optim.lr * memory.sentinels.lr_scale
        changed = replace(parts.config, optim=replace(self.config.optim, lr=lr))
        if changed == parts.config:
            return parts
        log.info("sentinels: optim.lr=%g from here on", lr)
        return replace(parts, config=changed)

    def act(self, parts: Parts, memory: Memory, saver: Saver, step: int) -> Acted:
        """Report the alarms of step `step` and do what sentinels.action says; a collective."""
        if not self.alarms:
            return Acted(parts, memory)
        action = self.settings.action
        if action is SentinelAction.rollback:
            acted, done = self._roll_back(parts, memory, saver, step)
        elif action is SentinelAction.stop:
            acted, done = Acted(parts, memory, save=True, halt=""), "the run stops"
        else:
            acted, done = Acted(parts, memory), "the run goes on as it was"
        self._report(step, done)
        if acted.halt is None:
            return acted
        what = "; ".join(alarm.what for alarm in self.alarms)
        why = acted.halt or "sentinels.action=stop"
        return replace(
            acted,
            halt=f"step {step}: {what}. Stopped by {why}; the weights are in "
            f"{files.root(self.run_dir) / files.name(step)}. {self._advice()}, or go on as it is: "
            f"resume={self.run_dir} sentinels.action=warn",
        )

    def _roll_back(self, parts: Parts, memory: Memory, saver: Saver, step: int) -> tuple[Acted, str]:
        watch, most = memory.sentinels, self.settings.rollbacks
        if watch.rollbacks >= most:
            why = f"sentinels.rollbacks={most}, which are used up"
            return Acted(parts, memory, save=True, halt=why), f"the run stops: {why}"
        since = min(int(alarm.numbers["since"]) for alarm in self.alarms)
        saver.settle()
        folder = dist.broadcast_object(_before(self.run_dir, since) if self.is_main else None)
        if folder is None:
            why = f"the lack of a whole checkpoint from before step {since} to roll back to"
            return Acted(parts, memory, save=True, halt=why), f"the run stops: {why}"
        loaded = state.load(folder, parts.engine, parts.ema, memory_kinds(folder), parts.world)
        judged = Memory(**loaded.memory)
        judged = replace(
            judged,
            sentinels=judged.sentinels.replace(
                rollbacks=watch.rollbacks + 1,
                lr_scale=HALF * watch.lr_scale,
            ),
        )
        done = f"the weights are those after step {loaded.step} again, with half the learning rate"
        return Acted(self.apply(parts, judged), judged, save=True), done

    def _report(self, step: int, done: str) -> None:
        """One line in the log for each alarm, alarms.jsonl, the trackers."""
        if not self.is_main:
            return
        advice = self._advice()
        for alarm in self.alarms:
            log.warning("sentinel, step %d: %s. %s. Done: %s. %s", step, alarm.what, alarm.why, done, advice)
        alarms.append(self.run_dir, self.alarms, self.settings.action, done, advice)
        text = "\n".join(f"{alarm.what}. {alarm.why}." for alarm in self.alarms)
        self.tracker.alert(step, f"sentinel, step {step}", f"{text}\n{done}. {advice}.")

    def _advice(self) -> str:
        """What to look at and what to type."""
        since = min(int(alarm.numbers["since"]) for alarm in self.alarms)
        beta = self.config.advantage.kl_beta
        stronger = f"advantage.kl_beta={4 * beta:g}" if beta else "advantage.kl_beta=0.04"
        kept = f"a checkpoint from before step {since}, then " if self.config.train.save_every else ""
        return (
            f"Look at the samples (rlvis report {self.run_dir}); if the reward is fooled: {kept}{stronger}, "
            "a smaller optim.lr, or another reward beside it"
        )


def end_where_halted(acted: Acted, saver: Saver) -> None:
    """Raise SentinelStopError where an alarm ends the run, once its checkpoint is written; a collective."""
    if acted.halt is not None:
        saver.settle()
        raise SentinelStopError(acted.halt)


def memory_kinds(folder: Path) -> dict[str, Any]:
    """What to load from the memory of a checkpoint; one that was written before there were sentinels has
    nothing of them.
    """
    known = {
        name: kind
        for name, kind in MEMORY_KINDS.items()
        if kind is not Watch or (folder / state.MEMORY / f"{name}.json").is_file()
    }
    if len(known) < len(MEMORY_KINDS):
        log.warning("%s holds nothing of the sentinels: their baseline is taken anew", folder)
    return known


def _before(run_dir: Path, step: int) -> Path | None:
    """The newest whole checkpoint from before training step `step`, from 1, every byte read."""
    judged = [folder for folder in files.folders(run_dir) if files.step_of(folder) < step]
    return next((folder for folder in reversed(judged) if not files.damage(folder)), None)
