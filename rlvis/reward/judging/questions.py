"""What a vision-language model is asked about samples, and how its answer is read."""

from __future__ import annotations

import re

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

MODES = ("pointwise", "pairwise")
PROMPTS = {"pointwise": POINTWISE, "pairwise": PAIRWISE}
PATTERNS = {
    "pointwise": r"Final Score:\s*([1-5](?:\.\d+)?)",
    "pairwise": r"(?i)Better:\W*(A|B|tie)\b",
}
WINS = {"a": 1.0, "b": 0.0, "tie": 0.5}  # of the picture that is shown first


def compiled(pattern: str) -> re.Pattern[str]:
    """Raises ValueError where `pattern` is no regular expression with a group."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"pattern={pattern!r} is no regular expression: {error}") from error
    if expression.groups < 1:
        raise ValueError(f"pattern={pattern!r} has no group: put the score in parentheses, as (\\d+)")
    return expression
