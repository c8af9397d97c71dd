"""What must hold inside `trust` and `prior`: a prior where one is needed, numbers in range, and no key that
would do nothing.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from rlvis.findings import Finding, mistake
from rlvis.schema import (
    AgreementConfig,
    Combine,
    Config,
    CrtConfig,
    CrtForm,
    PosteriorConfig,
    PriorConfig,
    PriorKind,
    RasConfig,
    Stage,
    TrustConfig,
    TrustKind,
    TrustScale,
)

# Which keys of prior each kind reads; another one that is set would do nothing.
PRIOR_KEYS: dict[PriorKind, set[str]] = {
    PriorKind.none: set(),
    PriorKind.constant: {"value"},
    PriorKind.record: {"field"},
    PriorKind.reference: {"samples", "cache"},
    PriorKind.first_frame: set(),
    PriorKind.moving_average: {"decay", "scope"},
    PriorKind.hierarchical: {"window"},
}
CRT_KEYS: dict[CrtForm, set[str]] = {
    CrtForm.none: set(),
    CrtForm.exp: {"weight", "lam", "monotone"},
    CrtForm.gated: {"gain", "tau"},
}
# Values of data.source whose prompts bring condition frames.
WITH_FRAMES: tuple[str, ...] = ("shapes_i2v", "i2v_pairs")
# Kinds that give a mean and no variance of it.
NO_VARIANCE = (PriorKind.constant, PriorKind.record, PriorKind.first_frame)


def trust_errors(config: Config) -> Iterator[Finding]:
    """What is wrong with trust and prior; keys that do nothing only once the rest holds."""
    trust, prior = config.trust, config.prior
    errors = [
        *_prior(trust, prior, config.stage is Stage.reference),
        *_elsewhere(config),
        *_numbers(trust, prior),
        *_weights(config),
    ]
    yield from errors or _unused(trust, prior)


def _reads_prior(trust: TrustConfig) -> list[str]:
    named = [("trust.kind", trust.kind), ("trust.crt.form", trust.crt.form)]
    return [f"{key}={value.value}" for key, value in named if value.value != "none"]


def _prior(trust: TrustConfig, prior: PriorConfig, only_scores: bool) -> Iterator[Finding]:
    readers = _reads_prior(trust)
    if readers and prior.kind is PriorKind.none:
        yield mistake(
            f"{' and '.join(readers)} with prior.kind=none: rewards are compared with a prior, and there is "
            "none",
            "prior=moving_average (or trust=none)",
        )
    if not readers and prior.kind is not PriorKind.none and not only_scores:
        yield mistake(
            f"prior.kind={prior.kind.value} does nothing with trust.kind=none and trust.crt.form=none, which "
            "compare rewards with no prior",
            "prior=none (or trust=ras)",
        )
    if prior.kind is PriorKind.constant and not _constant(prior.value):
        yield mistake(
            f"prior.value={prior.value} with prior.kind=constant: wanted a number, or a list with one for "
            "each objective",
            "prior.value=0.5",
        )
    if prior.kind is PriorKind.record and not prior.field:
        yield mistake(
            "prior.kind=record reads a number from the prompts' metadata, and prior.field is not set",
            "prior.field=NAME",
        )
    form = _form(trust)
    alone = prior.kind is PriorKind.reference and prior.samples == 1
    if form is not None and form.prior_var is None and (prior.kind in NO_VARIANCE or alone):
        key = f"trust.{trust.kind.value}.prior_var"
        yield mistake(
            f"{key}=null takes the prior's own variance, but prior.kind={prior.kind.value} "
            f"{'with prior.samples=1 ' if alone else ''}has none",
            f"{key}=1",
        )


def _elsewhere(config: Config) -> Iterator[Finding]:
    """Priors whose scores come from other samples than the step's."""
    prior, source = config.prior, config.data.source
    if config.stage is Stage.reference and prior.kind is not PriorKind.reference:
        yield mistake(
            "stage=reference makes the scores that prior.kind=reference reads, and this is "
            f"prior.kind={prior.kind.value}",
            "prior=reference",
        )
    if prior.kind is PriorKind.first_frame and _reads_prior(config.trust) and source not in WITH_FRAMES:
        yield mistake(
            "prior.kind=first_frame scores the frame that a clip starts from, but the prompts of "
            f"data.source={source} bring none (data sources that do: {', '.join(WITH_FRAMES)})",
            "prior.kind=moving_average",
        )
    if prior.kind is PriorKind.reference and not prior.cache:
        yield mistake(
            "prior.cache is empty, and scores are kept in it", "prior.cache=outputs/cache/reference"
        )


def _constant(value: Any) -> bool:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return bool(values) and all(
        isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) for x in values
    )


def _form(trust: TrustConfig) -> PosteriorConfig | AgreementConfig | None:
    """The section of the two forms that are alike."""
    forms: dict[TrustKind, PosteriorConfig | AgreementConfig] = {
        TrustKind.posterior: trust.posterior,
        TrustKind.agreement: trust.agreement,
    }
    return forms.get(trust.kind)


def _numbers(trust: TrustConfig, prior: PriorConfig) -> Iterator[Finding]:
    ras, crt = trust.ras, trust.crt
    for key, value, good, wanted, remedy in (
        ("trust.ras.alpha", ras.alpha, 0 <= ras.alpha <= 1, "0 to 1, or weights turn negative", 0.5),
        ("trust.ras.k", ras.k, 0 <= ras.k < math.inf, "0 or more", 4),
        ("trust.scale_decay", trust.scale_decay, 0 <= trust.scale_decay < 1, "0 or more, and below 1", 0.9),
        ("trust.crt.weight", crt.weight, 0 <= crt.weight < math.inf, "0 or more", 0.5),
        ("trust.crt.lam", crt.lam, 0 <= crt.lam < math.inf, "0 or more", 1),
        ("trust.crt.gain", crt.gain, 0 <= crt.gain < math.inf, "0 or more", 50),
        ("trust.crt.tau", crt.tau, 0 < crt.tau < math.inf, "a number above 0", 5),
        ("prior.decay", prior.decay, 0 <= prior.decay < 1, "0 or more, and below 1", 0.9),
        ("prior.samples", prior.samples, prior.samples >= 1, "at least 1", 8),
        ("prior.window", prior.window, prior.window >= 2, "at least 2, or there is no variance", 256),
    ):
        if not good:
            yield mistake(f"{key}={value}: wanted {wanted}", f"{key}={remedy}")
    for name, form in (("posterior", trust.posterior), ("agreement", trust.agreement)):
        if not 0 <= form.alpha < math.inf:
            yield mistake(f"trust.{name}.alpha={form.alpha}: wanted 0 or more", f"trust.{name}.alpha=1")
        if form.prior_var is not None and not 0 < form.prior_var < math.inf:
            yield mistake(
                f"trust.{name}.prior_var={form.prior_var}: wanted a number above 0, or null for the prior's "
                "own",
                f"trust.{name}.prior_var=1",
            )
        if not 0 <= form.w_min <= form.w_max < math.inf:
            yield mistake(
                f"trust.{name}.w_min={form.w_min}, trust.{name}.w_max={form.w_max}: wanted 0 <= w_min <= "
                "w_max",
                f"trust.{name}.w_min=0.5 trust.{name}.w_max=1.5",
            )


def _weights(config: Config) -> Iterator[Finding]:
    combine = config.advantage.combine
    negative = [name for name, term in config.reward.terms.items() if term.weight < 0]
    if negative and _reads_prior(config.trust) and combine is not Combine.weighted_sum:
        name = negative[0]
        yield mistake(
            f"reward.terms.{name}.weight={config.reward.terms[name].weight} with "
            f"advantage.combine={combine.value}: each reward is trusted by itself there, and trust reads a "
            "high reward as good",
            "advantage.combine=weighted_sum",
        )


def _unused(trust: TrustConfig, prior: PriorConfig) -> Iterator[Finding]:
    """Keys that were set (differ from their default) and that nothing reads."""
    yield from _idle("prior", prior, PRIOR_KEYS[prior.kind] | {"kind"}, f"prior.kind={prior.kind.value}")
    form = f"trust.crt.form={trust.crt.form.value}"
    yield from _idle("trust.crt", trust.crt, CRT_KEYS[trust.crt.form] | {"form"}, form)
    kind = f"trust.kind={trust.kind.value}"
    ras = {"alpha", "k"} if trust.kind is TrustKind.ras else set()
    weighs = trust.crt.form is CrtForm.exp and trust.kind is not TrustKind.none
    needs = kind if trust.kind is TrustKind.none else form
    yield from _idle("trust.ras", trust.ras, ras | {"weight_crt"}, kind)
    if not weighs and trust.ras.weight_crt:
        yield mistake(
            f"trust.ras.weight_crt=true does nothing with {needs}: there is no contrast term to weigh, or no "
            "weight for it",
            "trust.ras.weight_crt=false",
        )
    for name in ("posterior", "agreement"):
        section = getattr(trust, name)
        known = {f.name for f in dataclasses.fields(section)} if trust.kind.value == name else set()
        yield from _idle(f"trust.{name}", section, known, kind)
    if not _reads_prior(trust) and trust.scale is not TrustScale.raw:
        yield mistake(
            f"trust.scale={trust.scale.value} does nothing with {kind} and {form}, which measure no "
            "deviation",
            "trust.scale=raw",
        )
    default = TrustConfig().scale_decay
    if trust.scale is TrustScale.raw and trust.scale_decay != default:
        yield mistake(
            f"trust.scale_decay={trust.scale_decay} does nothing with trust.scale=raw",
            f"trust.scale_decay={default}",
        )


def _idle(
    section: str,
    node: PriorConfig | CrtConfig | RasConfig | PosteriorConfig | AgreementConfig,
    read: set[str],
    because: str,
) -> Iterator[Finding]:
    """One message for each key of a section that is set and not in `read`."""
    fresh = type(node)()
    for field in dataclasses.fields(node):
        value, default = getattr(node, field.name), getattr(fresh, field.name)
        if field.name not in read and value != default:
            key = f"{section}.{field.name}"
            yield mistake(f"{key}={_typed(value)} does nothing with {because}", f"{key}={_typed(default)}")


def _typed(value: Any) -> str:
    """A value as it is typed."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(getattr(value, "value", value))
