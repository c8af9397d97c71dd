"""A vision-language model as a judge, through any OpenAI-compatible endpoint.

pointwise: a score for each sample, read from the answer by a regular expression (the default reads what
UnifiedReward's does, arXiv 2503.05236). pairwise: samples of one prompt are compared two at a time, each pair
both ways round, so that a liking for the first picture cancels; the score is the win rate in the group.
An answer that cannot be read is a failure, never a 0; asked several times, the judge states its noise.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor

from rlvis.reward import chat, comparisons
from rlvis.reward.away import AwayError
from rlvis.reward.chat import Answer, Chat, Part
from rlvis.reward.contract import Scores
from rlvis.reward.facts import Facts
from rlvis.reward.judging.questions import MODES, PATTERNS, PROMPTS, WINS, compiled
from rlvis.reward.repeats import summary
from rlvis.schema.key import Key

log = logging.getLogger(__name__)

ADVICE = (
    "; kwargs.prompt says how to answer, kwargs.pattern what is read, kwargs.max_tokens how long it may be"
)


class Vlm:
    """Judges samples by one model.

    transport (of httpx) and sleep stand in for the network and the clock in tests. Raises ValueError for a
    pattern that cannot be used, or as Chat does.
    """

    def __init__(
        self,
        model: Annotated[str, Key("its name at the endpoint")],
        base_url: Annotated[
            str, Key("of the endpoint, with the version, as http://127.0.0.1:8000/v1", path=True)
        ] = "http://127.0.0.1:8000/v1",
        key_env: Annotated[
            str | None, Key("environment variable that holds the key; null: the endpoint wants none")
        ] = None,
        mode: Annotated[
            str,
            Key(
                "a score of each sample, or how often it wins over others of its prompt",
                choices=MODES,
            ),
        ] = "pointwise",
        prompt: Annotated[
            str | None,
            Key(
                "the question: {prompt} becomes the sample's prompt, {media} picture or clip of N frames; "
                "null: the mode's"
            ),
        ] = None,
        pattern: Annotated[
            str | None,
            Key(
                "regular expression whose group holds a number (pointwise) or A, B or tie (pairwise); null: "
                "the mode's"
            ),
        ] = None,
        scale: Annotated[
            float | None,
            Key("that a number is divided by; null: 5", above=0, most=1e9, relation="pointwise alone"),
        ] = None,
        repeats: Annotated[
            int,
            Key("of each question (R): the mean counts, noise_var is s^2 / R", least=1, most=1000),
        ] = 1,
        temperature: Annotated[
            float | None, Key("of the model; null: the endpoint's own", least=0, most=100)
        ] = 0.0,
        max_tokens: Annotated[int, Key("of an answer", "tokens", least=1, most=10**6)] = 512,
        group: Annotated[
            int | None,
            Key(
                "of a prompt that are compared; null: all that a call holds",
                "samples",
                least=2,
                most=10**5,
                relation="pairwise alone; data.samples_per_prompt",
            ),
        ] = None,
        opponents: Annotated[
            int | None,
            Key("that each sample meets at least; null: all", "samples", least=1, most=10**5),
        ] = None,
        picture: Annotated[str, Key("how pictures are sent", choices=chat.FORMATS)] = "png",
        quality: Annotated[int, Key("of picture=jpeg, as Pillow counts it", least=1, most=100)] = 95,
        timeout: Annotated[
            float, Key("to wait for an answer's next byte", "seconds", above=0, most=10**6)
        ] = 60.0,
        attempts: Annotated[int, Key("of a question", least=1, most=1000)] = 5,
        concurrency: Annotated[int, Key("at a time", "questions", least=1, most=1024)] = 8,
        options: Annotated[Mapping[str, Any] | None, Key("further fields of the request")] = None,
        *,
        transport: Any = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.mode, self.prompt = mode, PROMPTS[mode] if prompt is None else prompt
        self.pattern = compiled(PATTERNS[mode] if pattern is None else pattern)
        self.repeats, self.group, self.opponents = repeats, group, opponents
        self.picture, self.quality = picture, quality
        self.scale = 5.0 if scale is None else scale
        self._reason, self._told = "", False  # why questions of the last call have no answer
        endpoint = (model, base_url, key_env, temperature, max_tokens, options)
        self.chat = Chat(*endpoint, timeout, attempts, concurrency, transport=transport, sleep=sleep)

    @staticmethod
    def facts(kwargs: Mapping[str, Any]) -> Facts:
        repeats, pairwise = kwargs["repeats"], kwargs["mode"] == "pairwise"
        for name in ("scale",) if pairwise else ("group", "opponents"):
            if kwargs[name] is not None:
                raise ValueError(f"{name}={kwargs[name]} does nothing with mode={kwargs['mode']}")
        if kwargs["pattern"] is not None:
            compiled(kwargs["pattern"])
        if repeats > 1 and kwargs["temperature"] == 0:
            raise ValueError(
                f"repeats={repeats} with temperature=0 asks a judge that always says the same, whose noise "
                "would then be stated as 0; type temperature=0.7, or repeats=1"
            )
        return Facts(weights=0, group=("group", kwargs["group"]) if pairwise else None)

    @property
    def not_cached(self) -> str | None:
        """Why scores are not to be kept by content, if so."""
        return None if self.mode == "pointwise" else "a win rate depends on the other samples of the group"

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores of images uint8 [B, M, 3, Y, X]; a sample is valid where at least half of its questions got
        an answer that can be read.

        pairwise: neighbouring rows of one prompt and equal metadata are a group, cut into groups of `group`
        rows; those of a group that is not whole are invalid, because win rates against different opponents
        cannot be compared.
        """
        if self.mode == "pointwise":
            marks = self._pointwise(images, prompts)
        else:
            marks = self._pairwise(images, prompts, metadata)
        scores = replace(summary(marks), reason=self._reason)
        if self._reason and bool(scores.valid.all()) and not self._told:  # else the score stage says it
            self._told = True
            log.warning("vlm: %s; the other answers about these samples count", self._reason)
        return scores

    def _pointwise(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Marks [R, B], NaN where there is none."""
        questions = [
            partial(self._single, image, prompt)
            for _ in range(self.repeats)
            for image, prompt in zip(images, prompts, strict=True)
        ]
        marks = self._read(self.chat.ask(questions), float)
        return torch.tensor(marks, dtype=torch.float64).reshape(self.repeats, len(images)) / self.scale

    def _single(self, image: Tensor, prompt: str) -> list[Part]:
        return [*self._shown(image), chat.text(self._question(prompt, len(image)))]

    def _pairwise(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Tensor:
        """Win rates [R, B], NaN where there is none, and a log line on the position bias."""
        groups, left = comparisons.groups(list(zip(prompts, metadata, strict=True)), self.group)
        if left:
            log.warning(
                "vlm: %d of %d samples have no whole group of %s of their prompt in this call, so they are "
                "not compared; train.shard and the samples of a process must be multiples of "
                "data.samples_per_prompt",
                *(len(left), len(images), self.group or "at least 2"),
            )
        shown = [self._shown(image) for image in images]
        pairs = [pair for group in groups for pair in comparisons.meetings(group, self.opponents)]
        both = [order for a, b in pairs for order in ((a, b), (b, a))]
        questions = [
            partial(self._double, shown[a], shown[b], self._question(prompts[a], images.shape[1]))
            for _ in range(self.repeats)
            for a, b in both
        ]
        wins_of_first = self._read(self.chat.ask(questions), lambda word: WINS[word.lower()])
        first = torch.tensor(wins_of_first, dtype=torch.float64).reshape(self.repeats, len(pairs), 2)
        self._tell_bias(first)
        # A pair counts where both ways round were answered: the mean of the two has no position bias.
        wins = (first[..., 0] + 1 - first[..., 1]) / 2
        return comparisons.win_rates(wins, pairs, len(images))

    def _double(self, a: list[Part], b: list[Part], question: str) -> list[Part]:
        return [chat.text("A:"), *a, chat.text("B:"), *b, chat.text(question)]

    def _shown(self, image: Tensor) -> list[Part]:
        return [chat.picture(frame, self.picture, self.quality) for frame in image]

    def _question(self, prompt: str, frames: int) -> str:
        media = "picture" if frames == 1 else f"clip of {frames} frames"
        return self.prompt.replace("{media}", media).replace("{prompt}", prompt)

    def _read(self, answers: Sequence[Answer], number: Callable[[str], float]) -> list[float]:
        """The number in each answer, NaN where there is none; what went wrong is kept as the reason.

        Raises AwayError where every question found nobody.
        """
        numbers, failures = [], Counter[str]()
        for answer in answers:
            match = None if answer.text is None else self.pattern.search(answer.text)
            value = math.nan
            if match is not None:
                try:
                    value = number(match.group(1))
                except (ValueError, KeyError, TypeError):
                    match = None
            if match is None:
                read = "" if answer.text is None else f"nothing to read in {answer.text[-80:]!r}{ADVICE}"
                failures[answer.reason or read] += 1
            numbers.append(value)
        self._reason = ""
        if failures:
            (reason, count), *others = failures.most_common()
            more = f"; and {len(others)} other reasons" if others else ""
            what = f"{failures.total()} of {len(answers)} questions have no usable answer"
            self._reason = f"{what}: {count} times {reason}{more}"
        if answers and all(answer.away for answer in answers):
            raise AwayError(f"vlm: {self._reason}", insisted=True)
        return numbers

    def _tell_bias(self, first: Tensor) -> None:
        """Log how often the first picture won, of comparisons [R, pairs, 2] both ways."""
        whole = first[first.isfinite().all(-1)]
        if len(whole):
            rate = float(whole.mean())
            agree = float((whole.sum(-1) == 1).double().mean())
            log.info(
                "vlm: of %d comparisons, made both ways, the first picture won %.0f %% (position bias %+.2f, "
                "cancelled); both ways agree in %.0f %%",
                *(len(whole), 100 * rate, rate - 0.5, 100 * agree),
            )


ENTRY = Vlm
