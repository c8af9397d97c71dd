"""`rlvis train`: one run (one_run.py), a sweep (sweep.py), or only what --help and --cfg print."""

from __future__ import annotations

from collections.abc import Sequence

from rlvis.cli import options, print_config
from rlvis.cli.arguments import parse, search
from rlvis.cli.exit_codes import OK
from rlvis.cli.one_run import one
from rlvis.cli.sweep import sweep

HELP = """\
usage: python train.py [GROUP=OPTION ...] [KEY=VALUE ...] [-m] [--cfg KIND] [--info KIND] [--config-dir DIR]

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
  python train.py -m sampler.eta=0.3,0.7 seed=1,2      a sweep: every combination, and a page of them all
  torchrun --nproc-per-node 8 train.py experiment=jpeg_sd3 data.path=prompts.txt

  -m, --multirun       values such as A,B or range(3) or glob(*) run one after the other (hydra/launcher=...:
                       elsewhere; hydra/sweeper=...: also interval(1e-5,1e-3), for plugins that draw from one)
  -c, --cfg KIND       print the composed configuration (job), Hydra's own (hydra) or both (all), and stop;
                       --resolve fills in interpolations
  --info KIND          print what Hydra composes it from: defaults, defaults-tree, searchpath, plugins
  --config-dir DIR     a folder with option files of your own, such as DIR/reward/mine.yaml
  -h, --help [GROUP]   this text, or the options of a group and all of its keys

What is typed wins. A value wins over every file. An option typed beside an experiment takes the keys that it
or the option it replaces writes, and leaves the experiment's others: experiment=flow_grpo_sd3_pickscore
advantage=guard has the clip range of guard; sizes (data.prompts_per_step, train.*, optim.*) stay. A line at
the start names what was replaced. +k=v, ++k=v and hydra.run.dir=DIR (run_dir) are read as Hydra's, and
~trust is trust=none.

Groups and options (* is the default):

{options}

A run writes into outputs/NAME/DATE_TIME (or run_dir=DIR): config.yaml, manifest.json, metrics.jsonl, samples,
checkpoints, the trained weights for diffusers, report.html. Exit codes: 0 done, 1 failed, 2 a mistake in the
configuration, 3 saved and ended as its steps trained nothing (reward.max_invalid_steps), 130 interrupted.
"""


def run(words: Sequence[str]) -> int:
    """`rlvis train`: one run, a sweep, or only what --help, --cfg and --info print."""
    flags, overrides = parse(words)
    if "help" in flags:
        _help([word for word in overrides if "=" not in word])
        return OK
    if "config-dir" in flags:
        overrides.append(search(flags["config-dir"]))
    if "cfg" in flags:
        print_config.cfg(flags["cfg"], overrides, resolve="resolve" in flags, sweeps="multirun" in flags)
        return OK
    if "info" in flags:
        print_config.info(flags["info"], overrides)
        return OK
    if "multirun" in flags:
        return sweep(overrides)
    return one(overrides)


def _help(groups: Sequence[str]) -> None:
    from rlvis.compose.describe import listing

    if groups:
        options.show(groups)
    else:
        print(HELP.format(options=listing()), end="")
