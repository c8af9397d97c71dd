"""Records: pieces join to the whole, files hold every bit, errors name field, wanted and got."""

import dataclasses
import doctest
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvis import records
from rlvis.record_base import Record, equal
from rlvis.records import (
    Advantages,
    PolicyUpdate,
    PriorState,
    PromptBatch,
    RewardHistory,
    Rewards,
    Schedule,
    Trajectories,
    Trust,
)

Draw = Callable[[st.SearchStrategy[Any]], Any]
SIZE = st.integers(1, 3)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
METADATA = st.dictionaries(st.text(), JSON, max_size=2)
NAMES = st.text(min_size=1, max_size=5)


def values(draw: Draw, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random numbers of any dtype from a drawn seed."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    return torch.randint(0, 2 if dtype == torch.bool else 200, shape, generator=generator).to(dtype)


def maybe(draw: Draw, value: Tensor) -> Tensor | None:
    return value if draw(st.booleans()) else None


@st.composite
def schedules(draw: Draw) -> Schedule:
    steps = draw(st.integers(2, 5))
    sigma = torch.linspace(1, 0, steps + 1)
    return Schedule(sigma=sigma, alpha=1 - sigma, time=sigma[:-1] * 1000)


@st.composite
def prompt_batches(draw: Draw) -> PromptBatch:
    n = draw(st.integers(1, 5))
    embeds = {
        key: values(draw, n, *draw(st.lists(SIZE, max_size=2)), dtype=draw(st.sampled_from(FLOATS)))
        for key in draw(st.lists(NAMES, max_size=3, unique=True))
    }
    return PromptBatch(
        index=values(draw, n, dtype=torch.int64),
        texts=tuple(draw(st.lists(st.text(), min_size=n, max_size=n))),
        metadata=tuple(draw(st.lists(METADATA, min_size=n, max_size=n))),
        embeds=embeds,
        frames=maybe(draw, values(draw, n, 3, 2, 4, dtype=torch.uint8)),
    )


FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@st.composite
def trajectories(draw: Draw) -> Trajectories:
    n, s, c, f, h, w = draw(st.integers(1, 5)), *(draw(SIZE) for _ in range(5))
    schedule = draw(schedules())
    kept = draw(st.integers(2, 4))
    return Trajectories(
        prompt=values(draw, n, dtype=torch.int64),
        sample=values(draw, n, dtype=torch.int64),
        at=values(draw, n, s, dtype=torch.int64) % (kept - 1),
        step=values(draw, n, s, dtype=torch.int64) % schedule.steps,
        states=values(draw, n, kept, c, f, h, w, dtype=draw(st.sampled_from(FLOATS))),
        logprob=values(draw, n, s, f, h, w, dtype=torch.float32),
        free=values(draw, f, h, w, dtype=torch.bool).float(),
        media=maybe(draw, values(draw, n, f, 3, 2, 4, dtype=torch.uint8)),
        schedule=schedule,
        channel_reduction=draw(st.sampled_from(["mean", "sum"])),
        seed=draw(st.integers(0, 2**63)),
        policy_step=draw(st.integers(0, 10**6)),
    )


@st.composite
def rewards(draw: Draw) -> Rewards:
    p, k, r = draw(st.integers(1, 5)), draw(SIZE), draw(SIZE)
    valid = values(draw, p, k, dtype=torch.bool)
    bad = draw(st.sampled_from([math.nan, math.inf, -math.inf, -0.0]))
    return Rewards(
        term=torch.where(valid[..., None], values(draw, p, k, r), bad),
        names=tuple(draw(st.lists(NAMES, min_size=r, max_size=r))),
        weights=tuple(draw(st.lists(st.floats(), min_size=r, max_size=r))),
        valid=valid,
        noise_var=maybe(draw, values(draw, p, k, r)),
        noise_dof=maybe(draw, values(draw, p, k, r)),
        latency=tuple(draw(st.lists(st.floats(0, 1e6), min_size=r, max_size=r))),
    )


@st.composite
def named(draw: Draw) -> dict[str, Tensor]:
    keys = draw(st.lists(NAMES, max_size=4, unique=True))
    return {key: values(draw, *draw(st.lists(st.integers(0, 3), max_size=3))) for key in keys}


@st.composite
def trusts(draw: Draw) -> Trust:
    p, k, q = draw(st.integers(1, 5)), draw(SIZE), draw(SIZE)
    anchors = {f"anchor_{name}": maybe(draw, values(draw, p, q)) for name in ("mean", "var", "count")}
    anchors["contrast_share"] = maybe(draw, values(draw, p, q))
    return Trust(
        weight=values(draw, p, q),
        contrast=maybe(draw, values(draw, p, k, q)),
        contrast_replaces=draw(st.booleans()),
        **anchors,
    )


@st.composite
def advantages(draw: Draw, mapped: bool | None = None) -> Advantages:
    a, p, k, n = draw(SIZE), draw(SIZE), draw(SIZE), draw(st.integers(1, 5))
    mapped = draw(st.booleans()) if mapped is None else mapped
    local = draw(st.sampled_from(["map", "field"])) if mapped else None
    weights = values(draw, n, 1, 2, 2, dtype=torch.float32).abs()
    return Advantages(
        term=values(draw, a, p, k),
        coef=values(draw, a),
        names=tuple(draw(st.lists(NAMES, min_size=a, max_size=a))),
        keep=values(draw, p, k, dtype=torch.bool),
        map=weights if local == "map" else None,
        field=values(draw, a, n, 1, 2, 2, dtype=torch.float32) if local == "field" else None,
    )


UPDATES = st.builds(
    PolicyUpdate, policy_step=st.integers(0, 10**6), metrics=st.dictionaries(NAMES, st.floats(), max_size=4)
)
PRIORS = st.builds(PriorState, kind=NAMES, values=named())
HISTORIES = st.builds(RewardHistory, values=named())
WITH_ROWS = st.one_of(prompt_batches(), trajectories(), rewards(), trusts(), advantages(mapped=True))
ANY = st.one_of(WITH_ROWS, advantages(mapped=False), schedules(), PRIORS, HISTORIES, UPDATES)
EXAMPLES = settings(max_examples=60, deadline=None)


def axes_of(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    return field.metadata.get("axes", ())


def tensors_of(record: Record) -> dict[str, tuple[dataclasses.Field[Any], Tensor]]:
    """Every tensor in a record with the field that declares it (nested records left out)."""
    tensors = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        for key, item in (value if isinstance(value, dict) else {"": value}).items():
            if isinstance(item, Tensor):
                tensors[f"{field.name} {key}"] = (field, item)
    return tensors


def test_every_record_class_is_drawn_here() -> None:
    classes = {c for c in vars(records).values() if isinstance(c, type) and issubclass(c, Record)} - {Record}
    with_rows = {PromptBatch, Trajectories, Rewards, Trust, Advantages}
    assert classes == with_rows | {Schedule, PriorState, RewardHistory, PolicyUpdate}
    assert {c for c in classes if c.row_axis != "-"} == with_rows


def test_examples_in_the_docstrings_hold() -> None:
    result = doctest.testmod(records)
    assert result.failed == 0
    assert result.attempted >= 9


@EXAMPLES
@given(record=WITH_ROWS, size=st.integers(1, 6))
def test_pieces_join_to_the_whole(record: Record, size: int) -> None:
    pieces = record.split(size)
    assert [piece.rows for piece in pieces[:-1]] == [size] * (len(pieces) - 1)
    assert 1 <= pieces[-1].rows <= size
    assert equal(type(record).concatenate(pieces), record)


@EXAMPLES
@given(record=WITH_ROWS, data=st.data())
def test_take_picks_rows_by_position_in_order_and_more_than_once(record: Record, data: st.DataObject) -> None:
    index = data.draw(st.lists(st.integers(0, record.rows - 1), max_size=6))
    taken = record.take(torch.tensor(index) if index and data.draw(st.booleans()) else index)
    assert taken.rows == len(index)
    after = tensors_of(taken)
    for label, (field, before) in tensors_of(record).items():
        if record.row_axis not in axes_of(field):
            assert after[label][1] is before
            continue
        axis = axes_of(field).index(record.row_axis)
        assert after[label][1].shape[axis] == len(index)
        for new, old in enumerate(index):
            torch.testing.assert_close(
                after[label][1].select(axis, new), before.select(axis, old), rtol=0, atol=0, equal_nan=True
            )
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.metadata.get("rows") == record.row_axis:
            assert getattr(taken, field.name) == tuple(value[i] for i in index)
        elif "axes" not in field.metadata:
            assert getattr(taken, field.name) is value


def test_a_trust_of_before_contrasts_had_shares_is_read(tmp_path: Path) -> None:
    """Files without the field: its share is None, which counts as ones."""
    saved = Trust(weight=TERM[:, 0], contrast=TERM, contrast_replaces=False)
    saved.save(tmp_path / "trust")
    document = json.loads((tmp_path / "trust.json").read_text())
    document["fields"].pop("contrast_share", None)
    (tmp_path / "trust.json").write_text(json.dumps(document))
    assert equal(Trust.load(tmp_path / "trust"), saved)


@EXAMPLES
@given(record=ANY)
def test_files_hold_every_bit(record: Record) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made" / "on.demand"
        record.save(path)
        assert sorted(p.name for p in path.parent.iterdir()) == ["on.demand.json", "on.demand.safetensors"]
        loaded = type(record).load(path)
    assert type(loaded) is type(record)
    assert equal(loaded, record)


@EXAMPLES
@given(record=ANY, data=st.data())
def test_equal_sees_every_single_change(record: Record, data: st.DataObject) -> None:
    assert equal(record, record.replace())
    field = data.draw(st.sampled_from(dataclasses.fields(record)))
    value = getattr(record, field.name)
    changed = _changed(value)
    if changed is None:
        return
    copy = record.replace()
    object.__setattr__(copy, field.name, changed)  # past the checks: the change need not make sense
    assert not equal(record, copy)
    assert not equal(copy, record)


def _changed(value: Any) -> Any:
    """The value with one bit, item or letter changed; None where there is nothing to change."""
    match value:
        case Tensor():
            if not value.numel():
                return value.to(torch.complex64)
            raw = value.contiguous().reshape(-1).view(torch.uint8).clone()
            raw[-1] ^= 1
            return raw.view(value.dtype).reshape(value.shape)
        case Schedule():
            return value.replace(time=_changed(value.time))
        case dict():
            return {
                key: 0.125 if isinstance(item, float) else _changed(item) for key, item in value.items()
            } or None
        case tuple():
            return (*value, "one more")
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return value + "x"
        case None:
            return torch.zeros(1)


def test_equal_tells_signed_zeros_types_and_records_apart_and_knows_nan() -> None:
    def prior(value: float, dtype: torch.dtype = torch.float64) -> PriorState:
        return PriorState(kind="a", values={"x": torch.tensor([value], dtype=dtype)})

    assert equal(prior(math.nan), prior(math.nan))
    assert not equal(prior(0.0), prior(-0.0))
    assert not equal(prior(1.0), RewardHistory(values=prior(1.0).values))

    def update(value: object) -> PolicyUpdate:
        return PolicyUpdate(policy_step=1, metrics={"x": value})  # type: ignore[dict-item]

    assert equal(update(math.nan), update(math.nan))
    assert not equal(update(0.0), update(-0.0))
    assert not equal(update(1), update(1.0))
    assert not equal(update(True), update(1))


SIGMA = torch.tensor([1.0, 0.5, 0.0])
SCHEDULE = Schedule(sigma=SIGMA, alpha=1 - SIGMA, time=SIGMA[:-1] * 1000)
PROMPTS = {"index": torch.arange(2), "texts": ("a", "b"), "metadata": ({}, {})}
ROWS: dict[str, Any] = {
    "prompt": torch.zeros(2, dtype=torch.int64),
    "sample": torch.arange(2),
    "states": torch.zeros(2, 2, 4, 1, 8, 8),
    "at": torch.zeros(2, 1, dtype=torch.int64),
    "step": torch.zeros(2, 1, dtype=torch.int64),
    "logprob": torch.zeros(2, 1, 1, 8, 8),
    "free": torch.ones(1, 8, 8),
    "schedule": SCHEDULE,
    "channel_reduction": "mean",
    "seed": 0,
    "policy_step": 0,
}
TERM = torch.zeros(2, 3, 1, dtype=torch.float64)
SCORES: dict[str, Any] = {
    "term": TERM,
    "names": ("x",),
    "weights": (1.0,),
    "valid": torch.ones(2, 3, dtype=torch.bool),
    "latency": (0.0,),
}
TERMS: dict[str, Any] = {
    "term": torch.zeros(1, 2, 3, dtype=torch.float64),
    "coef": torch.ones(1, dtype=torch.float64),
    "names": ("grpo",),
    "keep": torch.ones(2, 3, dtype=torch.bool),
}


@pytest.mark.parametrize(
    ("kind", "fields", "change", "message"),
    [
        (
            PromptBatch,
            PROMPTS,
            {"index": torch.zeros(2)},
            r"PromptBatch\.index: wanted dtype torch\.int64, got torch\.float32",
        ),
        (PromptBatch, PROMPTS, {"index": None}, r"PromptBatch\.index: wanted a tensor, got NoneType"),
        (PromptBatch, PROMPTS, {"index": [0, 1]}, r"PromptBatch\.index: wanted a tensor, got list"),
        (
            PromptBatch,
            PROMPTS,
            {"texts": ("a",)},
            r"PromptBatch\.texts: wanted shape \[P=2\] \(P comes from index\), got \[1\]",
        ),
        (
            PromptBatch,
            PROMPTS,
            {"embeds": {"text": torch.zeros(3, 4)}},
            r"embeds\['text'\]: wanted shape \[P=2, \.\.\.\] \(P comes from index\), got \[3, 4\]",
        ),
        (
            PromptBatch,
            PROMPTS,
            {"embeds": {"text": None}},
            r"PromptBatch\.embeds\['text'\]: wanted a tensor, got NoneType",
        ),
        (
            PromptBatch,
            PROMPTS,
            {"embeds": {"mask": torch.ones(2, 4, dtype=torch.bool)}},
            r"embeds\['mask'\]: wanted dtype of numbers, got torch\.bool",
        ),
        (
            PromptBatch,
            PROMPTS,
            {"embeds": {"text": torch.zeros(())}},
            r"embeds\['text'\]: wanted shape \[P=2, \.\.\.\], got \[\]",
        ),
        (
            PromptBatch,
            PROMPTS,
            {"frames": torch.zeros(2, 4, 8, 8, dtype=torch.uint8)},
            r"PromptBatch\.frames: wanted shape \[P=2, 3, Y, X\], got \[2, 4, 8, 8\]",
        ),
        (
            Schedule,
            {"time": torch.zeros(2), "sigma": SIGMA, "alpha": SIGMA},
            {"sigma": torch.zeros(2)},
            r"Schedule\.sigma: wanted shape \[T\+1=3\] \(T\+1 comes from time\), got \[2\]",
        ),
        (
            Trajectories,
            ROWS,
            {"free": torch.ones(8, 8)},
            r"Trajectories\.free: wanted shape \[F=1, H=8, W=8\], got \[8, 8\]",
        ),
        (
            Trajectories,
            ROWS,
            {"logprob": torch.zeros(2, 3, 1, 8, 8)},
            r"logprob: wanted shape \[N=2, S=1, F=1, H=8, W=8\] \(S comes from at\), got \[2, 3, 1, 8, 8\]",
        ),
        (Trajectories, ROWS, {"states": None}, r"Trajectories\.states: wanted a tensor, got NoneType"),
        (
            Trajectories,
            ROWS,
            {"at": torch.tensor([[0], [1]])},
            r"Trajectories\.at: wanted 0\.\.0 \(2 kept states\), got 0\.\.1",
        ),
        (
            Trajectories,
            ROWS,
            {"at": torch.tensor([[-1], [0]])},
            r"Trajectories\.at: wanted 0\.\.0 .*, got -1\.\.0",
        ),
        (
            Trajectories,
            ROWS,
            {"step": torch.tensor([[0], [2]])},
            r"Trajectories\.step: wanted 0\.\.1 \(2 steps\), got 0\.\.2",
        ),
        (
            Trajectories,
            ROWS,
            {"channel_reduction": "max"},
            r"channel_reduction: wanted mean or sum, got 'max'",
        ),
        (
            Rewards,
            SCORES,
            {"names": ("x", "y")},
            r"Rewards\.names: wanted shape \[R=1\] \(R comes from term\), got \[2\]",
        ),
        (
            Rewards,
            SCORES,
            {"term": TERM.float()},
            r"Rewards\.term: wanted dtype torch\.float64, got torch\.float32",
        ),
        (
            Rewards,
            SCORES,
            {
                "term": TERM.index_put(
                    (torch.tensor(1), torch.tensor(2), torch.tensor(0)), torch.tensor(math.nan).double()
                )
            },
            r"Rewards\.valid: 1 samples .* not finite, the first at prompt 1, sample 2: \[nan\]",
        ),
        (
            Trust,
            {"weight": TERM[:, 0], "contrast_replaces": False},
            {"contrast": TERM[:1]},
            r"Trust\.contrast: wanted shape \[P=2, K, Q=1\]",
        ),
        (
            Trust,
            {"weight": TERM[:, 0], "contrast_replaces": False},
            {"weight": None},
            r"Trust\.weight: wanted a tensor, got NoneType",
        ),
        (
            PriorState,
            {"kind": "none"},
            {"values": {"x": torch.zeros(1)}},
            r"PriorState\.values\['x'\]: wanted dtype torch\.float64",
        ),
        (
            RewardHistory,
            {},
            {"values": {"4": [0.5]}},
            r"RewardHistory\.values\['4'\]: wanted a tensor, got list",
        ),
        (
            Advantages,
            TERMS,
            {"coef": torch.ones(2, dtype=torch.float64)},
            r"Advantages\.coef: wanted shape \[A=1\] \(A comes from term\), got \[2\]",
        ),
        (
            Advantages,
            TERMS,
            {"term": TERMS["term"] + math.inf},
            r"Advantages\.term: some values are not finite",
        ),
        (
            Advantages,
            TERMS,
            {"map": torch.full((2, 1, 2, 2), -0.5)},
            r"Advantages\.map: wanted finite values >= 0, got a minimum of -0\.5",
        ),
        (
            Advantages,
            TERMS,
            {"map": torch.full((2, 1, 2, 2), math.nan)},
            r"Advantages\.map: wanted finite values",
        ),
        (
            Advantages,
            TERMS,
            {"field": torch.full((1, 2, 1, 2, 2), math.nan)},
            r"Advantages\.field: some values are not finite",
        ),
        (
            Advantages,
            TERMS,
            {"field": torch.ones(2, 2, 1, 2, 2)},
            r"Advantages\.field: wanted shape \[A=1, N, F, H, W\]",
        ),
        (
            Advantages,
            TERMS,
            {"field": -torch.ones(1, 2, 1, 2, 2), "map": torch.ones(2, 1, 2, 2)},
            r"Advantages\.field: .*wanted map=None",
        ),
    ],
)
def test_a_wrong_field_is_named_with_what_was_wanted_and_got(
    kind: type[Record], fields: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    kind(**fields)
    with pytest.raises(ValueError, match=message):
        kind(**fields | change)
    with pytest.raises(ValueError, match=message):
        kind(**fields).replace(**change)


def test_an_invalid_score_may_be_anything() -> None:
    term = torch.full((2, 3, 1), math.nan, dtype=torch.float64)
    assert Rewards(**SCORES | {"term": term, "valid": torch.zeros(2, 3, dtype=torch.bool)}).rows == 2


def test_records_are_frozen_slotted_and_take_keywords_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SCHEDULE.time = SIGMA  # type: ignore[misc]
    assert not hasattr(SCHEDULE, "__dict__")
    with pytest.raises(TypeError):
        Schedule(SIGMA, SIGMA, SIGMA)  # type: ignore[misc]


def test_pieces_that_do_not_belong_together_are_refused() -> None:
    one = Trajectories(**ROWS)
    media = torch.zeros(2, 1, 3, 4, 4, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"Trajectories\.policy_step differs between parts"):
        Trajectories.concatenate([one, one.replace(policy_step=1)])
    other = SCHEDULE.replace(time=SIGMA[:-1] * 999)
    with pytest.raises(ValueError, match=r"Trajectories\.schedule differs between parts"):
        Trajectories.concatenate([one, one.replace(schedule=other)])
    with pytest.raises(ValueError, match=r"Trajectories\.media is missing in some parts only"):
        Trajectories.concatenate([one, one.replace(media=media)])
    prompts = PromptBatch(**PROMPTS)
    with pytest.raises(ValueError, match=r"PromptBatch\.embeds: the parts have different keys"):
        PromptBatch.concatenate([prompts, prompts.replace(embeds={"text": torch.zeros(2, 4)})])
    with pytest.raises(ValueError, match=r"Trajectories\.concatenate: nothing to join"):
        Trajectories.concatenate([])


def test_rows_are_asked_of_records_that_have_them() -> None:
    with pytest.raises(ValueError, match=r"the size must be at least 1, got 0"):
        Trajectories(**ROWS).split(0)
    with pytest.raises(ValueError, match=r"wanted positions, got a mask"):
        Trajectories(**ROWS).take(torch.tensor([True, False]))
    with pytest.raises(ValueError, match=r"Schedule has no rows"):
        SCHEDULE.split(1)
    with pytest.raises(ValueError, match=r"Advantages has no rows: none of its fields has an axis N"):
        _ = Advantages(**TERMS).rows
    scores = Rewards(**SCORES)
    assert [piece.names for piece in scores.split(1)] == [("x",), ("x",)]  # no row axis: kept
    assert scores.take([]).split(2) == []


def test_fields_that_share_memory_are_saved_and_views_only_by_their_own_part(tmp_path: Path) -> None:
    whole = torch.arange(24.0, dtype=torch.float64).view(4, 3, 2)
    overlapping = Rewards(
        term=whole[1:3],
        names=("x", "y"),
        weights=(1.0, 0.5),
        valid=torch.ones(1, 1, dtype=torch.bool).expand(2, 3),
        noise_var=whole[1:3],
        noise_dof=whole[2:4],
        latency=(0.0, 0.0),
    )
    overlapping.save(tmp_path / "rewards")
    assert equal(Rewards.load(tmp_path / "rewards"), overlapping)
    assert (tmp_path / "rewards.safetensors").stat().st_size < 3 * 12 * 8 + 1000


def test_loading_what_is_not_there_or_something_else_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no Schedule at .*s\.json does not exist; run the stage"):
        Schedule.load(tmp_path / "s")
    SCHEDULE.save(tmp_path / "s")
    with pytest.raises(ValueError, match=r"s\.json holds a Schedule, wanted a Trust"):
        Trust.load(tmp_path / "s")
    (tmp_path / "s.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no Schedule at .*s\.safetensors does not exist"):
        Schedule.load(tmp_path / "s")


def test_a_file_that_lost_a_tensor_is_not_a_record(tmp_path: Path) -> None:
    PriorState(kind="none", values={}).save(tmp_path / "s")
    side = tmp_path / "s.json"
    side.write_text(json.dumps({"record": "Schedule", "fields": {}}))
    with pytest.raises(ValueError, match=r"Schedule\.time: wanted a tensor, got NoneType"):
        Schedule.load(tmp_path / "s")
