"""Text in pictures: how near the recognised text is to the one that the prompt puts in double quotes.

The formulas are Flow-GRPO's (arXiv 2505.05470); the reader is RapidOCR with the PP-OCR models of its wheel,
not PaddleOCR 2.9.1, so numbers differ where they read differently. Unusual: a prompt without quoted text and
a picture on which the reader fails are invalid and counted; upstream scores the latter 0.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from rlvis.reward.contract import Scores
from rlvis.reward.facts import Facts
from rlvis.schema.key import Key

log = logging.getLogger(__name__)

Reader = Callable[[np.ndarray], list[str]]


class Ocr:
    """Scores 1 - (edit distance, at most the target's length) / length, in [0, 1].

    A single picture that contains the target scores 1. Of a clip every `every`-th frame is read, containing
    does not count, and the score is the mean over the frames that have more than 0 (0 if none has).
    Raises ValueError when RapidOCR is not installed.
    """

    facts = Facts(weights=0)  # RapidOCR reads on the CPU

    def __init__(
        self,
        field: Annotated[
            str | None,
            Key("metadata field with the text to be drawn; null: what the prompt has in double quotes"),
        ] = None,
        every: Annotated[
            int, Key("of a clip, from one that is read to the next", "frames", least=1, most=16384)
        ] = 4,
        confidence: Annotated[
            float,
            Key("lines that the reader is less sure of are dropped; 0: none, as upstream", least=0, below=1),
        ] = 0.0,
        threads: Annotated[
            int | None, Key("of the reader; null: all cores", "threads", least=1, most=1024)
        ] = None,
    ) -> None:
        self.field, self.every = field, every
        self.read: Reader = reader(confidence, threads)

    def __call__(self, images: Tensor, prompts: Sequence[str], metadata: Sequence[dict[str, Any]]) -> Scores:
        """Scores float64 [B] of images uint8 [B, M, 3, Y, X]; invalid without a target or a reading."""
        value = torch.full((len(prompts),), math.nan, dtype=torch.float64)
        faults: list[str] = []
        for i, (prompt, extra) in enumerate(zip(prompts, metadata, strict=True)):
            try:
                wanted = target(prompt, extra, self.field)
                value[i] = self._score(images[i], wanted)
            except Exception as error:  # whatever the reader raises costs its sample, not the batch
                faults.append(f"{type(error).__name__}: {error}")
        if faults:
            log.warning("ocr: %d of %d samples are invalid: %s", len(faults), len(prompts), faults[0])
        # NaN beside valid=False would be counted as a number that went wrong; these were refused.
        valid = ~value.isnan()
        return Scores(value.nan_to_num(0.0), valid)

    def _score(self, clip: Tensor, wanted: str) -> float:
        frames = clip[:: self.every] if len(clip) > 1 else clip
        texts = [self.read(frame.permute(1, 2, 0).cpu().numpy()) for frame in frames]
        return image_score(texts[0], wanted) if len(clip) == 1 else video_score(texts, wanted)


def target(prompt: str, metadata: Mapping[str, Any], field: str | None = None) -> str:
    """The text to be drawn, as it is compared: lower case, without spaces.

    Raises ValueError when the prompt has no quoted text, or the metadata no such field of text.
    """
    if field is not None:
        text = metadata.get(field)
        if not isinstance(text, str):
            raise ValueError(
                f"metadata field {field!r} of {prompt!r} is {text!r}, wanted the text to be drawn; data=ocr "
                "makes the field target"
            )
    else:
        parts = prompt.split('"')
        if len(parts) < 2:
            raise ValueError(
                f"{prompt!r} has no text in double quotes; data.quoted=target drops such prompts"
            )
        text = parts[1]
    plain = _plain(text)
    if not plain:
        raise ValueError(f"the text to be drawn of {prompt!r} is empty")
    return plain


def image_score(lines: Sequence[str], wanted: str) -> float:
    """Of one picture: 1 where its joined lines contain `wanted` (from `target`), else their similarity."""
    text = _plain("".join(lines))
    return 1.0 if wanted in text else similarity(text, wanted)


def video_score(frames: Sequence[Sequence[str]], wanted: str) -> float:
    """Of the lines of each frame read: the mean similarity of frames that have more than 0; 0 without any."""
    scores = [similarity(_plain("".join(lines)), wanted) for lines in frames]
    some = [score for score in scores if score > 0]
    return sum(some) / len(some) if some else 0.0


def similarity(text: str, wanted: str) -> float:
    """1 - min(edit distance, n) / n with n the length of `wanted`: in [0, 1]."""
    return 1 - min(distance(text, wanted), len(wanted)) / len(wanted)


def distance(a: str, b: str) -> int:
    """Levenshtein's: the fewest insertions, deletions and replacements of a character that turn a into b."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


def reader(confidence: float = 0.0, threads: int | None = None) -> Reader:
    """A function from RGB pixels uint8 [Y, X, 3] to the lines of text, as RapidOCR orders them.

    Raises ValueError when RapidOCR or its runtime is not installed.
    """
    try:
        import onnxruntime  # noqa: F401  RapidOCR reports its absence at the first picture only
        from rapidocr import RapidOCR
    except ImportError as error:
        raise ValueError(
            f"reward ocr reads text with RapidOCR, which is not installed ({error}); type pip install "
            "'rlvis[ocr]'"
        ) from error
    params = {
        "Global.log_level": "critical",
        "Global.use_cls": False,  # upright text only, as upstream
        "Global.text_score": confidence,
        "EngineConfig.onnxruntime.intra_op_num_threads": threads or -1,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1 if threads else -1,
    }
    engine = RapidOCR(params=params)

    def read(pixels: np.ndarray) -> list[str]:
        result: Any = engine(np.ascontiguousarray(pixels[..., ::-1]))  # it reads BGR
        return list(result.txts or ())

    return read


def _plain(text: str) -> str:
    return text.replace(" ", "").lower()


ENTRY = Ocr
