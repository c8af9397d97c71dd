"""Which heights and widths a model takes, checked before sampling; messages name the nearest legal ones."""

from __future__ import annotations

from typing import NamedTuple

from rlvis.schema import ModelConfig


class Tokens(NamedTuple):
    """Tokens of one forward: of the sample as (frames, rows, columns), and of the text where it runs beside
    them in one sequence, else 0.
    """

    grid: tuple[int, int, int]
    text: int = 0


def check_images(config: ModelConfig) -> None:
    """Refuse several frames, for a family that makes images."""
    if config.frames != 1:
        raise ValueError(
            f"model.frames={config.frames}: model.family={config.family} makes images; type model.frames=1"
        )


def check_sides(config: ModelConfig, unit: int, why: str = "", most: int | None = None) -> None:
    """Check that height and width are multiples of `unit` pixels, from `unit` to `most` (None: no bound).

    why: where the unit comes from, for the message ("autoencoder 8 x patch 2"), which gives bounds with it.

    Raises ValueError, naming the nearest legal sizes.
    """
    for name, pixels in (("height", config.height), ("width", config.width)):
        inside = pixels >= unit and (most is None or pixels <= most)
        if pixels % unit == 0 and inside:
            continue
        below = max(unit, pixels // unit * unit)
        below = below if most is None else min(below, most // unit * unit)
        both = inside and (most is None or below + unit <= most)
        nearest = f"{below} or {below + unit}" if both else f"{below}"
        top = "" if most is None else f" to {most}"
        span = f" ({why}) from {unit}{top}" if why else ""
        raise ValueError(
            f"model.{name}={pixels}: this model takes multiples of {unit} pixels{span}; the nearest is "
            f"{nearest}; type model.{name}={below}"
        )


def latent_grid(config: ModelConfig, factor: int, every: int) -> tuple[int, int, int]:
    """(F, H, W) of a clip: `factor` pixels a side and `every` frames behind the first make one latent."""
    return (config.frames - 1) // every + 1, config.height // factor, config.width // factor


def check_tokens(config: ModelConfig, own: int, most: int) -> int:
    """Length of the text condition: model.max_tokens, or the family's own; ValueError outside 1 to `most`."""
    tokens = own if config.max_tokens is None else config.max_tokens
    if not 1 <= tokens <= most:
        raise ValueError(
            f"model.max_tokens={tokens}: model.family={config.family} takes 1 to {most} tokens of text; type "
            f"model.max_tokens={min(max(tokens, 1), most)}"
        )
    return tokens


def check_frames(config: ModelConfig, every: int, least: int, most: int | None = None) -> None:
    """Check that frames are `every` k + 1, what a causal video autoencoder takes.

    least, most: bounds in latent frames (None: none); `least` of 2 where the first is given.

    Raises ValueError, naming the nearest legal numbers.
    """
    frames, low = config.frames, (least - 1) * every + 1
    high = None if most is None else (most - 1) * every + 1
    if (frames - 1) % every == 0 and frames >= low and (high is None or frames <= high):
        return
    below = max(low, (frames - 1) // every * every + 1)
    below = below if high is None else min(below, high)
    both = frames >= low and (high is None or below + every <= high)
    nearest = f"{below} or {below + every}" if both else f"{below}"
    why = f", and at least {low} after a condition frame" if least > 1 else ""
    raise ValueError(
        f"model.frames={frames}: the autoencoder takes {every} k + 1 frames{why}; the nearest is {nearest}; "
        f"type model.frames={below}"
    )
