"""The rules of held-out evaluation: what of the `eval` section cannot work, or would do nothing.

Importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rlvis.checks.files import FILES
from rlvis.checks.model import family_of
from rlvis.findings import Finding, mistake
from rlvis.schema import SHAPES, WORLD, Config

TAKEN = ("score", "accuracy", "right", "diversity", "reworded", "train_sampler")  # below eval/, no scorer's


def eval_errors(config: Config, *, alone: bool = False) -> Iterator[Finding]:
    """Contradictions of `eval`. alone: for `rlvis eval`, where `every` plays no part."""
    settings = config.eval
    source = settings.source or config.data.source
    if not alone and settings.run is not None:
        yield mistake(
            f"eval.run={settings.run} names what `rlvis eval` evaluates and does nothing in training",
            f"rlvis eval eval.run={settings.run}, or eval.run=null",
        )
    yield from _terms(config)
    family = family_of(config.model)
    if settings.guidance is not None and family is not None and not family.takes_guidance:
        yield mistake(
            f"eval.guidance={settings.guidance}: the denoiser of model.family={config.model.family} is not "
            "told a guidance scale",
            "eval.guidance=null, and eval.cfg=... for classifier-free guidance",
        )
    measures = settings.measures
    if not measures and (alone or settings.every > 0):
        yield mistake(
            f"eval.suite={settings.suite} and eval.terms is empty, so "
            f"{'' if alone else f'eval.every={settings.every} '}there is nothing to measure",
            "eval=shapes for the shapes world, or name a scorer: eval.terms.jpeg.scorer=jpeg_compressibility",
        )
    if measures and (alone or settings.every > 0):
        yield from _data(config)
    if settings.suite == SHAPES and source not in _world():
        yield mistake(
            f"eval.suite=shapes with {'data' if settings.source is None else 'eval'}.source={source}: its "
            "checker reads the prompts of the shapes world alone",
            "eval=none and name a scorer (eval.terms.NAME.scorer=SCORER), or data=shapes",
        )


def _terms(config: Config) -> Iterator[Finding]:
    for name, term in config.eval.terms.items():
        if name in TAKEN or "/" in name or not name.strip():
            yield mistake(
                f"eval.terms.{name}: its metric would be eval/{name}, which is not free",
                f"another name, such as eval.terms.my_score.scorer={term.scorer}",
            )
        if term.weight != 1:
            yield mistake(
                f"eval.terms.{name}.weight={term.weight} does nothing: nothing is summed in an evaluation",
                f"eval.terms.{name}.weight=1",
            )


def _data(config: Config) -> Iterator[Finding]:
    settings = config.eval
    source, key = settings.source or config.data.source, "data" if settings.source is None else "eval"
    world = source in _world()
    for name in ("path", "column", "quoted"):
        value = getattr(settings, name)
        if world and value is not None:
            yield mistake(
                f"eval.{name}={value} does nothing with {key}.source={source}, which needs no file",
                f"eval.{name}=null",
            )
    if not world and settings.kinds is not None:
        yield mistake(
            f"eval.kinds={settings.kinds} does nothing with {key}.source={source}, whose prompts have no "
            "kinds",
            "eval.kinds=null",
        )
    elif settings.kinds is not None:
        from rlvis.data import shapes

        yield from shapes.kind_errors(source, settings.kinds, "eval.kinds")
    if settings.paraphrase == WORLD and not world:
        yield mistake(
            f"eval.paraphrase={WORLD} with {key}.source={source}: only the shapes world knows other words "
            "for its prompts",
            "eval.paraphrase=FIELD, the column of the file that holds them, or eval.paraphrase=null",
        )


def eval_files(config: Config, *, alone: bool = False) -> list[Finding]:
    """The files that an evaluation would read and that are not there or have no such split."""
    settings, data = config.eval, config.data
    source = settings.source or data.source
    named = settings.path or (data.path if source == data.source else None)
    if not settings.measures or not (alone or settings.every > 0) or source not in FILES:
        return []
    if named is None:
        return _no_file(config) if settings.source is not None else []
    path, ours = Path(named).expanduser(), named.startswith("asset:")
    if not ours and not path.exists():
        key = "data" if settings.path is None else "eval"
        return [
            mistake(
                f"{key}.path={named}: there is no such file (looked at {path.absolute()})", f"{key}.path=FILE"
            )
        ]
    splits = (data.split, "heldout") if data.heldout else (data.split,)
    pairs = data.source == "i2v_pairs" and not (path / settings.split).is_dir()
    whole = ours or not path.is_dir() or pairs
    if settings.path is None and whole and settings.split not in splits:
        return [
            mistake(
                f"eval.split={settings.split}, but data.path={data.path} has no such split",
                "eval.path=FILE with prompts that are not trained on, data.heldout=0.02 to keep a part of "
                f"data.path out of training as the split heldout, or eval.split={data.split} for those that "
                "are trained on",
            )
        ]
    return []


def _no_file(config: Config) -> list[Finding]:
    settings = config.eval
    return [
        mistake(
            f"eval.source={settings.source} reads its prompts from a file, and eval.path names none",
            "eval.path=FILE, or eval.source=null for the prompts of data",
        )
    ]


def _world() -> tuple[str, ...]:
    """The sources that make prompts of the shapes world; imported late, because that room needs torch."""
    from rlvis.data import shapes

    return shapes.SOURCES
