"""What must hold between the frames that a model makes and those that scorers and files take."""

from __future__ import annotations

from collections.abc import Iterator

from rlvis.findings import Finding, mistake
from rlvis.reward.frames import WORDS, positions
from rlvis.schema import Config


def media_errors(config: Config) -> Iterator[Finding]:
    """What is wrong with model.fps and the `frames` of every term."""
    fps, count = config.model.fps, config.model.frames
    if fps is not None and count == 1:
        yield mistake(
            f"model.fps={fps:g} does nothing with model.frames=1, which makes images", "model.fps=null"
        )
    for group, terms in (("reward", config.reward.terms), ("eval", config.eval.terms)):
        for name, term in terms.items():
            key = f"{group}.terms.{name}.frames"
            if term.frames == "all":
                continue
            try:
                chosen = positions(term.frames, count)
            except ValueError as error:
                yield mistake(f"{key}: {error} (model.frames={count}); it takes {WORDS}", f"{key}=all")
                continue
            if chosen == list(range(count)):
                yield mistake(
                    f"{key}={term.frames} is all of the {count} frames that a sample has", f"{key}=all"
                )
