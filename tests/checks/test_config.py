"""Rules between keys: each contradiction is found, and what its message says to type is accepted."""

from __future__ import annotations

import itertools
import json
import shlex
from pathlib import Path

import pytest

from rlvis.checks.config import check
from rlvis.checks.files import count_prompts, files
from rlvis.compose.command import compose
from rlvis.flow import windows
from rlvis.flow.windows import trained_transitions
from rlvis.schema import SamplerConfig, WindowConfig, WindowKind

I2V = ["model=tiny_video", "data=shapes_i2v", "model.condition=first_frame"]
MISTAKES = [
    (["sampler.kernel=ode"], "ode is deterministic"),
    (["advantage.ratio_scope=pooled"], "advantage.map.source=none"),
    (["advantage=guard", "advantage.ratio_scope=position"], "ratio of a whole sample"),
    (["advantage=guard", "advantage.map.channel_reduction=sum"], "averaged over channels"),
    (["advantage=guard", "sampler=cps"], "sampler.logprob=squared"),
    (["advantage.preset=ddpo", "advantage.std_scope=batch"], "advantage.std_scope=batch does nothing"),
    (["advantage.std_scope=none", "advantage.combine=gdpo"], "divides each by its standard deviation"),
    (["advantage.std_scope=none", "advantage.preset=ddpo"], "advantage.std_scope=none does nothing"),
    (["advantage=bpgo", "advantage.std_scope=none"], "a contrast has no unit of its own"),
    (["advantage.clip_range=-1"], "advantage.clip_range=-1"),
    (["advantage.clip_range=[1e-4]"], "advantage.clip_range=[0.0001]"),
    (["advantage.clip_range=small"], "advantage.clip_range=small"),
    (["advantage.clip_range=1.5"], "a ratio is above 0"),
    (["advantage.adv_clip=0"], "advantage.adv_clip=0"),
    (["advantage.kl_beta=-1"], "advantage.kl_beta=-1"),
    (["advantage.sign=0.5"], "advantage.sign=0.5"),
    (["advantage.best_of_n=3"], "must be even"),
    (["advantage.best_of_n=10"], "between 2 and 8"),
    (["data.samples_per_prompt=1"], "at least 2"),
    (["train.updates_per_step=97"], "a step trains 96 samples"),
    (["train.updates_per_step=49", "advantage.best_of_n=4"], "a step trains 48 samples"),
    (["train.micro_batch=0"], "train.micro_batch=0"),
    (["model=sd3", "engine=zero0"], "hidden first step"),
    (
        ["model=tiny_video", "data=shapes"],
        "model.frames=9 makes clips, but the prompts of data.source=shapes tell",
    ),
    (
        ["data=shapes_video"],
        "model.frames=1 makes images, but the prompts of data.source=shapes_video tell how",
    ),
    (["model=tiny_video", "data=shapes", "model.condition=first_frame"], "model.frames=9 makes clips"),
    (
        ["model=tiny_video", "model.condition=first_frame", "data=shapes_video"],
        "bring none (those of shapes_i2v",
    ),
    (["model=tiny_video", "data=shapes_i2v"], "which model.condition=none does not read"),
    (["model.condition=first_frame"], "nothing is left to make"),
    (["data.kinds=[speed]"], "data.source=shapes has the kinds single"),
    (["data=txt", "data.path=FILE", "data.kinds=[single]"], "whose prompts have no kinds"),
    (["model.cfg=0.5"], "model.cfg=0.5"),
    (["model.negative_prompt=ugly"], "does nothing with model.cfg=1"),
    (["model.cfg_grad=conditional"], "does nothing with model.cfg=1"),
    (["model.lora.rank=0"], "model.lora.rank=0"),
    (["model.lora.alpha=0"], "model.lora.alpha=0: wanted above 0"),
    (["model.lora.rank=4", "model.lora.targets=to_q"], "model.lora.targets=to_q: wanted null"),
    (["model.lora.rank=4", "model.lora.targets=[]"], "model.lora.targets=[]: wanted null"),
    (["model.ema.decay=1"], "model.ema.decay=1"),
    (["engine.stage=4"], "engine.stage=4"),
    (["optim.lr=0"], "optim.lr=0"),
    (["optim.betas=[0.9]"], "optim.betas=[0.9]"),
    (["optim.grad_norm=0"], "optim.grad_norm=0"),
    (["sampler.steps=1"], "sampler.steps=1"),
    (["sampler.eta=0"], "sampler.eta=0"),
    (["sampler=cps", "sampler.eta=1.5"], "sampler.kernel=cps: wanted at most 1"),
    (["sampler.noise=wan"], "takes its level from the grid, got sampler.eta=0.7"),
    (["sampler.eta=-1"], "sampler.eta=-1"),
    (["sampler=cps", "sampler.noise=dance"], "sampler.noise=dance does nothing"),
    (["model=sd15", "sampler=flow_sde", "engine=zero1"], "type sampler=ddim"),
    (["model=sdxl", "sampler=ddim", "engine=zero1", "sampler.shift=3"], "no shift"),
    (["sampler.grid=log"], "sampler.grid=log"),
    (["sampler.shift=0"], "sampler.shift=0"),
    (["sampler=flow_sde", "sampler.window.start=2"], "sampler.window.start=2 does nothing"),
    (["sampler.timestep_fraction=0.6"], "sampler.timestep_fraction=0.6 does nothing"),
    (
        ["sampler.window.kind=random_subset", "sampler.timestep_fraction=0.1"],
        "of 7 trainable transitions is 0",
    ),
    (["sampler.window.kind=fixed", "sampler.window.start=6"], "ends at 8"),
    (["sampler.window.kind=random_window", "sampler.window.size=8"], "does not fit"),
    (["sampler.window.kind=random_window", "sampler.window.high=8"], "does not fit"),
    (["sampler.window.kind=progressive", "sampler.window.stride=0"], "stride=0"),
    (["sampler.window.kind=fixed", "sampler.window.size=0"], "sampler.window.size=0"),
    (["sampler.window.kind=random_window", "sampler.window.low=-1"], "sampler.window.low=-1"),
    (
        ["sampler.window.kind=progressive", "sampler.window.size=9", "sampler.window.high=9"],
        "size=9, high=9: size and high are at most 7",
    ),
    (["model.height=0"], "model.height=0"),
    (["sampler.window.kind=progressive", "train.steps=176"], "after 175 training steps"),
    (["name=a/b"], "without a slash"),
    (["threads=0"], "threads=0"),
    (["records=there"], "does nothing with stage=all"),
    (["stage=build"], "type records=DIR"),
    (["stage=build", "records=there", "resume=auto"], "type resume=null"),
    (["resume=there", "run_dir=here"], "stays in its folder"),
    (["data.path=there"], "data.path=there does nothing"),
    (["data=hub"], "type data.path=OWNER/NAME"),
    (["data.column=text"], "which has no columns"),
    (["data.heldout=0.1"], "has a held-out split of its own"),
    (["data=txt", "data.path=FILE", "data.heldout=1"], "wanted below 1 (share)"),
    (["data=txt", "data.path=FILE", "data.min_words=-1"], "data.min_words=-1"),
    (["data=txt", "data.path=FILE", "data.min_words=5", "data.max_words=4"], "data.max_words=4"),
    (["data=txt", "data.path=FILE", "data.min_ascii=90"], "wanted at most 1 (share)"),
    (["data=txt", "data.path=FILE", "data.drop='a('"], "not a regular expression"),
    (["data=txt", "data.path=FILE", "data.keep=[tag]"], "has no columns"),
    (["data=csv", "data.path=FILE", "data.image=picture"], "brings no pictures"),
    (["data=csv", "data.path=FILE", "data.revision=main"], "is no hub data set"),
    (["data.source=yaml"], "data.source=yaml"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_contradiction_is_found_alone_and_says_what_to_type(words: list[str], message: str) -> None:
    errors = check(compose(words).typed())
    assert len(errors) == 1, errors
    assert message in str(errors[0])


@pytest.mark.parametrize("words", [words for words, _ in MISTAKES if words != ["data.source=yaml"]])
def test_what_a_message_says_to_type_is_accepted(words: list[str]) -> None:
    (error,) = check(compose(words).typed())
    typed = error.type or error.what.split("; type ")[1]  # data.drop's message is a whole sentence
    shown = itertools.takewhile(lambda word: "=" in word, shlex.split(typed))
    remedy = [word.rstrip(",").replace("OWNER/NAME", "a/b") for word in shown]
    assert remedy, error
    if "stays in its folder" in error.what:  # which says "alone"
        words = []
    named = {word.split("=")[0] for word in remedy}
    kept = [word for word in words if word.split("=")[0] not in named]
    assert check(compose([*kept, *remedy]).typed()) == [], error


def test_more_processes_than_samples() -> None:
    config = compose([]).typed()
    assert check(config, 96) == []
    (error,) = check(config, 97)
    assert "12 * 8 = 96 samples cannot be spread over 97 processes" in error.what


@pytest.mark.parametrize("value", ["null", "1e-4", "1", "[1e-4,2e-4]", "[0.2,5]"])
def test_the_forms_of_a_clip_range(value: str) -> None:
    errors = check(compose([f"advantage.clip_range={value}"]).typed())
    assert bool(errors) == (value == "1")  # a ratio cannot fall to 0


def test_trained_transitions_are_those_of_the_window() -> None:
    cases = itertools.product((4, 10, 101), (0.29, 0.6, 1.0), (1, 3), (None, 3))
    for steps, fraction, size, high in cases:
        for kind in WindowKind:
            if (
                kind is WindowKind.fixed
                or high is None
                or kind in (WindowKind.random_window, WindowKind.progressive)
            ):
                window = WindowConfig(kind=kind, size=size, high=high)
                sampler = SamplerConfig(steps=steps, timestep_fraction=fraction, window=window)
                import numpy as np

                if kind is WindowKind.random_subset and trained_transitions(sampler) < 1:
                    continue
                chosen = windows.select(
                    kind.value,
                    steps,
                    rng=np.random.default_rng(0),
                    fraction=fraction,
                    size=size,
                    high=steps - 1 if high is None else high,
                )
                assert trained_transitions(sampler) == len(chosen.trained), (
                    kind,
                    steps,
                    fraction,
                    size,
                    high,
                )


def test_files_that_are_not_there(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    config = compose(["data=txt", f"data.path={prompts}"]).typed()
    assert "there is no such file" in files(config)[0].what
    prompts.write_text("one\n\ntwo\n")
    assert count_prompts(config) == 2
    assert files(config)[0].type == "data.prompts_per_step=2 or fewer"
    prompts.write_text("prompt\n" * 8)
    assert files(config) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a JSON list"),
        ('{"zero_optimization": {}}', '{"stage": 1}'),
        (None, "cannot be read"),
    ],
)
def test_a_deepspeed_file_is_looked_at(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "mine.json"
    if text is not None:
        file.write_text(text)
    config = compose(["engine=json", f"engine.config={file}", "model.dtype=bfloat16"]).typed()
    assert check(config) == []
    (error,) = files(config)
    assert message in error.what
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}}))
    assert files(config) == []


def test_records_of_a_stage(tmp_path: Path) -> None:
    words = ["stage=score", f"records={tmp_path}"]
    assert "has nothing to read" in files(compose(words).typed())[0].what
    assert files(compose(["stage=rollout", words[1]]).typed()) == []  # which writes them
    (tmp_path / "step_000000").mkdir()
    assert files(compose(words).typed()) == []
