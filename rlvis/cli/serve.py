"""`rlvis serve`: the terms of a reward behind an address, for trainings on this machine or others.

Only the reward is loaded: no policy, none of the libraries that policies need, so that a scorer with pins of
its own can live in an environment of its own.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rlvis.cli import rewards
from rlvis.cli.arguments import overrides_of, require_known
from rlvis.cli.exit_codes import OK, exit_code_of, log_to_stderr
from rlvis.findings import ConfigError, mistake

if TYPE_CHECKING:
    from rlvis.schema import RewardConfig

log = logging.getLogger(__name__)

HELP = """\
usage: rlvis serve reward=OPTION [reward.KEY=VALUE ...] [port=8700] [host=127.0.0.1] [token_env=RLVIS_TOKEN]
                   [max_body_mb=256] [--config-dir DIR]

  rlvis serve reward=pickscore                         on port 8700, for this machine alone
  rlvis serve reward=[pickscore,aesthetic] port=8701   several terms, each under its name
  rlvis serve reward=function reward.terms.function.scorer=my_module.my_function
  RLVIS_TOKEN=... rlvis serve reward=hpsv3 host=0.0.0.0      for other machines; see docs/serving.md first
  python train.py reward=pickscore reward.executor=http reward.servers=[http://127.0.0.1:8700]

  port=N               0 takes a free one
  host=ADDRESS         where to listen
  token_env=NAME       the environment variable with the token that clients must send; where it is not set, a
                       token is made and printed. null: no token, on a loopback address only
  max_body_mb=N        the largest request, in MiB; 64 pictures of 1024 x 1024 are 192
  --config-dir DIR     a folder with option files of your own
  -h, --help           this text

reward.terms.NAME.weight and .frames are the client's business: what arrives is scored as it is.
POST /score/TERM, GET /terms and GET /metrics want the token; GET /health does not. Ctrl-C ends it. Exit
codes: 0 ended by Ctrl-C, 1 failed, 2 a mistake in the configuration.
"""


@dataclass(frozen=True)
class Options:
    """What the verb takes beside the reward. token_env: None for no token."""

    port: int = 8700
    host: str = "127.0.0.1"
    token_env: str | None = "RLVIS_TOKEN"
    max_body_mb: int = 256


def run(words: Sequence[str]) -> int:
    """`rlvis serve`: load the reward, listen until Ctrl-C."""
    overrides, folder = overrides_of(words, "serve")
    if overrides is None:
        print(HELP, end="")
        return OK
    options, overrides = options_of(overrides)
    reward = reward_of([*overrides, *folder])
    token = token_of(options)
    rewards.require_reachable(reward)
    listening = bind(options)
    log_to_stderr(0)
    with listening:
        return exit_code_of(lambda: _serve(reward, options, token, listening))


def options_of(words: Sequence[str]) -> tuple[Options, list[str]]:
    """The words of the verb, and those that compose the reward. Raises ConfigError for any other."""
    options, rest = Options(), []
    for word in words:
        key, equals, value = word.partition("=")
        if key.split(".")[0] in ("reward", "+reward", "experiment"):
            rest.append(word)
            continue
        names = list(Options.__dataclass_fields__)
        require_known(key, [*names, "reward", "experiment"], "word")
        if not equals or not value:
            raise ConfigError(f"{word}: wanted {key}=VALUE; rlvis serve --help shows examples")
        typed: Any = None if (key, value) == ("token_env", "null") else value
        if key in ("port", "max_body_mb"):
            least, most = (0, 65535) if key == "port" else (1, 65536)
            if not value.isascii() or not value.isdecimal() or not least <= int(value) <= most:
                raise ConfigError(f"{word}: wanted a whole number from {least} to {most}")
            typed = int(value)
        options = replace(options, **{key: typed})
    return options, rest


def reward_of(overrides: Sequence[str]) -> RewardConfig:
    """The reward that the words compose, each term to be scored by this process on all frames it is sent."""
    from rlvis.schema import Executor

    reward = rewards.compose_reward(overrides, "nothing says what to serve; type rlvis serve reward=NAME")
    if reward.executor not in (Executor.inline, Executor.ray):
        raise ConfigError(
            f"reward.executor={reward.executor} is for the training; a server loads its scorers: leave "
            "it out, or type reward.executor=ray"
        )
    return replace(reward, terms={name: replace(term, frames="all") for name, term in reward.terms.items()})


def token_of(options: Options) -> str | None:
    """The token that clients must send; None for none. Made where the environment has none."""
    from rlvis.reward.serving.servers import loopback

    if options.token_env is None:
        if not loopback(options.host):
            raise ConfigError(
                f"token_env=null with host={options.host} would let anybody on the network use this machine; "
                "leave token_env out, or type host=127.0.0.1"
            )
        return None
    token = os.environ.get(options.token_env, "").strip()
    if not token:
        return secrets.token_urlsafe(24)
    if not token.isascii() or not token.isprintable() or len(token) < 16:
        raise ConfigError(
            f"the token in {options.token_env} has {len(token)} characters: wanted 16 or more, all of them "
            "printable ASCII; unset it, and rlvis serve makes one"
        )
    return token


def bind(options: Options) -> socket.socket:
    """The port, taken before anything heavy loads. Raises ConfigError where it is not free."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((options.host, options.port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            mistake(
                f"host={options.host} port={options.port}: {error.strerror or error}",
                "another port, or port=0 for a free one",
            )
        ) from error
    return listening


def _serve(reward: RewardConfig, options: Options, token: str | None, listening: socket.socket) -> int:
    """Load the scorers, say where they are, and answer until Ctrl-C."""
    import uvicorn

    from rlvis.reward import scorer
    from rlvis.reward.serving.server import Service

    terms = scorer.build(reward)
    names = {name: term.scorer for name, term in reward.terms.items()}
    service = Service(terms, token, options.max_body_mb * 2**20, names)
    host = f"[{options.host}]" if ":" in options.host else options.host
    address = f"http://{host}:{listening.getsockname()[1]}"
    print(f"serving {', '.join(names)} at {address}", flush=True)
    if token is None:
        print("no token: every program of this machine may ask", flush=True)
    elif os.environ.get(options.token_env or "", "").strip():
        print(f"token: that of {options.token_env}", flush=True)
    else:
        print(f"token made for it; where the training starts: export {options.token_env}={token}", flush=True)
    config = uvicorn.Config(
        service.application(), log_config=None, access_log=False, server_header=False, lifespan="off"
    )
    with suppress(KeyboardInterrupt):  # which uvicorn raises again once it has stopped
        uvicorn.Server(config).run(sockets=[listening])
    log.info("stopped")
    return OK
