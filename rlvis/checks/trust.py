"""What must hold between `trust`, `prior` and the rest: a prior where one is needed, with what its reader
needs, and no key that would do nothing. What is particular about a prior or a trust, its own class says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rlvis.findings import ConfigError, Finding, mistake
from rlvis.schema import Combine, Config, CrtForm, PriorConfig, Stage, StdScope, TrustConfig, TrustScale
from rlvis.schema.key import text

if TYPE_CHECKING:
    from rlvis.trust.form import Form
    from rlvis.trust.prior import Prior

# Values of data.source whose prompts bring condition frames.
WITH_FRAMES: tuple[str, ...] = ("shapes_i2v", "i2v_pairs")


def trust_errors(config: Config) -> Iterator[Finding]:
    """What is wrong with trust and prior; keys that do nothing only once the rest holds."""
    errors = [*_readers(config), *_bounds(config.trust), *_weights(config), *_undivided(config)]
    prior: Prior | None = None
    try:
        prior, form = _made(config)
    except ConfigError as error:
        errors += error.findings
    else:
        errors += [*_elsewhere(config, prior), *_variance(config, prior, form)]
    yield from errors or _unused(config.trust, config.prior, prior)


def without_unread_prior(config: Config) -> Config:
    """`config` without its prior where no trust reads it: a recipe's prior beside advantage=grpo is no
    mistake, and is not computed. stage=reference makes the scores of a prior and needs no reader.
    """
    read = _reads_prior(config.trust) or config.stage is Stage.reference
    if read or config.prior.kind == "none":
        return config
    return dataclasses.replace(config, prior=PriorConfig())


def _made(config: Config) -> tuple[Prior | None, Form | None]:
    """The prior and the trust of a configuration, None for `none`. Raises ConfigError as they do."""
    prior = form = None
    if config.prior.kind != "none":
        from rlvis.trust.prior import prior_of

        prior = prior_of(config.prior)
    if config.trust.kind != "none":
        from rlvis.trust.form import form_of

        form = form_of(config.trust)
    return prior, form


def _reads_prior(trust: TrustConfig) -> list[str]:
    named = [("trust.kind", trust.kind), ("trust.crt.form", trust.crt.form)]
    return [f"{key}={value}" for key, value in named if value != "none"]


def _readers(config: Config) -> Iterator[Finding]:
    readers = _reads_prior(config.trust)
    if readers and config.prior.kind == "none":
        yield mistake(
            f"{' and '.join(readers)} with prior.kind=none: rewards are compared with a prior, and there is "
            "none",
            "prior=moving_average (or trust=none)",
        )


def _variance(config: Config, prior: Prior | None, form: Form | None) -> Iterator[Finding]:
    """A trust that reads the prior's own variance."""
    if prior is None or prior.has_variance or not getattr(form, "needs_variance", False):
        return
    kind, alone = config.trust.kind, "with prior.samples=1 " if prior.looks_up == "reference" else ""
    none = f"takes the prior's own variance, but prior.kind={config.prior.kind} {alone}has none"
    if hasattr(getattr(config.trust, kind, None), "prior_var"):
        yield mistake(f"trust.{kind}.prior_var=null {none}", f"trust.{kind}.prior_var=1")
    else:
        yield mistake(f"trust.kind={kind} {none}", "prior=moving_average")


def _elsewhere(config: Config, prior: Prior | None) -> Iterator[Finding]:
    """Priors whose scores come from other samples than the step's."""
    kind, source = config.prior.kind, config.data.source
    looks_up = None if prior is None else prior.looks_up
    if config.stage is Stage.reference and looks_up != "reference":
        yield mistake(
            "stage=reference makes the scores of the policy before training that a prior such as "
            f"prior.kind=reference reads, and this is prior.kind={kind}",
            "prior=reference",
        )
    if looks_up == "first_frame" and _reads_prior(config.trust) and source not in WITH_FRAMES:
        yield mistake(
            f"prior.kind={kind} scores the frame that a clip starts from, but the prompts of "
            f"data.source={source} bring none (data sources that do: {', '.join(WITH_FRAMES)})",
            "prior.kind=moving_average",
        )


def _sections(trust: TrustConfig) -> Iterator[tuple[str, Any]]:
    """(name, section) of the forms that have keys."""
    for field in dataclasses.fields(trust):
        section = getattr(trust, field.name)
        if dataclasses.is_dataclass(section) and field.name != "crt":
            yield field.name, section


def _bounds(trust: TrustConfig) -> Iterator[Finding]:
    for name, section in _sections(trust):
        low, high = getattr(section, "w_min", 0.0), getattr(section, "w_max", 0.0)
        if low > high:
            yield mistake(
                f"trust.{name}.w_min={low}, trust.{name}.w_max={high}: wanted w_min <= w_max",
                f"trust.{name}.w_min=0.5 trust.{name}.w_max=1.5",
            )


def _weights(config: Config) -> Iterator[Finding]:
    combine = config.advantage.combine
    negative = [name for name, term in config.reward.terms.items() if term.weight < 0]
    if negative and _reads_prior(config.trust) and combine is not Combine.weighted_sum:
        name = negative[0]
        yield mistake(
            f"reward.terms.{name}.weight={config.reward.terms[name].weight} with "
            f"advantage.combine={combine}: each reward is trusted by itself there, and trust reads a "
            "high reward as good",
            "advantage.combine=weighted_sum",
        )


def _undivided(config: Config) -> Iterator[Finding]:
    """A contrast is known up to a positive factor a group: only divided by its own spread does it compare."""
    form = config.trust.crt.form
    if config.advantage.std_scope is StdScope.none and form is not CrtForm.none:
        yield mistake(
            f"advantage.std_scope=none with trust.crt.form={form}: a contrast has no unit of its own, so it "
            "trains divided by its standard deviation, and the rewards beside it would not be",
            "advantage.std_scope=null, or trust.crt.form=none",
        )


def _unused(trust: TrustConfig, config: PriorConfig, prior: Prior | None) -> Iterator[Finding]:
    """Keys that were set (differ from their default) and that nothing reads."""
    read = {"kind"}
    if prior is not None:
        from rlvis.trust.prior import keys_of

        read = keys_of(prior, config.kind)
    yield from _idle("prior", config, read, f"prior.kind={config.kind}")
    kind, form = f"trust.kind={trust.kind}", f"trust.crt.form={trust.crt.form}"
    for name, section in _sections(trust):
        if name != trust.kind:
            yield from _idle(f"trust.{name}", section, {"weight_crt"}, kind)
    if trust.kwargs and trust.kind == "none":
        yield mistake(f"trust.kwargs={text(trust.kwargs)} does nothing with {kind}", "trust.kwargs={}")
    if trust.ras.weight_crt and (trust.crt.form is not CrtForm.exp or trust.kind == "none"):
        yield mistake(
            f"trust.ras.weight_crt=true does nothing with {kind if trust.kind == 'none' else form}: there is "
            "no contrast term to weigh, or no weight for it",
            "trust.ras.weight_crt=false",
        )
    if not _reads_prior(trust) and trust.scale is not TrustScale.raw:
        yield mistake(
            f"trust.scale={trust.scale} does nothing with {kind} and {form}, which measure no deviation",
            "trust.scale=raw",
        )


def _idle(section: str, node: Any, read: set[str], because: str) -> Iterator[Finding]:
    """One message for each key of a section that is set and not in `read`."""
    fresh = type(node)()
    for field in dataclasses.fields(node):
        value, default = getattr(node, field.name), getattr(fresh, field.name)
        if field.name not in read and value != default:
            key = f"{section}.{field.name}"
            yield mistake(f"{key}={text(value)} does nothing with {because}", f"{key}={text(default)}")
