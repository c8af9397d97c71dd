"""Overrides become one typed configuration; every mistake is one message that names what was meant."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from rlvis import schema as S
from rlvis.compose import files, names, sweep
from rlvis.compose.command import compose
from rlvis.findings import ConfigError


def test_nothing_said_is_the_embedded_default() -> None:
    config = compose([]).typed()
    assert config.model.path == "asset:tiny_image"
    assert list(config.reward.terms) == ["checker"]
    assert (config.data.source, config.data.prompts_per_step, config.data.samples_per_prompt) == (
        "shapes",
        12,
        8,
    )
    assert (config.sampler.kernel, config.sampler.eta, config.sampler.steps) == ("sde", 0.7, 8)
    assert (config.engine.stage, config.model.dtype) == (0, S.Dtype.float32)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("advantage.clip_rang=1", "unknown key advantage.clip_rang; nearest: advantage.clip_range;"),
        ("+advantage.clip_rang=1", "unknown key advantage.clip_rang; nearest: advantage.clip_range;"),
        ("++sampler.stepz=3", "unknown key sampler.stepz; nearest: sampler.steps;"),
        ("+foo=1", "unknown key foo; nearest: "),
        ("clip_range=1e-4", "unknown key clip_range; nearest: advantage.clip_range;"),
        ("learning_rate=1e-4", "unknown key learning_rate; nearest: optim.lr;"),
        ("modle=sd3", "unknown key modle; nearest: model;"),
        ("expermient=jpeg_sd3", "unknown key expermient; nearest: experiment;"),
        ("sampler.high=3", "unknown key sampler.high; nearest: sampler.window.high;"),
        ("model.lora.rnk=8", "unknown key model.lora.rnk; nearest: model.lora.rank;"),
        ("model.lora={rnk: 8}", "unknown key model.lora.rnk; nearest: model.lora.rank;"),
        ("reward.terms.checker.wieght=2", "nearest: reward.terms.checker.weight;"),
        ("model=tiny_imag", "model has no option tiny_imag; nearest: tiny_image; options: "),
        ("experiment=nope", "experiment has no option nope; options: bpgo_flux, "),
        (
            "reward=[coverage,jpg]",
            "reward has no option jpg; nearest: jpeg; options: aesthetic, checker, clip",
        ),
        ("model=[sd3,tiny_image]", "model takes one option, got 2"),
        ("model=base_model", "model has no option base_model"),
        ("sampler=null", "sampler has no option null"),
        ("sampler.noise=flows", "wanted one of flow, dance, wan, flow_clipped; nearest: flow"),
        ("sampler.steps=3.5", "sampler.steps=3.5: wanted a whole number"),
        ("optim.lr=fast", "optim.lr=fast: wanted a number"),
        ("tracker.wandb=perhaps", "tracker.wandb=perhaps: wanted true or false"),
        ("tracker.wandb=2", "tracker.wandb=2: wanted true or false"),
        ("dry_run=on", "dry_run=on: wanted true or false"),
        ("tracker={wandb: 2}", "tracker.wandb=2: wanted true or false"),
        ("optim.betas=[0.9,high]", "wanted a list such as [A,B], each a number"),
        ("model.path=null", "model.path=null: wanted text"),
        ("sampler.window=all", "sampler.window is a section with the keys kind, start,"),
        ("optim.lr=1e-4,1e-3", "optim.lr=1e-4,1e-3 gives several values: add -m"),
        ("optim.lr", "optim.lr: wanted KEY=VALUE"),
        ("name=(x", "quote it: \"name='(x'\""),
        ("~optim.lr", "type optim.lr=null"),
        ("~model", "model has no option none; options: "),
        ("~reward.terms.nothing", "nothing can be removed here"),
        ("model@policy=sd3", "where alone rlvis reads them; type model=sd3"),
        ("hydra.job.name=x", "no effect on a single run"),
        ("model=glob(tiny*)", "gives several values: add -m"),
        ("hydra.searchpath=[/nowhere/at/all]", "path=/nowhere/at/all is not available"),
    ],
)
def test_a_mistake_names_what_was_meant(word: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([word]).typed()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_naming_a_key_below_a_null_section_turns_it_on_with_its_defaults() -> None:
    assert compose([]).typed().model.lora is None
    assert compose(["model.lora.rank=8"]).typed().model.lora == S.LoraConfig(rank=8, alpha=64)
    assert compose(["model.ema={decay: 0.5}"]).typed().model.ema == S.EmaConfig(decay=0.5, every=1)
    assert compose(["model=sd3", "model.lora=null"]).typed().model.lora is None


def test_hydra_s_words_mean_what_they_mean_there() -> None:
    words = ["+experiment=dance_tiny", "++optim.lr=1e-5", "+seed=3", "hydra.run.dir=some/where"]
    plain = ["experiment=dance_tiny", "optim.lr=1e-5", "seed=3", "run_dir=some/where"]
    assert compose(words).typed() == compose(plain).typed()
    assert compose(words).touched == compose(plain).touched
    assert compose(["advantage=bpgo", "~trust", "~prior"]).config.trust.kind == "none"
    assert compose(["experiment=dance_tiny", "~experiment"]).typed() == compose([]).typed()
    assert compose(["model={height: 48}"]).typed().model.height == 48  # values of a section, no option
    assert list(compose(["reward=[coverage,jpeg]", "~reward.terms.jpeg"]).typed().reward.terms) == [
        "coverage"
    ]
    assert compose(["tracker.wandb=${dry_run}", "dry_run=true"]).typed().tracker.wandb


def test_reward_terms_can_be_added_and_open_kwargs_hold_anything() -> None:
    words = ["reward.terms.mine.scorer=my.module.score", "reward.terms.mine.kwargs.levels=[1,2]"]
    terms = compose([*words, "reward.terms.checker.weight=0.5"]).typed().reward.terms
    assert terms["mine"] == S.RewardTerm("my.module.score", 1.0, {"levels": [1, 2]})
    assert terms["checker"].weight == 0.5


def test_a_term_without_scorer_is_not_set() -> None:
    with pytest.raises(ConfigError, match=r"reward\.terms\.covrage\.scorer is not set"):
        compose(["reward.terms.covrage.weight=2"]).typed()


def test_an_interpolation_that_does_not_resolve_is_a_mistake() -> None:
    assert compose(["name=${model.family}"]).typed().name == "sd3"
    with pytest.raises(ConfigError, match="nowhere"):
        compose(["name=${nowhere}"]).typed()


def test_the_command_line_wins_over_experiment_and_debug() -> None:
    plain = compose(["experiment=flow_grpo_sd3_pickscore"]).typed()
    assert (plain.data.samples_per_prompt, plain.train.steps) == (24, 1000)  # not lost to train.yaml
    words = [
        "optim.lr=7e-5",
        "experiment=flow_grpo_sd3_pickscore",
        "debug=default",
        "reward=coverage",
        "train.steps=5",
    ]
    config = compose(words).typed()
    assert (config.data.samples_per_prompt, config.data.source) == (2, "txt")  # debug's, experiment's
    assert (config.optim.lr, config.train.steps) == (7e-5, 5)
    assert list(config.reward.terms) == ["coverage"]


def test_touched_says_what_the_command_line_spoke_about() -> None:
    assert compose(["model=sd3", "optim.lr=1"]).touched == ("model.*", "optim.lr")
    assert compose(["experiment=dance_tiny"]).touched == ("*",)


def test_options_of_ones_own_come_through_the_search_path(tmp_path: Path) -> None:
    (tmp_path / "reward").mkdir()
    file = tmp_path / "reward" / "mine.yaml"
    file.write_text("defaults: [base_reward, _self_]\nterms:\n  mine:\n    scorer: a.b\n")
    search = f"hydra.searchpath=[{tmp_path}]"
    assert list(compose(["reward=mine", search]).typed().reward.terms) == ["mine"]
    with pytest.raises(ConfigError, match="no option mine"):
        compose(["reward=mine"])
    file.write_text("defaults: [base_reward, _self_]\ntermz: {}\n")
    with pytest.raises(
        ConfigError, match=r"reward/mine\.yaml has an unknown key reward\.termz; nearest: reward\.terms"
    ):
        compose(["reward=mine", search])


def test_composing_leaves_hydras_state_as_it_was() -> None:
    GlobalHydra.instance().clear()
    compose([])
    assert not GlobalHydra.instance().is_initialized()


def test_every_listed_key_exists() -> None:
    config = compose(["model=sd3", "advantage=guard", "reward=checker"]).config
    listed = names.keys({"reward.terms": ["checker"]})
    assert len(listed) == len(set(listed)) > 80
    assert {"optim.lr", "model.lora.rank", "reward.terms.checker.weight", "sampler.window.kind"} <= set(
        listed
    )
    for key in listed:
        OmegaConf.select(config, key, throw_on_missing=False)
        section, _, last = key.rpartition(".")
        assert last in (OmegaConf.select(config, section) if section else config), key


def test_names_from_elsewhere_point_at_keys_that_exist() -> None:
    assert set(names.ELSEWHERE.values()) <= set(names.keys())
    assert not set(names.ELSEWHERE) & set(names.keys())


def test_a_sweep_is_every_combination_and_is_checked_value_by_value() -> None:
    words = ["model=sd3,tiny_image", "name='a,b'", "seed=range(3)"]
    runs = sweep.runs(words)
    assert len(runs) == 6
    assert runs[1] == ["model=sd3", "name='a,b'", "seed=1"]
    once = list(sweep.each_value_once(words))
    assert len(once) == 1 + 1 + 2
    assert {word for run in once for word in run} == {word for run in runs for word in run}
    globbed = sweep.runs(["sampler=glob([*],exclude=flow*)"])
    assert globbed == [["sampler=cps"], ["sampler=dance_sde"], ["sampler=ddim"]]
    with pytest.raises(ConfigError, match="no option of sampler fits"):
        sweep.runs(["sampler=glob(x*)"])


def test_files_merge_to_what_hydra_composes() -> None:
    """Which reads each file twice for what we read once."""
    words = ["experiment=bpgo_flux", "debug=tiny", "reward=[clip,jpeg]", "trust=ras"]
    with files.session():
        composed = hydra.compose("train", overrides=words)
    assert files.read(words).merged == composed
    assert OmegaConf.get_type(files.read(words).merged.model) is S.ModelConfig
