"""What is typed wins, by file data over all pairs of an experiment (or debug) and an option, and composed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlvis import cli, schema
from rlvis.compose import describe, files, names
from rlvis.compose.command import compose
from rlvis.compose.typed_wins import differences, taken
from rlvis.schema import plain
from rlvis.schema.key import marks
from tests.cli.helpers import Trainings

TABLE = describe.table()
GROUPS = [group for group in TABLE if group not in names.WHOLE]
WHOLE = [(group, option) for group in names.WHOLE for option in TABLE[group]]


@cache
def read(file: str) -> dict[str, Any]:
    text = (files.CONF / f"{file}.yaml").read_text(encoding="utf-8")
    return {"_global_": text.startswith("# @package _global_"), **yaml.safe_load(text)}


def parents(file: str) -> Iterator[str]:
    """A file and those below it in its own group."""
    group = file.split("/")[0]
    for entry in read(file).get("defaults", []):
        if isinstance(entry, str) and entry != "_self_" and "base_" not in entry:
            yield from parents(f"{group}/{entry}")
    yield file


@cache
def written(group: str, options: tuple[str, ...]) -> dict[str, list[str]]:
    """File -> the keys of its section that it writes, without Hydra."""
    found = {}
    for file in (file for option in options for file in parents(f"{group}/{option}")):
        values = read(file).get(group, {}) if read(file)["_global_"] else read(file)
        found[file] = [key for key in values if key not in ("defaults", "_global_")]
    return found


@cache
def chosen(whole: tuple[str, str]) -> dict[str, tuple[str, ...]]:
    """What an experiment or debug, and what it brings, chooses of each group."""
    picked: dict[str, Any] = {}

    def overrides(file: str) -> None:
        for inner in reversed(list(parents(file))):
            for entry in read(inner).get("defaults", []):
                for key, option in entry.items() if isinstance(entry, dict) else ():
                    picked.setdefault(key.removeprefix("override /"), option)

    overrides("/".join(whole))
    for group in ("advantage", "model"):
        overrides(f"{group}/{picked.setdefault(group, describe.default(group))}")
    options = {group: picked.get(group, describe.default(group)) for group in GROUPS}
    return {group: tuple(o) if isinstance(o, list) else (o,) for group, o in options.items()}


@cache
def budget(group: str) -> frozenset[str]:
    return frozenset(key for key, mark in marks(names.child(schema.Config, group)).items() if mark.budget)


@cache
def section(group: str) -> frozenset[str]:
    return frozenset(names.fields(names.child(schema.Config, group)))


def test_the_sizes_of_a_run_are_marked() -> None:
    assert {group: budget(group) for group in GROUPS if budget(group)} == {
        "data": {"prompts_per_step", "samples_per_prompt"},
        "sampler": {"steps"},
    }


@pytest.mark.parametrize("whole", WHOLE, ids="=".join)
def test_over_all_pairs_an_option_takes_what_it_or_the_other_writes_and_no_more(
    whole: tuple[str, str],
) -> None:
    for group in GROUPS:
        old = written(group, chosen(whole)[group])
        assert taken(old, old, budget(group)) == set()
        for option in TABLE[group]:
            new = written(group, (option,))
            keys = taken(new, old, budget(group))
            assert keys <= section(group)
            assert not keys & budget(group)
            if (option,) != chosen(whole)[group]:
                assert keys == {k for ks in [*new.values(), *old.values()] for k in ks} - budget(group)


# Two options for each, over all groups in turn.
PAIRS = [
    (whole, group, list(TABLE[group])[(2 * i + j) % len(TABLE[group])])
    for i, whole in enumerate(WHOLE)
    for j, group in ((j, GROUPS[(2 * i + j) % len(GROUPS)]) for j in range(2))
]


@pytest.mark.parametrize(("whole", "group", "option"), PAIRS, ids=str)
def test_composed_every_key_that_changes_is_one_of_those_and_has_the_option_s_value(
    whole: tuple[str, str], group: str, option: str
) -> None:
    words = ["=".join(whole)]
    before, both = compose(words).config, compose([*words, f"{group}={option}"])
    alone = compose([f"{group}={option}"]).config
    held, now, fresh = (files.plain(config[group]) for config in (before, both.config, alone))
    keys = taken(written(group, (option,)), written(group, chosen(whole)[group]), budget(group))
    assert {key: now[key] for key in keys} == {key: fresh[key] for key in keys}
    said = {key for file in parents("/".join(whole)) for key in read(file).get(group, {})}
    changed = {key for key in now if now[key] != held[key]}
    assert changed <= keys | (budget(group) - said)  # a size that the experiment leaves to its option
    choices = str(read("/".join(whole)).get("defaults"))
    for other in set(GROUPS) - {group}:  # what it brings elsewhere ranks below the experiment's own choice
        if f"override /{other}" in choices:
            assert files.plain(both.config[other]) == files.plain(before[other])


@pytest.mark.parametrize("whole", WHOLE[::4], ids="=".join)
def test_typing_what_is_chosen_changes_nothing(whole: tuple[str, str]) -> None:
    words = ["=".join(whole)]
    typed = compose(
        [*words, *(f"{group}={o[0] if len(o) == 1 else list(o)}" for group, o in chosen(whole).items())]
    )
    assert typed.config == compose(words).config
    assert typed.replaced == ""


RECIPE = "experiment=flow_grpo_sd3_pickscore"


def test_the_cases_that_went_wrong() -> None:
    guard = compose([RECIPE, "advantage=guard"])
    assert (guard.config.advantage.clip_range, guard.config.advantage.kl_beta) == (2e-6, 0.01)
    assert guard.replaced == f"advantage=guard over {RECIPE}: advantage.clip_range=2e-06 (was 0.0001)"
    assert compose([RECIPE, "advantage=vipo"]).config.advantage.clip_range is None
    assert compose([RECIPE, "sampler=dance_sde"]).config.sampler.eta == 0.3
    assert compose([RECIPE, "sampler=dance_sde"]).config.sampler.steps == 10
    assert compose(["debug=tiny", "tracker=wandb"]).config.tracker.wandb


def test_values_win_over_all_and_are_not_said_to_be_replaced() -> None:
    composed = compose([RECIPE, "advantage=guard", "advantage.clip_range=3e-6"])
    assert (composed.config.advantage.clip_range, composed.replaced) == (3e-6, "")


@pytest.mark.parametrize("recipe", ["experiment=jpeg_sd3", "experiment=vipo_flux"])
def test_a_sweep_compares_a_recipe_with_and_without_a_method(recipe: str, trainings: Trainings) -> None:
    Path("prompts.txt").write_text("".join(f"a thing number {i}\n" for i in range(50)))
    words = [recipe, "data=txt", "data.path=prompts.txt", "advantage=grpo,vipo"]
    assert cli.main(["train", "-m", *words]) == 0
    without, with_ = (plain(config) for config in trainings.configs)
    assert {key: now for key, (_, now) in differences("", without, with_).items()} == {
        ".advantage.map.source": "psm",
        ".advantage.map.map_norm": "mean1",
    }


def test_an_option_brings_others_below_an_experiment_s_and_above_the_default() -> None:
    config = compose(["experiment=bpgo_wan", "advantage=bpgo_released"]).config
    assert (config.trust.kind, config.prior.kind) == ("posterior", "reference")
    assert compose([RECIPE, "advantage=bpgo"]).config.prior.kind == "moving_average"
    assert compose([RECIPE, "advantage=bpgo", "trust=posterior"]).config.trust.kind == "posterior"


def test_what_files_write_is_what_hydra_reads() -> None:
    for group, option in (("trust", "bpgo"), ("advantage", "bpgo_vipo"), ("model", "tiny_video_defect")):
        assert files.read([f"{group}={option}"]).written[group] == written(group, (option,))
    several = files.read(["reward=[clip,jpeg]"]).written["reward"]
    assert several == written("reward", ("clip", "jpeg"))
