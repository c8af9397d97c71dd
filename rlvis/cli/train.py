"""`rlvis train`: one run (one_run.py), a sweep (sweep.py), or only what --help and --cfg print."""

from __future__ import annotations

from collections.abc import Sequence

from rlvis.cli.arguments import parse, search
from rlvis.cli.exit_codes import OK
from rlvis.cli.one_run import one
from rlvis.cli.sweep import sweep
from rlvis.findings import ConfigError

HELP = """\
usage: python train.py [GROUP=OPTION ...] [KEY=VALUE ...] [-m] [--cfg job [--resolve]] [--config-dir DIR]

  python train.py                                      the embedded default: a tiny policy, on a CPU
  python train.py model=sd3 engine=zero1 data=txt data.path=prompts.txt reward=jpeg
  python train.py experiment=jpeg_sd3 data.path=prompts.txt
  python train.py experiment=flow_grpo_sd3_pickscore debug=tiny  two steps of a recipe with the tiny policy
  python train.py model.lora.rank=8 optim.lr=1e-4      values; naming a key below a null section turns it on
  python train.py reward=[coverage,jpeg] reward.terms.jpeg.weight=0.1
  python train.py reward=function reward.terms.function.scorer=my_module.my_function
  python train.py dry_run=true                         checks and the numbers that follow; loads nothing
  python train.py experiment=flow_grpo_sd3_pickscore data.path=prompts.txt plan=true plan_gpus=32 plan_gib=80
                                                       memory of a GPU, seconds of a step; loads nothing
  python train.py resume=auto                          go on with the newest run of this name (or RUN_DIR)
  python train.py resume=auto optim.lr=1e-4 resume_allow=[optim.lr]     ... with this one change
  python train.py stage=rollout records=DIR            one stage alone; then score, weigh, build, update
  python train.py stage=reference trust=ras prior=reference     scores for that prior, kept in prior.cache
  python train.py -m sampler.eta=0.3,0.7 seed=1,2      a sweep: every combination, one after the other
  torchrun --nproc-per-node 8 train.py experiment=jpeg_sd3 data.path=prompts.txt

  -m, --multirun       values such as A,B or range(3) run one after the other (hydra/launcher=...: elsewhere)
  -c, --cfg job        print the composed configuration and stop; --resolve fills in interpolations
  --config-dir DIR     a folder with option files of your own, such as DIR/reward/mine.yaml
  -h, --help           this text

Groups and options (* is the default):

{options}

A run writes into outputs/NAME/DATE_TIME (or run_dir=DIR): config.yaml, manifest.json, metrics.jsonl, samples,
checkpoints, the trained weights for diffusers, report.html. Exit codes: 0 done, 1 failed, 2 a mistake in the
configuration, 130 interrupted.
"""


def run(words: Sequence[str]) -> int:
    """`rlvis train`: one run, a sweep, or only what --help and --cfg print."""
    flags, overrides = parse(words)
    if "help" in flags:
        from rlvis.compose.describe import listing

        print(HELP.format(options=listing()), end="")
        return OK
    if "config-dir" in flags:
        overrides.append(search(flags["config-dir"]))
    if "cfg" in flags:
        return _print_config(flags, overrides)
    if "multirun" in flags:
        return sweep(overrides)
    return one(overrides)


def _print_config(flags: dict[str, str], overrides: Sequence[str]) -> int:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from rlvis.compose.command import compose, one_line

    if flags["cfg"] != "job":
        raise ConfigError(f"--cfg {flags['cfg']}: wanted --cfg job, which prints the configuration of a run")
    if "multirun" in flags:
        raise ConfigError("--cfg prints one configuration; leave out -m")
    try:
        print(OmegaConf.to_yaml(compose(overrides).config, resolve="resolve" in flags), end="")
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    return OK
