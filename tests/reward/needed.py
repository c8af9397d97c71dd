"""The kwargs that a scorer cannot do without, made up, so that what is known of it can be asked."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Sequence
from typing import Any

from rlvis.reward.facts import ARGUMENTS, SCORERS
from rlvis.schema.key import argument_marks


def needed(name: str) -> dict[str, Any]:
    """Of the scorer called `name`: "checker" for text, which is a scorer too, 8 for numbers, an address."""
    target = SCORERS.find(name)
    arguments = inspect.signature(target).parameters
    hints = {argument: hint for argument, hint, _ in argument_marks(target)}
    return {
        argument: _made_up(hints[argument])
        for argument, parameter in arguments.items()
        if parameter.default is parameter.empty and argument not in ARGUMENTS
    }


def _made_up(hint: Any) -> Any:
    kinds = [hint, *typing.get_args(hint)]
    if typing.get_origin(hint) is Sequence:
        return ["http://127.0.0.1:1"]
    return 8 if int in kinds or float in kinds else "checker"
