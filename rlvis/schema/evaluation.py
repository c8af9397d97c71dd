"""Held-out evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

from rlvis.schema.key import Key
from rlvis.schema.model import MOST_PIXELS, ModelConfig
from rlvis.schema.reward import RewardTerm

OtherSide = Annotated[
    int | None,
    Key(
        "of its samples; null: as in training",
        "pixels",
        least=1,
        most=MOST_PIXELS,
        usual=512,
        relation="what the checkpoint takes",
    ),
]


WORLD = "world"  # eval.paraphrase: other words of the shapes world
SHAPES = "shapes"  # the suite whose samples the shapes world's checker judges


@dataclass
class EvalConfig:
    """Held-out evaluation: prompts never trained on, noise of its own, the deterministic sampler."""

    suite: Annotated[
        str,
        Key(
            "what it is called; shapes: the shapes world's checker judges every sample, all others are "
            "judged by eval.terms alone",
            samples=True,
        ),
    ] = "none"
    every: Annotated[
        int,
        Key(
            "between two, also before the first and after the last; 0: not in training",
            "training steps",
            least=0,
            most=10**7,
        ),
    ] = 0
    prompts: Annotated[
        int | None,
        Key(
            "how many, spread evenly over kinds; null: all",
            "prompts",
            least=1,
            most=10**7,
            usual=1,
            samples=True,
        ),
    ] = None
    samples: Annotated[int, Key("of each prompt", "samples", least=1, most=10**5, samples=True)] = 1
    steps: Annotated[
        int | None,
        Key(
            "of the ODE sampler; null: the default of the family's pipeline",
            "sampling steps",
            least=1,
            most=10000,
            usual=1,
        ),
    ] = None
    paraphrase: Annotated[
        str | None,
        Key(
            "also draw each prompt from other words that say the same: a metadata field that holds them, or "
            "`world` for those of the shapes world; null: not",
            samples=True,
        ),
    ] = None
    train_sampler: Annotated[
        bool,
        Key(
            "also draw each prompt as training does (sampler: its steps, noise and shift), to see what is "
            "lost on the way to the deterministic sampler",
            samples=True,
        ),
    ] = False
    height: OtherSide = None
    width: OtherSide = None
    frames: Annotated[
        int | None,
        Key(
            "of its samples; null: as in training",
            "frames",
            least=1,
            most=4096,
            usual=1,
            relation="what the checkpoint takes",
        ),
    ] = None
    cfg: Annotated[
        float | None,
        Key("classifier-free guidance of its samples; null: as in training", least=1, usual=4.5),
    ] = None
    guidance: Annotated[
        float | None,
        Key("embedded guidance of its samples; null: as in training", least=0, usual=3.5),
    ] = None
    path: Annotated[
        str | None, Key("a file of held-out prompts in place of data.path", path=True, samples=True)
    ] = None
    source: Annotated[
        str | None,
        Key("what that file is: txt, jsonl, json, csv, parquet; hub; null: as data.source", samples=True),
    ] = None
    column: Annotated[str | None, Key("of its prompts; null: as data.column")] = None
    quoted: Annotated[
        str | None, Key("metadata field for what its prompts have in double quotes; null: as data.quoted")
    ] = None
    by: Annotated[
        str | None,
        Key("metadata field whose values are kinds with results of their own; null: none", samples=True),
    ] = None
    split: Annotated[str, Key("in place of data.split", samples=True)] = "heldout"
    kinds: Annotated[list[str] | None, Key("of the shapes world's prompts; null: all", samples=True)] = None
    micro_batch: Annotated[
        int | None,
        Key("rows of one forward; null: train.micro_batch", "samples", least=1, most=10**5, usual=1),
    ] = None
    terms: Annotated[
        dict[str, RewardTerm],
        Key("scorers beside the suite, of any data, by a name of one's own", samples=True),
    ] = field(default_factory=dict)
    seed: Annotated[
        int,
        Key(
            "of its noise, apart from the run's: runs of other seeds meet the same noise",
            least=-(2**63),
            most=2**63 - 1,
            samples=True,
        ),
    ] = 0
    pictures: Annotated[
        int,
        Key(
            "whose first sample is kept as a small picture beside the numbers, spread over all; the report "
            "shows those that changed most",
            "prompts",
            least=0,
            most=10**4,
        ),
    ] = 48
    run: Annotated[
        str | None,
        Key("rlvis eval: a run folder or one of its checkpoints; null: the bare policy", path=True),
    ] = None

    @property
    def measures(self) -> bool:
        """Whether there is anything to measure."""
        return self.suite == SHAPES or bool(self.terms)

    def model(self, trained: ModelConfig) -> ModelConfig:
        """The policy of an evaluation: the trained one, at the size and guidance that are set here."""
        ours = {name: getattr(self, name) for name in ("height", "width", "frames", "cfg", "guidance")}
        return replace(trained, **{name: value for name, value in ours.items() if value is not None})
