"""The score of the frame that a clip starts from (arXiv 2511.18919, image to video)."""

from __future__ import annotations

from rlvis.trust.priors.reference import Reference


class FirstFrame(Reference):
    """One score a prompt, so it has no variance."""

    looks_up = "first_frame"

    def __init__(self) -> None:
        super().__init__(samples=1)


ENTRY = FirstFrame
