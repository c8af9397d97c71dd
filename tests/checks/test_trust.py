"""Rules between trust, prior and rewards: each is found alone, and what it says to type is accepted."""

from __future__ import annotations

import itertools
import shlex

import pytest

from rlvis.checks.config import check
from rlvis.compose.command import compose

RAS = ["trust=ras", "prior=moving_average"]
SPLIT = ["reward=[coverage,jpeg]", "reward.terms.jpeg.weight=-0.5", "advantage.combine=gdpo"]
MISTAKES = [
    (["trust=ras"], "trust.kind=ras with prior.kind=none"),
    (["trust=bpgo"], "trust.kind=ras and trust.crt.form=exp with prior.kind=none"),
    (["trust.crt.form=gated"], "trust.crt.form=gated with prior.kind=none"),
    (["trust=ras", "prior.kind=first_frame"], "data.source=shapes bring none"),
    (["stage=reference"], "this is prior.kind=none"),
    (["stage=reference", *RAS], "this is prior.kind=moving_average"),
    (["stage=reference", "prior=reference", "records=DIR"], "records=DIR does nothing"),
    (["trust=ras", "prior=reference", "prior.samples=0"], "prior.samples=0"),
    (["trust=ras", "prior=reference", "prior.cache=''"], "prior.cache='': wanted text that is not empty"),
    ([*RAS, "prior.cache=DIR"], "prior.cache=DIR does nothing"),
    (
        ["trust=posterior", "prior=reference", "prior.samples=1", "trust.posterior.prior_var=null"],
        "with prior.samples=1 has none",
    ),
    (["trust=ras", "prior=constant"], "prior.value=null"),
    (["trust=ras", "prior=constant", "prior.value=high"], "prior.value=high"),
    (["trust=ras", "prior=record"], "prior.field is not set"),
    (["trust=posterior", "prior=constant", "prior.value=1", "trust.posterior.prior_var=null"], "has none"),
    (["trust=agreement", "prior=record", "prior.field=f", "trust.agreement.prior_var=null"], "has none"),
    ([*RAS, "trust.ras.alpha=1.5"], "trust.ras.alpha=1.5: wanted at most 1"),
    ([*RAS, "trust.ras.k=-1"], "trust.ras.k=-1"),
    ([*RAS, "trust.scale_decay=1"], "trust.scale_decay=1"),
    ([*RAS, "prior.decay=1"], "prior.decay=1"),
    (["trust=ras", "prior=hierarchical", "prior.window=1"], "prior.window=1"),
    (["advantage=bpgo", "trust.crt.weight=-1"], "trust.crt.weight=-1"),
    (["advantage=bpgo", "trust.crt.lambda=-1"], "trust.crt.lam=-1"),
    (["advantage=bpgo_released", "trust.crt.tau=0"], "trust.crt.tau=0"),
    (
        ["trust=posterior", "prior=moving_average", "trust.posterior.prior_var=0"],
        "trust.posterior.prior_var=0: wanted above 0",
    ),
    (["trust=posterior", "prior=moving_average", "trust.posterior.w_min=2"], "wanted w_min <= w_max"),
    (["trust=agreement", "prior=moving_average", "trust.agreement.alpha=-1"], "trust.agreement.alpha=-1"),
    ([*SPLIT, *RAS], "trust reads a high reward as good"),
    (["prior.decay=0.5"], "prior.decay=0.5 does nothing with prior.kind=none"),
    ([*RAS, "prior.value=0.5"], "prior.value=0.5 does nothing"),
    (["trust=ras", "prior=hierarchical", "prior.scope=prompt"], "prior.scope=prompt does nothing"),
    ([*RAS, "trust.crt.lam=2"], "trust.crt.lam=2 does nothing with trust.crt.form=none"),
    (["advantage=bpgo", "trust.crt.gain=5"], "trust.crt.gain=5 does nothing with trust.crt.form=exp"),
    (["advantage=bpgo_released", "trust.crt.monotone=true"], "trust.crt.monotone=true does nothing"),
    (["advantage=bpgo", "trust=posterior", "trust.ras.k=1"], "trust.ras.k=1 does nothing"),
    ([*RAS, "trust.posterior.alpha=2"], "trust.posterior.alpha=2 does nothing"),
    ([*RAS, "trust.ras.weight_crt=true"], "does nothing with trust.crt.form=none"),
    (["advantage=bpgo", "trust.kind=none", "trust.ras.weight_crt=true"], "does nothing with trust.kind=none"),
    (["trust.scale=running_std"], "trust.scale=running_std does nothing"),
    ([*RAS, "trust.scale=raw", "trust.scale_decay=0.5"], "does nothing with trust.scale=raw"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_contradiction_is_found_alone_and_says_what_to_type(words: list[str], message: str) -> None:
    (error,) = check(compose(words).typed())
    assert message in error.what
    shown = itertools.takewhile(lambda word: "=" in word, shlex.split(error.type))
    remedy = [word.rstrip(",") for word in shown]
    named = {word.split("=")[0] for word in remedy}
    kept = [word for word in words if word.replace("lambda", "lam").split("=")[0] not in named]
    assert check(compose([*kept, *remedy]).typed()) == [], remedy


BPGO = ["advantage=bpgo"]


@pytest.mark.parametrize(
    "words",
    [
        BPGO,
        ["advantage=bpgo_released"],
        [*BPGO, "trust=none", "prior=none"],
        [*BPGO, "trust.crt.form=none"],
        [*BPGO, "trust.kind=none"],
        [*BPGO, "trust.ras.alpha=0", "trust.crt.weight=0"],
        [*BPGO, "trust.ras.weight_crt=true", "trust.crt.monotone=true", "trust.crt.lambda=50"],
        [*BPGO, "prior=hierarchical", "prior.window=10"],
        [*BPGO, "trust=posterior", "trust.posterior.prior_var=null", "prior.scope=prompt"],
        ["trust=ras", "prior=reference", "prior.samples=4", "prior.cache=DIR"],
        [
            "trust=ras",
            "prior=first_frame",
            "model=tiny_video",
            "model.condition=first_frame",
            "data=shapes_i2v",
        ],
        ["stage=reference", "prior=reference"],
        ["stage=reference", *BPGO, "prior=reference"],
        [*SPLIT, "trust=ras", "prior=moving_average", "advantage.combine=weighted_sum"],
    ],
)
def test_what_can_run(words: list[str]) -> None:
    assert check(compose(words).typed()) == []


def test_bpgo_without_its_trust_and_prior_is_grpo() -> None:
    plain = compose(["advantage=grpo"]).typed()
    assert compose([*BPGO, "trust=none", "prior=none"]).typed() == plain
    assert compose(["prior=none", "trust=none", *BPGO]).typed() == plain


def test_what_bpgo_brings() -> None:
    config = compose(BPGO).typed()
    trust, prior = config.trust, config.prior
    assert (trust.kind, trust.scale.value, trust.ras.alpha, trust.ras.k) == (
        "ras",
        "running_std",
        0.5,
        4.0,
    )
    assert (trust.crt.form.value, trust.crt.lam, trust.crt.weight) == ("exp", 1.0, 0.5)
    assert (prior.kind, prior.decay, prior.scope.value) == ("moving_average", 0.9, "global")
    assert config.advantage == compose([]).typed().advantage
    typed = compose([*BPGO, "advantage.adv_clip=3", "trust.crt.lambda=2", "prior.decay=0.5"]).typed()
    assert (typed.advantage.adv_clip, typed.trust.crt.lam, typed.prior.decay) == (3.0, 2.0, 0.5)


def test_the_release_s_numbers() -> None:
    config = compose(["advantage=bpgo_released"]).typed()
    form, crt = config.trust.posterior, config.trust.crt
    assert (config.trust.kind, config.trust.scale.value) == ("posterior", "raw")
    assert (form.alpha, form.prior_var, form.w_min, form.w_max) == (1.0, 1.0, 0.5, 1.5)
    assert (crt.form.value, crt.gain, crt.tau, config.advantage.preset.value) == ("gated", 50.0, 5.0, "dance")
