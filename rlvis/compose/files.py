"""The files of conf/ as Hydra reads them: options of a group, what chosen ones merge to, the keys they write.

All of Hydra's machinery that composing needs is here; what stands around it is a few rules. Results are
remembered, but not where a folder of the user's is on the search path, which may change while we run.
"""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlvis import schema
from rlvis.compose.assign import unknown
from rlvis.findings import ConfigError

CONF = Path(__file__).resolve().parents[1] / "conf"
Result = TypeVar("Result")


class Files(NamedTuple):
    """Files of options, merged over the schema (not to be written into), and what each of them writes: group
    -> file -> keys of the group's section.
    """

    merged: DictConfig
    written: dict[str, dict[str, list[str]]]


@contextmanager
def session() -> Iterator[Hydra]:
    """Hydra on our conf/, whatever ran before in this process, and its state put back after.

    Raises ConfigError for what Hydra refuses.
    """
    schema.register()
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with (
            hydra.initialize_config_dir(str(CONF), job_name="rlvis", version_base="1.3"),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("error", ".*is not available")  # of a search path: a mistake, no remark
            started = GlobalHydra.instance().hydra
            assert started is not None
            yield started
    except (HydraException, OmegaConfBaseException, UserWarning) as error:
        raise ConfigError(_message(error)) from error
    finally:
        GlobalHydra.instance().clear()
        if before is not None:
            GlobalHydra.instance().initialize(before)


def _remembered(read: Callable[[Any, tuple[str, ...]], Result]) -> Callable[..., Result]:
    """`read(words, search)`, which opens our own files once."""
    ours = lru_cache(maxsize=128)(read)

    def remembered(words: str | Iterable[str], search: Sequence[str] = ()) -> Result:
        key = words if isinstance(words, str) else tuple(words)
        return (read if search else ours)(key, tuple(search))

    return remembered


@_remembered
def options(group: str, search: tuple[str, ...]) -> list[str]:
    """Names of a group's options, ours and those on the search path."""
    with session() as started:
        listed = started.config_loader.get_group_options(group, config_name="train", overrides=list(search))
    return sorted(name for name in listed if name != f"base_{group}")


@_remembered
def read(choices: tuple[str, ...], search: tuple[str, ...]) -> Files:
    """The files that words such as "model=sd3" choose."""
    with session() as started:
        loader = started.config_loader
        assert isinstance(loader, ConfigLoaderImpl), "the one that Hydra comes with"
        overrides, files = loader._parse_overrides_and_create_caching_repo("train", [*choices, *search])
        listed = create_defaults_list(
            files, "train", overrides, prepend_hydra=False, skip_missing=False
        ).defaults
        written: dict[str, dict[str, list[str]]] = defaultdict(dict)
        for entry in listed:  # before they are merged, which changes them
            group, _, name = (entry.config_path or "").partition("/")
            file = files.load_config(f"{group}/{name}") if name else None
            if file is not None and file.provider != "schema" and isinstance(file.config, DictConfig):
                section = file.config if entry.package == group else file.config.get(group)
                written[group][f"{group}/{name}"] = [str(key) for key in section or ()]
        return Files(loader._compose_config_from_defaults_list(listed, files), dict(written))


def plain(section: DictConfig) -> dict[str, Any]:
    """A section as nested plain values: enums by name, interpolations as they stand."""
    values = OmegaConf.to_container(section, enum_to_str=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _message(error: Exception) -> str:
    """A mistake inside a yaml file: its unknown key with the nearest one, else what Hydra says."""
    text = str(error)
    file, key = re.search(r"In '([^']+)'", text), re.search(r"full_key: (\S+)", text)
    if file and key and " not in '" in text:
        return f"{file[1]}.yaml has an {unknown(OmegaConf.create(), key[1])}"
    return one_line(error)


def one_line(error: BaseException) -> str:
    """The text of an exception on one line, the cause's where that says more."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    text = str(cause).split("Config search path")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("reference_type", "object_type", "See https"))]
    return "; ".join(line.replace("full_key: ", "at ") for line in kept)
