"""What must hold inside `data`, and between the prompts and what the model makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlvis.checks.reward import facts_of
from rlvis.checks.trust import WITH_FRAMES
from rlvis.findings import Finding, mistake
from rlvis.schema import Condition, DataConfig, ModelConfig, RewardConfig

if TYPE_CHECKING:
    from rlvis.data.prompts import PromptSet


def data_errors(data: DataConfig) -> Iterator[Finding]:
    """What is wrong with the source and the choice of the prompts."""
    from rlvis.data import selection, shapes  # torch comes with it, which a typo should not wait for
    from rlvis.data.prompts import SOURCES, option_errors

    if data.source not in SOURCES:
        yield mistake(
            f"data.source={data.source}: wanted one of {', '.join(SOURCES)}", "data=NAME, which sets it"
        )
        return
    yield from option_errors(data)
    yield from selection.errors(data)
    if data.kinds is not None and data.source in shapes.SOURCES:
        yield from shapes.kind_errors(data.source, data.kinds, "data.kinds")


def clip_errors(model: ModelConfig, source: str) -> Iterator[Finding]:
    """Whether the prompts are of what the model makes: stills or clips, with a first frame or without."""
    from rlvis.data import shapes

    brings = source in WITH_FRAMES
    starts = model.condition is Condition.first_frame
    if source in shapes.SOURCES and (source == shapes.STILL) != (model.frames == 1):
        makes, says = ("images", "how things move") if model.frames == 1 else ("clips", "of still images")
        data = shapes.STILL if model.frames == 1 else shapes.IMAGE_TO_VIDEO if starts else shapes.VIDEO
        yield mistake(
            f"model.frames={model.frames} makes {makes}, but the prompts of data.source={source} tell {says}",
            f"data={data}, or a model of {'clips' if model.frames == 1 else 'images'}",
        )
    elif starts and model.frames == 1:
        yield mistake(
            "model.condition=first_frame with model.frames=1: the only frame is given, so nothing is left "
            "to make",
            "model.condition=none",
        )
    elif starts and not brings:
        yield mistake(
            "model.condition=first_frame starts every clip from a frame, and the prompts of "
            f"data.source={source} bring none (those of {', '.join(WITH_FRAMES)} do)",
            "data=shapes_i2v, or model.condition=none, or data=i2v_pairs data.path=FOLDER with your pictures",
        )
    elif brings and not starts:
        yield mistake(
            f"data.source={source} brings the first frame of every clip, which model.condition=none does not "
            "read",
            "model.condition=first_frame, or other data, as data=shapes_video",
        )


def check_prompts(reward: RewardConfig, prompts: PromptSet) -> None:
    """Raise ValueError when a scorer of the shapes world would meet a prompt of another world."""
    from rlvis.data.world import language

    names = [name for name, facts in facts_of(reward).items() if facts.world]
    for text in prompts.texts if names else ():
        try:
            language.parse(text)
        except ValueError as error:
            raise ValueError(
                f"reward.terms.{names[0]}.scorer={reward.terms[names[0]].scorer} judges prompts of the "
                f"shapes world ('a red circle'), and {prompts.source} has others: {text!r}; type "
                "reward=jpeg, or reward=function with a scorer of your own"
            ) from error
