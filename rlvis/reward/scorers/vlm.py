"""A vision-language model as a judge, through any OpenAI-compatible endpoint.

pointwise: a score for each sample, read from the answer by a regular expression (the default reads what
UnifiedReward's does, arXiv 2503.05236). pairwise: samples of one prompt are compared two at a time, each pair
both ways round, so that a liking for the first picture cancels; the score is the win rate in the group.
An answer that cannot be read is a failure, never a 0; asked several times, the judge states its noise.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rlvis.reward import chat, comparisons
from rlvis.reward.chat import Answer, Chat, Part
from rlvis.reward.contract import Scores
from rlvis.reward.repeats import summary

if TYPE_CHECKING:
    import httpx

log = logging.getLogger(__name__)

POINTWISE = """\
You see a {media} that a generator made for this text:

{prompt}

Judge how faithfully it shows what the text asks for, and how free it is of defects: 1 is a failure, 3 is \
right in the main, 5 is right in every detail. Say in a sentence what is wrong, then end with a line of the \
form "Final Score: X", where X is a number from 1 to 5."""

PAIRWISE = """\
You see two {media}s, A and B, that a generator made for the same text:

{prompt}

Decide which of them shows better what the text asks for, with fewer defects. Say in a sentence why, then \
end with a line of the form "Better: A", "Better: B" or "Better: tie"."""

PROMPTS = {"pointwise": POINTWISE, "pairwise": PAIRWISE}
PATTERNS = {
    "pointwise": r"Final Score:\s*([1-5](?:\.\d+)?)",
    "pairwise": r"(?i)Better:\W*(A|B|tie)\b",
}
WINS = {"a": 1.0, "b": 0.0, "tie": 0.5}  # of the picture that is shown first


class Vlm:
    """Judges samples by one model.

    Args: model, base_url, key_env, temperature, max_tokens, options, timeout, attempts, concurrency, as in
    `rlvis.reward.chat.Chat`; mode, "pointwise" or "pairwise"; prompt, the question, where {prompt} becomes
    the sample's prompt and {media} "picture" or "clip of N frames", null: the mode's; pattern, a regular
    expression whose group holds a number (pointwise) or A, B or tie (pairwise), null: the mode's; scale,
    by which a number is divided, null: 5; repeats, R questions for each: value is their mean, noise_var
    s^2 / R and noise_dof R - 1; group, of pairwise, samples of a prompt that are compared (see `__call__`),
    null: all that a call holds; opponents, of pairwise, how many others each sample meets at least, null:
    all; picture, "png" or "jpeg", and its quality.
    Raises ValueError when an argument is out of range or belongs to the other mode, or as Chat does.
    """

    def __init__(
        self,
        model: str,
        base_url: str = "http://127.0.0.1:8000/v1",
        key_env: str | None = None,
        mode: str = "pointwise",
        prompt: str | None = None,
        pattern: str | None = None,
        scale: float | None = None,
        repeats: int = 1,
        temperature: float | None = 0.0,
        max_tokens: int = 512,
        group: int | None = None,
        opponents: int | None = None,
        picture: str = "png",
        quality: int = 95,
        timeout: float = 60.0,
        attempts: int = 5,
        concurrency: int = 8,
        options: Mapping[str, Any] | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if mode not in PROMPTS:
            raise ValueError(f"vlm: mode={mode!r}, wanted {' or '.join(PROMPTS)}")
        self.mode, self.prompt = mode, PROMPTS[mode] if prompt is None else prompt
        self.pattern = _pattern(PATTERNS[mode] if pattern is None else pattern)
        self.repeats, self.group, self.opponents = repeats, group, opponents
        self.picture, self.quality = picture, quality
        self._check(scale, temperature)
        self.scale = 5.0 if scale is None else scale
        endpoint = (model, base_url, key_env, temperature, max_tokens, options)
        self.chat = Chat(*endpoint, timeout, attempts, concurrency, transport=transport, sleep=sleep)

    def _check(self, scale: float | None, temperature: float | None) -> None:
        """Raise ValueError for what is out of range or would do nothing."""
        if self.mode == "pairwise" and scale is not None:
            raise ValueError(
                f"vlm: scale={scale} does nothing with mode=pairwise, whose scores are win rates"
            )
        if scale is not None and not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"vlm: scale={scale}, wanted a number above 0")
        for name, number, least in (("group", self.group, 2), ("opponents", self.opponents, 1)):
            if number is not None and self.mode == "pointwise":
                raise ValueError(f"vlm: {name}={number} does nothing with mode=pointwise")
            if number is not None and number < least:
                raise ValueError(f"vlm: {name}={number}, wanted null or at least {least}")
        if self.repeats < 1:
            raise ValueError(f"vlm: repeats={self.repeats}, wanted at least 1")
        if self.repeats > 1 and temperature == 0:
            raise ValueError(
                f"vlm: repeats={self.repeats} with temperature=0 asks a judge that always says the same, "
                "whose noise would then be stated as 0; type temperature=0.7, or repeats=1"
            )
        if self.picture not in chat.FORMATS or not 1 <= self.quality <= 100:
            raise ValueError(
                f"vlm: picture={self.picture!r}, quality={self.quality}: wanted png or jpeg, and 1 to 100"
            )

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
        return summary(marks)

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
        """The number in each answer, NaN where there is none; what went wrong is logged once for all."""
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
                read = "" if answer.text is None else f"nothing to read in {answer.text[-80:]!r}"
                failures[answer.reason or read] += 1
            numbers.append(value)
        if failures:
            (reason, count), *others = failures.most_common()
            log.warning(
                "vlm: %d of %d questions have no usable answer: %d times %s%s",
                *(failures.total(), len(answers), count, reason),
                f"; and {len(others)} other reasons" if others else "",
            )
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


def _pattern(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"vlm: pattern={pattern!r} is no regular expression: {error}") from error
    if compiled.groups < 1:
        raise ValueError(f"vlm: pattern={pattern!r} has no group: put the score in parentheses, as (\\d+)")
    return compiled
