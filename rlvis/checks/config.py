"""What must hold between the values of a configuration, checked before anything heavy loads.

Types and names are the schema's business; here stand the rules that tie several keys together, each with its
numbers, its reason and what to type. Every rule is a pure function of the configuration, in the module of its
section; `files.py` looks at the disk. An option that would do nothing is refused: that is how silent mistakes
reach a run.
"""

from __future__ import annotations

from rlvis.checks.advantage import advantage_errors, clip_range_errors
from rlvis.checks.data import clip_errors, data_errors
from rlvis.checks.domain import domain_errors
from rlvis.checks.engine import engine_errors, optim_errors
from rlvis.checks.evaluation import eval_errors
from rlvis.checks.maps import map_errors
from rlvis.checks.media import media_errors
from rlvis.checks.model import model_errors
from rlvis.checks.plan import plan_errors
from rlvis.checks.reward import reward_errors, term_errors
from rlvis.checks.run import run_errors
from rlvis.checks.sampler import kernel_errors, window_errors
from rlvis.checks.sentinels import sentinel_errors
from rlvis.checks.sequence import groups, sequence_errors
from rlvis.checks.step import step_errors
from rlvis.checks.trust import trust_errors
from rlvis.findings import Finding
from rlvis.schema import Config

# Sections that `rlvis eval` reads.
EVALUATED = ("model", "data", "sampler", "engine", "train", "eval", "name", "run_dir", "threads", "seed")


def check(config: Config, world_size: int = 1) -> list[Finding]:
    """All contradictions between the values of `config` on `world_size` processes; empty when it can run."""
    if wrong := list(domain_errors(config)):
        return wrong
    shares = groups(config, world_size)
    return [
        *sequence_errors(config, world_size),
        *step_errors(config, shares),
        *data_errors(config.data),
        *clip_errors(config.model, config.data.source),
        *advantage_errors(config.advantage, config.sampler),
        *clip_range_errors(config.advantage.clip_range),
        *kernel_errors(config.sampler, config.model),
        *window_errors(config.sampler, config.train.steps),
        *trust_errors(config),
        *map_errors(config),
        *eval_errors(config),
        *sentinel_errors(config),
        *reward_errors(config, shares),
        *(term_errors(config.eval.terms, "eval") if config.eval.every else ()),
        *model_errors(config.model),
        *engine_errors(config),
        *optim_errors(config),
        *run_errors(config),
        *media_errors(config),
        *plan_errors(config),
    ]


def check_evaluation(config: Config) -> list[Finding]:
    """The same for `rlvis eval`, which trains nothing: prompts, model, engine.device and `eval` alone."""
    return list(domain_errors(config, EVALUATED)) or [
        *data_errors(config.data),
        *clip_errors(config.model, config.data.source),
        *model_errors(config.model),
        *eval_errors(config, alone=True),
        *term_errors(config.eval.terms, "eval"),
    ]
