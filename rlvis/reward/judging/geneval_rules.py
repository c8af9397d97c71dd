"""GenEval's rules (arXiv 2310.11513) on what a detector found: Flow-GRPO's dense score and strict form, and
the benchmark's.

No model here. `include` asks for things with count, colour, position; `exclude` names things that must not be
there, which only the benchmark's form looks at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Box = Sequence[float]  # left, top, right, bottom in pixels, then whatever else
Detections = Mapping[str, Sequence[Box]]  # boxes of each class, the surest first
Colours = Callable[[str, Sequence[Box]], Sequence[str]]  # of a class and its boxes: a colour word for each

MEASURES = ("score", "strict", "eval")
MARGIN = 0.1  # of the sizes of both things, by which centres must lie apart


@dataclass(frozen=True, slots=True)
class Judged:
    """score: mean over the points below, at most 1, and below 0 where far too many were found (3 for 1: -1).
    strict: 1 where every count, colour and position is exactly as asked, else 0.
    """

    score: float
    strict: float


def judge(detections: Detections, metadata: Mapping[str, Any], colours: Colours) -> Judged:
    """The training reward. Each clause of `include` gives 1 - |n - found| / n; where that is 1, its colour
    gives 1 - |n - coloured| / n, and its position (when the colour is right) a 0 if a pair of boxes is wrong
    and a 1 whether or not, as upstream has it; a wrong count gives a 0 instead of colour and position.

    Raises ValueError on metadata without clauses, or that are not GenEval's.
    """
    points: list[float] = []
    right = True
    groups: list[Sequence[Box] | None] = []
    for name, count, clause in clauses(metadata, "include"):
        boxes = detections.get(name, ())
        points.append(1 - abs(count - len(boxes)) / count)
        matched = len(boxes) == count
        if not matched and ("color" in clause or "position" in clause):
            points.append(0.0)
        if matched and "color" in clause:
            coloured = list(colours(name, boxes)).count(clause["color"])
            points.append(1 - abs(count - coloured) / count)
            matched = coloured == count
        if matched and "position" in clause:
            wanted, others = _position(clause, groups)
            matched = others is not None and _placed(boxes, others, wanted)
            if not matched:
                points.append(0.0)
            if others is not None:
                points.append(1.0)
        right = right and matched
        groups.append(boxes if matched else None)
    return Judged(sum(points) / len(points), float(right))


def correct(detections: Detections, metadata: Mapping[str, Any], colours: Colours) -> float:
    """The benchmark's form: 1 where at least as many are found as asked and nothing of `exclude`, else 0.

    Colour and position are those of the surest n boxes. Raises ValueError as `judge` does.
    """
    right = True
    groups: list[Sequence[Box] | None] = []
    for name, count, clause in clauses(metadata, "include"):
        boxes = detections.get(name, ())[:count]
        matched = len(boxes) == count
        if matched and "color" in clause:
            matched = list(colours(name, boxes)).count(clause["color"]) >= count
        if matched and "position" in clause:
            wanted, others = _position(clause, groups)
            matched = others is not None and _placed(boxes, others, wanted)
        right = right and matched
        groups.append(boxes if matched else None)
    absent = all(len(detections.get(name, ())) < count for name, count, _ in clauses(metadata, "exclude"))
    return float(right and absent)


def clauses(metadata: Mapping[str, Any], key: str) -> list[tuple[str, int, Mapping[str, Any]]]:
    """(class, count, clause) of `include` or `exclude`. Raises ValueError when they are malformed, or when
    nothing is included.
    """
    listed = metadata.get(key) or []
    if key == "include" and not listed:
        raise ValueError(
            f"metadata {sorted(metadata)} has no include clauses, so there is nothing to look for; take "
            "prompts with data=geneval"
        )
    result = []
    for clause in listed:
        count = clause.get("count") if isinstance(clause, Mapping) else None
        name = clause.get("class") if isinstance(clause, Mapping) else None
        if not isinstance(name, str) or not isinstance(count, int) or count < 1:
            raise ValueError(f"{key} clause {clause!r}: wanted a class and a count of at least 1")
        result.append((name, count, clause))
    return result


def position(a: Box, b: Box) -> set[str]:
    """Where a is with respect to b: of left of, right of, above, below; none where they nearly coincide."""
    shift = [(a[i] + a[i + 2] - b[i] - b[i + 2]) / 2 for i in (0, 1)]
    reach = [MARGIN * (abs(a[i + 2] - a[i]) + abs(b[i + 2] - b[i])) for i in (0, 1)]
    beyond = [math.copysign(max(abs(s) - r, 0.0), s) for s, r in zip(shift, reach, strict=True)]
    if all(abs(value) < 1e-3 for value in beyond):
        return set()
    length = math.hypot(*shift)
    across, down = (value / length for value in beyond)
    words = {"left of": across < -0.5, "right of": across > 0.5, "above": down < -0.5, "below": down > 0.5}
    return {word for word, true in words.items() if true}


def _position(
    clause: Mapping[str, Any], groups: Sequence[Sequence[Box] | None]
) -> tuple[str, Sequence[Box] | None]:
    """The asked relation, and the boxes of the earlier clause that it refers to (None: that one failed)."""
    value = clause["position"]
    if not isinstance(value, list | tuple) or len(value) != 2 or value[1] not in range(len(groups)):
        raise ValueError(f"position {value!r}: wanted a relation and the number of an earlier clause")
    return value[0], groups[value[1]]


def _placed(boxes: Sequence[Box], others: Sequence[Box], wanted: str) -> bool:
    return all(wanted in position(box, other) for box in boxes for other in others)
