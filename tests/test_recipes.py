"""Every published recipe, with its own rewards and family on tiny random weights of the same classes: the
doctor finds nothing, and two training steps through the command line teach.

Sizes shrink; what makes the method does not, which is compared with the recipe's own configuration.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlvis.cli import main, one_run
from rlvis.compose.command import compose
from rlvis.schema import Config, MapSource
from tests import recipes

# Every method, reward and prompt format of the recipes: the last test holds that.
DEFAULT = {
    "bpgo_wan22_i2v",
    "dance_hunyuan",
    "ddpo_sd15",
    "flow_grpo_sd3_geneval",
    "guard_sd3_ocr",
    "mixgrpo_flux",
    "vipo_flux",
}
# Random weights draw no text: where the reader finds none, all scores are rightly 0.
NATURAL = {"ocr": {"reward ocr", "reward groups"}}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in DEFAULT else pytest.mark.slow) for n in recipes.NAMES]
)
def test_the_recipe_trains(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one_run, "write_report", lambda run_dir: None)  # a third of the time
    whole = compose([f"experiment={name}", "data.path=FILE"]).typed()
    with ExitStack() as stack:
        words = recipes.words(name, whole, tmp_path, stack)
        config = compose(words).typed()
        assert method(config) == method(whole)
        assert main(["train", *words, f"run_dir={tmp_path / 'run'}"]) == 0
    findings = json.loads((tmp_path / "run" / "doctor.json").read_text())["findings"]
    rewards = recipes.rewards(recipes.options(name))
    natural = {check for reward in rewards for check in NATURAL.get(reward, ())}
    assert {f["name"] for f in findings if f["severity"] != "ok"} <= natural
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    for line in lines:
        healthy(line, config, may_be_constant=bool(natural))


def method(config: Config) -> dict[str, Any]:
    """What a recipe is, without sizes and places of files."""
    advantage, model, data = config.advantage, config.model, config.data
    terms = {name: (term.scorer, term.weight, term.frames) for name, term in config.reward.terms.items()}
    few = None if advantage.best_of_n is None else 2
    map_config = replace(advantage.map, backbone="tiny")
    return {
        "advantage": replace(advantage, best_of_n=few, map=map_config),
        "trust": config.trust,
        "prior": replace(config.prior, samples=2, cache=""),
        "sampler": replace(config.sampler, steps=6),
        "optim": config.optim,
        "updates": config.train.updates_per_step,
        "terms": terms,
        "data": (data.source, data.column, data.quoted, data.heldout, data.keep),
        "model": (model.family, model.condition, model.cfg, model.cfg_2, model.cfg_grad, model.guidance),
        "trained": (model.lora is None, model.ema, model.fps, model.gradient_checkpointing),
    }


def healthy(line: dict[str, float], config: Config, *, may_be_constant: bool) -> None:
    """A step of this method: all scored, ratio 1 before the update, a gradient where rewards differ."""
    assert line["reward/valid_fraction"] == 1
    assert {f"reward/{name}/mean" for name in config.reward.terms} <= line.keys()
    assert line["ratio/max_deviation_first"] <= 1e-6
    assert line["update/optimizer_steps"] == config.train.updates_per_step
    same = line["group/zero_variance_fraction"]
    assert same < 1 or may_be_constant
    # A KL or an update before may turn the weights where all rewards are equal; nothing else may.
    assert (line["update/grad_norm"] > 0) or same == 1
    assert line["advantage/abs_mean"] > 0 or same == 1
    assert ("trust/weight_mean" in line) == (config.trust.kind != "none")
    assert ("trust/prior_mean" in line) == (config.prior.kind != "none")
    assert ("map/mean" in line) == (config.advantage.map.source is not MapSource.none)
    assert ("kl/reference" in line) == (config.advantage.kl_beta > 0)
    kept = 1.0 if config.advantage.best_of_n is None else 2 / config.data.samples_per_prompt
    assert line["advantage/kept_fraction"] == pytest.approx(kept)
    assert all(value == value for value in line.values())


def test_the_default_tier_has_every_method_reward_and_format() -> None:
    def choices(names: Iterable[str]) -> set[tuple[str, str]]:
        read = [recipes.options(name) for name in names]
        options = {(group, chosen[group]) for chosen in read for group in ("advantage", "data")}
        return options | {("reward", reward) for chosen in read for reward in recipes.rewards(chosen)}

    assert choices(recipes.NAMES) == choices(DEFAULT)
