"""What arms and runs are called: by what was typed for an arm and not for the others, as short as tells them
apart ("bpgo", "lr=1e-4"); where that does not (a program started the runs), by the keys of the configuration
that do. Runs are called by their arm and seed.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlvis.report.folder import RunFolder
from rlvis.report.panels.configuration import OF_START

FREE = (*OF_START, "seed", "name", "doctor", "eval.run")  # do not make another arm
DEFAULTS = "defaults"
UNSET = "null"  # also what a key of another version of rlvis counts as
LONG = 60  # letters of a label


def is_free(key: str) -> bool:
    """Whether a key of the configuration does not make another arm."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE)


def of_arms(runs: Sequence[RunFolder], flat: Sequence[Mapping[str, str]]) -> list[str]:
    """A label of each arm, all of them different. runs, flat: the first run of each and its configuration."""
    if len(runs) == 1:
        return [runs[0].name]
    words = _typed(runs)
    if words is None or len(set(map(tuple, words))) < len(words):
        words = _by_keys(flat)
    labels = [" ".join(each) or DEFAULTS for each in _shortened(words)]
    if len(set(labels)) < len(labels):
        labels = [" ".join(each) or DEFAULTS for each in words]
    return _unlike([label if len(label) <= LONG else label[: LONG - 3] + "..." for label in labels])


def of_runs(arm: str, seeds: Sequence[object], folders: Sequence[str], alone: bool) -> list[str]:
    """A label of each run of an arm: arm and seed (the seed, where there is one arm alone), its folder where
    no seed is known or two runs have the same.
    """
    labels = []
    for seed, folder in zip(seeds, folders, strict=True):
        label = folder if seed is None else f"seed {seed}" if alone else f"{arm}, seed {seed}"
        labels.append(f"{label} ({folder})" if seed is not None and seeds.count(seed) > 1 else label)
    return labels


def folders(paths: Sequence[Path]) -> list[str]:
    """Folder names, with as many parents as it takes to tell runs apart."""
    whole = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in whole) + 1):
        names = ["/".join(path.parts[-depth:]) for path in whole]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in whole]


def _unlike(labels: list[str]) -> list[str]:
    """The same with a number behind what is there already."""
    count: Counter[str] = Counter()
    for i, label in enumerate(labels):
        count[label] += 1
        if count[label] > 1:
            labels[i] = f"{label} ({count[label]})"
    return labels


def _typed(runs: Sequence[RunFolder]) -> list[list[str]] | None:
    """The words of each arm's command line that not all arms have; None where one is not known."""
    words = [typed for run in runs if (typed := _words(run)) is not None]
    if len(words) < len(runs):
        return None
    common = set(words[0]).intersection(*words[1:])
    return [[word for word in typed if word not in common] for typed in words]


def _words(run: RunFolder) -> list[str] | None:
    command = run.manifest.get("command")
    try:
        words = shlex.split(command) if isinstance(command, str) else None
    except ValueError:
        return None
    if words is None:
        return None
    return [word.lstrip("+") for word in words if "=" in word and not is_free(word.split("=")[0].lstrip("+"))]


def _shortened(arms: Sequence[Sequence[str]]) -> list[list[str]]:
    """advantage=bpgo as bpgo, optim.lr=1e-4 as lr=1e-4, where no other key ends alike."""
    keys = {word.partition("=")[0] for words in arms for word in words}
    ends = Counter(key.rpartition(".")[2] for key in keys)

    def short(word: str) -> str:
        key, _, value = word.partition("=")
        if "." not in key and value[:1].isalpha() and value not in ("true", "false", "null", "none"):
            return value
        end = key.rpartition(".")[2]
        return f"{end}={value}" if ends[end] == 1 else word

    return [[short(word) for word in words] for words in arms]


def _by_keys(flat: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """The fewest keys that tell the arms apart, each chosen to split what is still alike the most."""
    keys = [k for k in dict.fromkeys(k for settings in flat for k in settings) if not is_free(k)]
    keys = [k for k in keys if len({settings.get(k, UNSET) for settings in flat}) > 1]
    words: list[list[str]] = [[] for _ in flat]
    while keys and len(set(map(tuple, words))) < len(flat):
        tried = {
            k: [[*each, f"{k}={settings.get(k, UNSET)}"] for each, settings in zip(words, flat, strict=True)]
            for k in keys
        }
        best = max(keys, key=lambda k: len(set(map(tuple, tried[k]))))
        if len(set(map(tuple, tried[best]))) == len(set(map(tuple, words))):
            break
        words = tried[best]
        keys.remove(best)
    return [each or ["run"] for each in words]
