"""Reference scores: what their key holds, what is sampled and what is read, and that training uses just
those.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlvis import schema as S
from rlvis.data.prompts import PromptSet
from rlvis.models.ema import Ema
from rlvis.record_base import equal
from rlvis.records import PriorState, PromptBatch, RewardHistory, Rewards, Trust
from rlvis.reward import scorer
from rlvis.rollout import plan
from rlvis.rollout import stage as rollout
from rlvis.runs import archive
from rlvis.runtime.dist import World
from rlvis.training import loop, pipeline, reference, reference_table, sampling
from rlvis.training.parts import Memory, Parts
from tests import setting

TEXTS = tuple(f"a {colour} {shape}" for colour in ("red", "blue") for shape in ("ball", "cube", "cone"))
PROMPTS = PromptSet(TEXTS, tuple({"n": i} for i in range(6)), "test")
REFERENCE = {"kind": "reference", "samples": 3}
RAS = {"kind": "ras"}
EMPTY = PriorState(kind="reference")


def config(folder: Path, cache: Path, **groups: Any) -> S.Config:
    """6 prompts, 3 a step, 3 reference samples of each."""
    groups["prior"] = {**REFERENCE, "cache": str(cache)} | groups.get("prior", {})
    groups.setdefault("trust", RAS)
    return setting.config(folder, **groups)


def parts(settings: S.Config, prompts: PromptSet = PROMPTS) -> Parts:
    policy = setting.policy(settings, keep_reference=settings.advantage.kl_beta > 0)
    engine: Any = setting.PlainEngine(policy.module)
    none: Ema | None = None
    return Parts(settings, World(), prompts, scorer.build(settings.reward), policy, engine, none)


def filled(run: Parts, positions: range | list[int] = range(6)) -> reference_table.Table:
    table = reference.open_table(run.config, run.world)
    assert reference.fill(run, table, positions, trained=False)
    return table


def scores(table: reference_table.Table, prompts: PromptSet = PROMPTS) -> dict[str, Rewards]:
    pairs = zip(prompts.texts, prompts.metadata, strict=True)
    by_text = {text: table.read(text, meta) for text, meta in pairs}
    return {text: rewards for text, rewards in by_text.items() if rewards is not None}


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The prompt keys of every micro-batch that is sampled."""
    indices: list[int] = []
    whole = rollout._micro_batch

    def counted(
        policy: Any, module: Any, prompts: PromptBatch, rows: list[int], rollout_plan: Any, *rest: Any
    ) -> Any:
        indices.extend(prompts.index[[row // rollout_plan.samples_per_prompt for row in rows]].tolist())
        return whole(policy, module, prompts, rows, rollout_plan, *rest)

    monkeypatch.setattr(rollout, "_micro_batch", counted)
    return indices


def key(number: int) -> int:
    return reference_table.number_of(TEXTS[number], PROMPTS.metadata[number])


def test_the_same_content_is_sampled_once(sd3_folder: Path, tmp_path: Path, forwards: list[int]) -> None:
    table = filled(parts(config(sd3_folder, tmp_path)))
    assert {*forwards} == {key(i) for i in range(6)}
    first = scores(table)
    assert [first[text].term.shape for text in TEXTS] == [torch.Size([1, 3, 1])] * 6
    assert not [path for path in table.folder.iterdir() if path.name.startswith(".")]
    forwards.clear()
    again = filled(parts(config(sd3_folder, tmp_path)))
    assert forwards == []
    assert all(equal(scores(again)[text], first[text]) for text in TEXTS)


def test_what_was_scored_stays_when_it_is_stopped(
    sd3_folder: Path, tmp_path: Path, forwards: list[int]
) -> None:
    run = parts(config(sd3_folder, tmp_path))
    table = reference.open_table(run.config, run.world)
    asked = iter([False, True])
    assert not reference.fill(run, table, range(6), trained=False, stop=lambda: next(asked))
    assert list(scores(table)) == list(TEXTS[:3])
    forwards.clear()
    filled(run)
    assert {*forwards} == {key(i) for i in (3, 4, 5)}


def test_neither_order_nor_prompts_per_step_nor_data_set_matter(sd3_folder: Path, tmp_path: Path) -> None:
    first = scores(filled(parts(config(sd3_folder, tmp_path / "a"))))
    turned = PromptSet(TEXTS[::-1], PROMPTS.metadata[::-1], "turned")
    data = {"prompts_per_step": 4, "samples_per_prompt": 2}
    other = parts(config(sd3_folder, tmp_path / "b", data=data), turned)
    second = scores(filled(other), turned)
    assert all(torch.equal(first[text].term, second[text].term) for text in TEXTS)
    assert len({float(rewards.term.sum()) for rewards in first.values()}) == 6


KEYED: dict[str, dict[str, Any]] = {
    "prior": {"samples": 4},
    "sampler": {"eta": 0.5},
    "model": {"width": 64},
    "reward": {"terms": {"jpeg": S.RewardTerm(scorer="jpeg_compressibility", kwargs={"quality": 50})}},
}
FREE: dict[str, dict[str, Any]] = {
    "model": {"lora": S.LoraConfig(rank=2), "cfg_grad": S.CfgGrad.conditional},
    "reward": {"terms": {"mine": S.RewardTerm(scorer="jpeg_compressibility", weight=3.0)}},
    "data": {"prompts_per_step": 2},
    "train": {"micro_batch": 2},
}


def test_the_key_holds_what_scores_depend_on_and_nothing_else(sd3_folder: Path, tmp_path: Path) -> None:
    def folder(path: Path = sd3_folder, **groups: Any) -> str:
        return reference_table.open_table(config(path, tmp_path / "cache", **groups)).folder.name

    plain = folder()
    changed = [folder(**{group: change}) for group, change in KEYED.items()]
    changed.append(
        reference_table.open_table(replace(config(sd3_folder, tmp_path / "cache"), seed=1)).folder.name
    )
    assert len({plain, *changed}) == len(KEYED) + 2
    assert {folder(**{group: change}) for group, change in FREE.items()} == {plain}
    with_frames = {"terms": {"jpeg": S.RewardTerm(scorer="jpeg_compressibility", frames="first")}}
    assert folder(reward=with_frames) != folder(
        reward={"terms": {"jpeg": S.RewardTerm(scorer="jpeg_compressibility")}}
    )
    assert folder(model={"vae_tiling": True}) != folder(model={"vae_slicing": True}) != plain
    copy = tmp_path / "copy"
    shutil.copytree(sd3_folder, copy)
    assert folder(copy) == plain
    weights = next((copy / "transformer").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert folder(copy) != plain


def test_a_scorer_that_was_edited_is_another_one(
    sd3_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = tmp_path / "edited_reward.py"
    terms = {"edited": S.RewardTerm(scorer="edited_reward.score", kwargs={"token": "abc"})}
    folders = []
    for value in (1, 2):
        source.write_text(
            f"def score(images, prompts, metadata, token):\n    return [{value}] * len(images)\n"
        )
        settings = config(sd3_folder, tmp_path / "cache", reward={"terms": terms})
        folders.append(reference_table.open_table(settings).folder)
    assert folders[0] != folders[1]
    assert "abc" not in (folders[0] / "settings.json").read_text()


def test_a_hub_id_is_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    model = S.ModelConfig(family="sd3", path="owner/name", height=32, width=32)
    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = f"/cache/models--owner--name/snapshots/{commit}/model_index.json"
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: cached)
    assert reference_table.weights(model) == {"hub": "owner/name", "commit": commit}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    assert reference_table.weights(replace(model, revision=commit)) == {"hub": "owner/name", "commit": commit}
    with pytest.raises(ValueError, match=r"type model\.revision=COMMIT"):
        reference_table.weights(model)


def test_samples_are_not_those_of_training_and_come_from_the_first_window(
    sd3_folder: Path, tmp_path: Path
) -> None:
    window = S.WindowConfig(kind=S.WindowKind.progressive, size=1, iters_per_group=1)
    settings = config(sd3_folder, tmp_path, sampler={"window": window})
    run = parts(settings)
    first = plan.make(run.policy, settings, reference.STEP).steps_of([0], [0])
    assert first.trained.tolist() == [[0]]
    filled(run, [0])
    plain = parts(config(sd3_folder, tmp_path))
    table = filled(plain, [0])
    prompts = setting.prompts(plain.policy, TEXTS[:1]).replace(index=torch.tensor([key(0)]))
    data = replace(plain.config.data, prompts_per_step=1, samples_per_prompt=3)
    small = replace(plain, config=replace(plain.config, data=data))
    trained = sampling.rollout_shard(small, prompts, sampling.local_shards(small)[0], 0)
    training = sampling.score_shard(small.config, small.terms, prompts, trained).value[:, 0]
    assert not (scores(table)[TEXTS[0]].term[0, :, 0] == training).any()


@pytest.mark.parametrize("lora", [None, S.LoraConfig(rank=2)])
def test_training_weighs_by_those_means(sd3_folder: Path, tmp_path: Path, lora: S.LoraConfig | None) -> None:
    settings = config(sd3_folder, tmp_path, model={"lora": lora})
    run = reference.prepare(parts(settings), EMPTY, 0)
    assert run is not None
    table = scores(reference.open_table(settings, run.world))
    memory = Memory(EMPTY, RewardHistory())
    for step in range(2):
        memory, records = pipeline.train_step(run, memory, step)
        for p, text in enumerate(records.prompts.texts):
            gap = float(records.rewards.term[p].mean() - table[text].term.mean())
            by_hand = 1 + 0.5 * (2 / (1 + math.exp(-4.0 * gap)) - 1)
            assert float(records.trust.weight[p, 0]) == pytest.approx(by_hand, abs=1e-12)
            assert by_hand != 1
    assert len(memory.prior.values) == 6
    # Later samples are the trained policy's, the table is not.
    changed = parts(settings)
    changed.policy.module.load_state_dict(run.policy.module.state_dict())
    assert lora is not None or not torch.equal(
        reference._sample(changed, [0], trained=False).term, table[TEXTS[0]].term
    )


@pytest.mark.parametrize(
    "groups", [{"model": {"lora": S.LoraConfig(rank=2)}}, {"advantage": {"kl_beta": 0.1}}]
)
def test_a_trained_policy_still_gives_the_untouched_reference(
    sd3_folder: Path, tmp_path: Path, groups: dict[str, Any]
) -> None:
    untouched = scores(filled(parts(config(sd3_folder, tmp_path / "a", **groups))))
    run = parts(config(sd3_folder, tmp_path / "b", **groups))
    with torch.no_grad():
        for _, parameter in run.policy.trainable():
            parameter.add_(0.3)
    moved = reference._sample(run, [0], trained=False).term
    if run.config.model.lora is None:
        assert not torch.equal(moved, untouched[TEXTS[0]].term)
    resumed = reference.prepare(run, EMPTY, 1)
    assert resumed is not None
    remembered = scores(reference.open_table(run.config, run.world))
    assert len(remembered) == 3  # of step 1, the only one to come
    assert all(torch.equal(remembered[text].term, untouched[text].term) for text in remembered)


def test_a_policy_that_is_gone_is_refused_unless_the_scores_are_there(
    sd3_folder: Path, tmp_path: Path, forwards: list[int]
) -> None:
    run = parts(config(sd3_folder, tmp_path))
    with pytest.raises(
        ValueError, match=r"3 prompts .* is gone under full fine-tuning; type stage=reference"
    ):
        reference.prepare(run, EMPTY, 1)
    assert forwards == []
    filled(run)
    assert reference.prepare(run, EMPTY, 1) is not None
    known = PriorState(
        kind="reference", values={f"prompt/{i}": torch.zeros(3, 1, dtype=torch.float64) for i in range(6)}
    )
    elsewhere = replace(run, config=config(sd3_folder, tmp_path / "none"))
    assert reference.prepare(elsewhere, known, 1) is not None


def test_a_missing_prompt_is_named_and_a_remembered_one_is_not_read(sd3_folder: Path, tmp_path: Path) -> None:
    settings = config(sd3_folder, tmp_path)
    table = filled(parts(settings), [0, 1])
    look_up = reference.table_lookup(settings, World(), table)
    batch = PromptBatch(index=torch.arange(3), texts=TEXTS[:3], metadata=PROMPTS.metadata[:3])
    with pytest.raises(
        ValueError, match=r"1 of 3 prompts .* 'a red cone' \(prompt 2\); type stage=reference"
    ):
        look_up(batch, EMPTY)
    known = PriorState(kind="reference", values={"prompt/2": torch.zeros(3, 1, dtype=torch.float64)})
    reference_scores = look_up(batch, known)
    assert reference_scores is not None
    assert reference_scores.valid.any(1).tolist() == [True, True, False]
    assert torch.equal(reference_scores.term[1], scores(table)[TEXTS[1]].term[0])


def fails_once(images: torch.Tensor, prompts: list[str], metadata: list[dict[str, Any]], where: str) -> list:
    """NaN for everything until a file exists."""
    return [0.5 if Path(where).exists() else None] * len(images)


def test_prompts_without_any_score_are_tried_again(
    sd3_folder: Path, tmp_path: Path, forwards: list[int]
) -> None:
    flag = tmp_path / "flag"
    term = S.RewardTerm(scorer="tests.training.test_reference.fails_once", kwargs={"where": str(flag)})
    run = parts(config(sd3_folder, tmp_path / "cache", reward={"terms": {"odd": term}}))
    table = filled(run, [0])
    assert not scores(table)[TEXTS[0]].valid.any()
    flag.touch()
    filled(run, [0])
    assert scores(table)[TEXTS[0]].valid.all()
    forwards.clear()
    filled(run, [0])
    assert forwards == []


def test_reward_weights_are_those_of_the_run_that_reads(sd3_folder: Path, tmp_path: Path) -> None:
    filled(parts(config(sd3_folder, tmp_path)), [0])
    terms = {"mine": S.RewardTerm(scorer="jpeg_compressibility", weight=-2.0)}
    other = reference_table.open_table(config(sd3_folder, tmp_path, reward={"terms": terms}))
    rewards = other.read(TEXTS[0], PROMPTS.metadata[0])
    assert rewards is not None
    assert (rewards.names, rewards.weights) == (("mine",), (-2.0,))


def brightness(images: torch.Tensor, prompts: list[str], metadata: list[dict[str, Any]]) -> torch.Tensor:
    """Mean of a clip of one frame."""
    assert images.shape[1] == 1
    return images.float().mean((1, 2, 3, 4)) / 255


def test_first_frame_is_the_score_of_the_condition_frame(sd3_folder: Path) -> None:
    term = S.RewardTerm(scorer="tests.training.test_reference.brightness")
    settings = setting.config(
        sd3_folder,
        prior={"kind": "first_frame"},
        trust=RAS,
        reward={"terms": {"bright": term}},
    )
    look_up = reference.saved_lookup(settings, World(), lambda: scorer.build(settings.reward))
    assert look_up is not None
    frames = torch.stack([torch.full((3, 4, 4), value, dtype=torch.uint8) for value in (0, 51, 255)])
    batch = PromptBatch(index=torch.arange(3) + 7, texts=TEXTS[:3], metadata=PROMPTS.metadata[:3])
    state = PriorState(kind="first_frame", values={"prompt/7": torch.zeros(3, 1, dtype=torch.float64)})
    with pytest.raises(ValueError, match=r"prompt 8 \('a red cube'\) has none"):
        look_up(batch, state)
    batch = batch.replace(frames=frames)
    frame_scores = look_up(batch, state)
    assert frame_scores is not None
    assert frame_scores.valid.tolist() == [[False], [True], [True]]
    rewards = Rewards(
        term=torch.full((3, 2, 1), 0.5, dtype=torch.float64),
        names=("bright",),
        weights=(1.0,),
        valid=torch.ones(3, 2, dtype=torch.bool),
        latency=(0.0,),
    )
    trust, after = pipeline.weigh(settings, batch, rewards, state, lambda *_: frame_scores)
    assert trust.anchor_mean is not None
    assert trust.anchor_mean[:, 0].tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert look_up(batch, after) is None


def test_the_stage_alone_then_a_run_then_weigh_alone(
    sd3_folder: Path, tmp_path: Path, forwards: list[int]
) -> None:
    """The whole data set once; the run and a single weigh stage read it."""
    cache, prompts = tmp_path / "cache", tmp_path / "prompts.txt"
    prompts.write_text("\n".join(TEXTS))
    data = {"source": "txt", "path": str(prompts)}
    train = {"steps": 1, "micro_batch": 4, "updates_per_step": 1, "save_records": True}

    def run(name: str, stage: S.Stage, **changes: Any) -> loop.Outcome:
        settings = config(sd3_folder, cache, data=data, train=train, prior={"samples": 2})
        return loop.train(replace(settings, stage=stage, run_dir=str(tmp_path / name), **changes), [])

    assert run("table", S.Stage.reference).exit_code == 0
    assert len(set(forwards)) == 6
    forwards.clear()
    assert run("run", S.Stage.all).exit_code == 0
    assert max(forwards) < 6  # training alone: keys are positions
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["trust/prior_gap"] > 0
    records = tmp_path / "run" / "records"
    folder = archive.step_folder(records, 0)
    before = Trust.load(folder / "trust")
    assert run("weigh", S.Stage.weigh, records=str(records)).exit_code == 0
    assert equal(Trust.load(folder / "trust"), before)
