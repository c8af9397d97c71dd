"""Trains the embedded default on rewards that fail, and looks whether any failure became a number.

    python scripts/fault_drill.py                      # about 3 minutes on a laptop
    python scripts/fault_drill.py --refill 1 --steps 6 train.shard=12

Six faults: three in ten calls raise; a scorer raises on single pictures; a server (`rlvis serve`, a process
of its own) is killed without warning and started again; answers are garbage; answers come far too late; one
of two servers is always late, with hedging. Each run is repeated with honest scorers and the same samples
marked invalid by hand: both must end in the same weights, bit for bit, and every number that the faulty run
kept must be the honest one. The reward is the JPEG size, which is the same to the last bit alone and in a
batch (the world's checker differs by 1e-8, as most networks do).
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import math
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from rlvis.compose.command import compose
from rlvis.records import PriorState, RewardHistory
from rlvis.reward import scorer
from rlvis.reward.contract import Term
from rlvis.reward.function import Function
from rlvis.reward.serving.client import Remote
from rlvis.reward.serving.hosting import hosted
from rlvis.reward.serving.server import Service
from rlvis.reward.stage import LocalScores
from rlvis.runtime import dist
from rlvis.runtime.engine import quiet_deepspeed
from rlvis.schema import Config
from rlvis.training import pipeline
from rlvis.training.assemble import assemble

SMALL = [
    "reward=jpeg",
    "engine.device=cpu",
    "threads=1",
    "data.prompts_per_step=4",
    "data.samples_per_prompt=6",
    "train.micro_batch=6",
    "train.shard=6",
    "train.score_retries=0",  # so that more is lost
]
Job = Callable[[Tensor, list[str], list[dict[str, Any]]], Any]


@dataclass
class Trained:
    """What a run left: scores of every shard as they came, the step's samples without a score, weights."""

    calls: list[LocalScores]
    invalid: int
    refilled: int
    zeros: int
    weights: str
    seconds: float


class Drill:
    """Runs of one configuration. refill: rounds of fresh samples for those that failed."""

    def __init__(self, words: Sequence[str], steps: int, refill: int) -> None:
        self.words = [*SMALL, f"train.steps={steps}", f"reward.refill={refill}", *words]
        self.honest = scorer.build(self.config().reward)[0]

    def config(self, *words: str) -> Config:
        """The run's configuration with further words."""
        return compose([*self.words, *words]).typed()

    def train(self, term: Term, executor: str, watch: Callable[[LocalScores], LocalScores]) -> Trained:
        """One run. watch: sees the scores of each shard, and may put others in their place."""
        config = self.config()
        config.reward.executor = type(config.reward.executor)(executor)
        calls: list[LocalScores] = []
        score = pipeline.judge

        def judge(*arguments: Any) -> LocalScores:
            calls.append(watch(score(*arguments)))
            return calls[-1]

        start = time.perf_counter()
        world = dist.start("cpu")
        pipeline.judge = judge
        try:
            parts = replace(assemble(config, world), terms=[term])
            invalid = refilled = zeros = 0
            try:
                memory = pipeline.Memory(PriorState(kind="none"), RewardHistory())
                for step in range(config.train.steps):
                    memory, records = pipeline.train_step(parts, memory, step)
                    lost = ~records.rewards.valid
                    invalid += int(lost.sum())
                    zeros += int(torch.isfinite(records.rewards.term[lost]).sum())
                    refilled += records.refilled
                weights = _digest(dict(parts.engine.masters()))
            finally:
                parts.engine.close()
        finally:
            pipeline.judge = score
            dist.stop()
        return Trained(calls, invalid, refilled, zeros, weights, time.perf_counter() - start)

    def pair(self, term: Term, executor: str) -> tuple[Trained, Trained, int]:
        """The faulty run, the same marked by hand, and how many numbers of the first are not the scorer's."""
        faulty = self.train(term, executor, lambda scores: scores)
        masks = iter([scores.valid for scores in faulty.calls])
        told: list[Tensor] = []

        def mark(scores: LocalScores) -> LocalScores:
            valid = next(masks)
            told.append(scores.value)
            value = torch.where(valid[:, None], scores.value, math.nan)
            return replace(scores, value=value, valid=valid)

        hand = self.train(self.honest, "inline", mark)
        pairs = zip(faulty.calls, told, strict=True)
        wrong = sum(int((seen.value[seen.valid] != true[seen.valid]).sum()) for seen, true in pairs)
        return faulty, hand, wrong


def _digest(weights: dict[str, Tensor]) -> str:
    made = hashlib.sha256()
    for name in sorted(weights):
        made.update(name.encode() + weights[name].detach().cpu().contiguous().numpy().tobytes())
    return made.hexdigest()


def chance_call(honest: Job, chance: random.Random) -> Job:
    """Three calls in ten raise."""

    def call(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Any:
        if chance.random() < 0.3:
            raise RuntimeError("out of luck")
        return honest(images, prompts, metadata)

    return call


def picky_call(honest: Job) -> Job:
    """Raises on one picture in sixteen, always the same ones."""

    def call(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Any:
        if any(zlib.crc32(image.contiguous().numpy().tobytes()) % 16 == 0 for image in images):
            raise ValueError("this picture does not open")
        return honest(images, prompts, metadata)

    return call


class Mortal:
    """`rlvis serve` in a process of its own, on one port through all its lives."""

    def __init__(self, words: Sequence[str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = "import sys; from rlvis.cli import main; sys.exit(main(sys.argv[1:]))"
        self.command = [sys.executable, "-c", command, "serve", *words, f"port={self.port}"]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin a life; it answers some seconds later."""
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        """Until it listens."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            with socket.socket() as line:
                if line.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise RuntimeError("the server does not start")

    def kill(self) -> None:
        """End it as a crash would."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def mortal_call(client: Remote, server: Mortal) -> Job:
    """Kills the server before the fifth call, and starts it again, which takes seconds. Some calls later
    it is waited for, so that the end of a short run meets it alive.
    """
    count = [0]

    def call(images: Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> Any:
        count[0] += 1
        if count[0] == 5:
            server.kill()
            server.start()
        if count[0] == 18:
            server.wait()
            time.sleep(max(0.0, client.servers.all[0].until - time.monotonic()))
        return client(images, prompts, metadata)

    return call


def troubled(application: Any, share: float, chance: random.Random, trouble: str) -> Any:
    """The application, with a share of its scores replaced by garbage, or a second late."""
    garbage = (b"\x93NUMPY\x01\x00", b'{"value": [0, 0', b'{"value": ["0"], "valid": [true]}', b"<html>")

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if not scope["path"].startswith("/score/") or chance.random() >= share:
            await application(scope, receive, send)
            return
        if trouble == "late":
            await asyncio.sleep(1.0)
            await application(scope, receive, send)
            return
        while (await receive()).get("more_body"):
            pass
        body = chance.choice(garbage)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return answer


@contextmanager
def faults(drill: Drill, name: str) -> Iterator[tuple[Term, str]]:
    """A term with that fault, and the executor to train with."""
    honest, chance = drill.honest, random.Random(0)
    assert isinstance(honest.scorer, Function)
    if name == "calls fail":
        yield replace(honest, scorer=Function(chance_call(honest.scorer.function, chance))), "inline"
        return
    if name == "pictures fail":
        yield replace(honest, scorer=Function(picky_call(honest.scorer.function))), "thread"
        return
    if name == "server dies":
        mortal = Mortal(["reward=jpeg"])
        mortal.start()
        try:
            mortal.wait()
            client = Remote([mortal.url], attempts=2, rest=0.5)
            yield replace(honest, scorer=Function(mortal_call(client, mortal))), "thread"
            client.close()
        finally:
            mortal.kill()
        return
    application = Service([honest], os.environ["RLVIS_TOKEN"]).application()
    trouble = "late" if name == "late answers" else "garbage"
    share = 1.0 if name == "hedged" else 0.4
    spoilt = troubled(application, share, chance, "late" if name == "hedged" else trouble)
    with hosted(spoilt) as bad, hosted(application) as good:
        if name == "hedged":
            client = Remote([bad, good], timeout=5.0, hedge=0.2)
        else:
            client = Remote([bad], timeout=0.4, attempts=1, rest=0.01)
        yield replace(honest, scorer=client), "thread"
        client.close()


NAMES = ("calls fail", "pictures fail", "server dies", "garbage answers", "late answers", "hedged")


def main() -> int:
    """Run the drills, print a table; 0 when no failure became a number and all weights agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--refill", type=int, default=0, help="reward.refill")
    parser.add_argument("--only", choices=NAMES, action="append")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="overrides of the small run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    quiet_deepspeed("cpu")
    os.environ.setdefault("RLVIS_TOKEN", secrets.token_urlsafe(24))
    drill = Drill(options.words, options.steps, options.refill)
    print("fault            shards  valid  invalid  refilled  failures with a number  other numbers  weights")
    bad = 0
    for name in options.only or NAMES:
        with faults(drill, name) as (term, executor):
            faulty, hand, wrong = drill.pair(term, executor)
        lost = sum(int((~scores.valid).sum()) for scores in faulty.calls)
        valid = sum(len(scores.valid) for scores in faulty.calls) - lost
        same = faulty.weights == hand.weights and faulty.invalid == hand.invalid
        bad += not same or faulty.zeros > 0 or wrong > 0
        print(
            f"{name:15}  {len(faulty.calls):6}  {valid:5}  {lost:7}  {faulty.refilled:8}  {faulty.zeros:22}  "
            f"{wrong:13}  {'equal' if same else 'DIFFER'}   ({faulty.seconds:.0f} s)",
            flush=True,
        )
    print("every fault was survived" if not bad else f"{bad} faults were NOT survived")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
