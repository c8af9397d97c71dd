"""Every file under conf/ composes, says in a line what it is, and makes a run without contradictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rlvis import schema
from rlvis.checks.config import check
from rlvis.compose import describe, files, names
from rlvis.compose.command import compose
from rlvis.compose.files import CONF

OPTIONS = [(group, option) for group, options in describe.table().items() for option in options]
# What an option needs beside itself: a prompt file, a scorer's name, a ZeRO stage for bfloat16.
NEEDS = {
    ("data", "shapes_video"): ["model=tiny_video"],
    ("data", "shapes_i2v"): ["model=tiny_video", "model.condition=first_frame"],
    **{
        ("reward", name): ["model=tiny_video", "data=shapes_video", "model.fps=8"]
        for name in ("videoalign", "videoalign_vq_mq")
    },
    ("reward", "vlm"): ["reward.terms.vlm.kwargs.model=NAME"],
    ("reward", "function"): ["reward.terms.function.scorer=rlvis.reward.scorers.checker.checker"],
    **{("reward", name): ["model=tiny_video"] for name in ("videoalign", "videoalign_vq_mq")},
    **{
        ("trust", name): ["prior=moving_average"]
        for name in ("ras", "posterior", "agreement", "bpgo", "bpgo_released")
    },
    ("prior", "constant"): ["trust=ras", "prior.value=0.5"],
    ("prior", "record"): ["trust=ras", "prior.field=score"],
    **{("prior", name): ["trust=ras"] for name in ("moving_average", "hierarchical", "reference")},
    ("prior", "first_frame"): [
        "trust=ras",
        "model=tiny_video",
        "model.condition=first_frame",
        "data=shapes_i2v",
    ],
    **{("data", name): ["data.path=FILE"] for name in ("txt", "jsonl", "json", "csv", "parquet", "hub")},
    **{("data", name): ["data.path=FILE"] for name in ("hpd", "vidprom", "geneval", "ocr", "drawbench")},
    ("data", "i2v_pairs"): ["data.path=FOLDER", "model=tiny_video", "model.condition=first_frame"],
    **{
        ("experiment", name): ["data.path=FILE"]
        for name in describe.table()["experiment"]
        if "tiny" not in name
    },
}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_into_a_run(group: str, option: str) -> None:
    config = compose([f"{group}={option}", *NEEDS.get((group, option), [])]).typed()
    assert check(config) == []
    assert 20 < len(describe.first_comment(CONF / group / f"{option}.yaml")) < 140


EXPERIMENTS = sorted(describe.table()["experiment"])
ELSE = {"bpgo_wan22_i2v": ["prior=moving_average"]}  # stills start from no frame


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs_small_with_the_tiny_policy(experiment: str) -> None:
    config = compose([f"experiment={experiment}", "debug=tiny", *ELSE.get(experiment, [])]).typed()
    assert check(config) == []
    assert (config.model.path, config.data.source, config.train.steps) == ("asset:tiny_image", "shapes", 2)
    full = compose([f"experiment={experiment}", "data.path=FILE"]).typed()
    # The method itself is what is tried, but with two samples a prompt there is no best of many.
    assert config.advantage == replace(full.advantage, best_of_n=None)
    assert full.name == experiment


def test_the_published_numbers_of_flow_grpo() -> None:
    config = compose(["experiment=flow_grpo_sd3_pickscore", "data.path=FILE"]).typed()
    data, model = config.data, config.model
    assert (data.prompts_per_step, data.samples_per_prompt, config.train.updates_per_step) == (48, 24, 2)
    assert (config.sampler.steps, config.sampler.eta, model.cfg, model.height) == (10, 0.7, 4.5, 512)
    assert (config.optim.lr, config.advantage.kl_beta, config.advantage.clip_range) == (3e-4, 0.01, 1e-4)
    assert model.lora is not None
    assert (model.lora.rank, model.lora.alpha) == (32, 64)
    assert model.ema is not None
    assert (model.ema.decay, model.ema.every) == (0.9, 8)


def test_files_have_the_first_line_that_the_listing_prints() -> None:
    for file in CONF.rglob("*.yaml"):
        assert describe.first_comment(file), f"{file} does not say what it is"
        assert file.read_text(encoding="utf-8").isascii(), file


@pytest.mark.parametrize(("group", "option"), [pair for pair in OPTIONS if pair[0] not in names.WHOLE])
def test_an_option_brings_others_by_name_and_writes_no_value_into_their_sections(
    group: str, option: str
) -> None:
    """Else what it writes would win over an option of that group that is typed."""
    text = (CONF / group / f"{option}.yaml").read_text(encoding="utf-8")
    if text.startswith("# @package _global_"):
        assert set(yaml.safe_load(text)) <= {"defaults", group, "train", "optim"}
    if group in ("model", "data"):
        assert f"{group}/parts/plain" in files.read([f"{group}={option}"]).written[group], "which see"


def test_conf_at_the_top_is_the_package_s() -> None:
    top = Path(__file__).resolve().parents[2] / "conf"
    if not top.exists():
        pytest.skip("an installed package has no top-level conf")
    assert top.is_symlink()
    assert top.resolve() == CONF.resolve()


def test_the_listing_marks_what_a_bare_run_takes() -> None:
    lines = describe.listing(["model", "reward"]).splitlines()
    assert lines[0] == "model"
    assert lines[1].startswith("  tiny_image* ")
    assert any(line.startswith("  checker* ") for line in lines)
    assert "engine" not in lines


def test_rows_are_every_key_once_with_what_the_schema_says() -> None:
    rows = [row for section in describe.sections() for row in describe.rows(section)]
    keys = [row.key for row in rows]
    assert len(keys) == len(set(keys))
    known = names.keys()
    sections = {name for name in known if names.fields(names.child(schema.Config, name))}
    assert set(known) - sections <= set(keys)
    row = {row.key: row for row in rows}
    size = row["sampler.window.size"]
    assert (size.default, size.unit) == ("2", "transitions")
    assert size.domain.startswith("a whole number, 1 to 1000")
    assert size.read_with == "sampler.window.kind=fixed|random_window|progressive"
    assert (row["model.lora"].default, row["model.lora.rank"].default) == ("null", "32")
    assert row["reward.terms.NAME.weight"].default == "1"
    assert row["data.source"].default == ""
    assert row["dry_run"].domain == "true or false"
    assert {name for name, found in row.items() if found.is_size} >= {
        "sampler.steps",
        "optim.lr",
        "train.steps",
    }


# Recipes of nobody's publication, and of one whose range is of another ratio (see their comments).
OURS = ("tiny_video", "tiny_i2v", "jpeg_sd3", "vipo_flux", "vipo_wan")


@pytest.mark.parametrize(
    "word",
    [
        *(f"advantage={name}" for name in ("dance", "guard", "bpgo_released", "vipo_released")),
        *(f"experiment={name}" for group, name in OPTIONS if group == "experiment" and name not in OURS),
    ],
)
def test_what_was_published_states_its_clip_range(word: str) -> None:
    """What null means is our own choice, and may change."""
    assert compose([word]).config.advantage.clip_range is not None
