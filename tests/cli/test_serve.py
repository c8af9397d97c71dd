"""`rlvis serve`: its words, its messages, and a server that answers, needs no policy and ends by Ctrl-C."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvis.cli import serve
from rlvis.cli.serve import Options
from rlvis.findings import ConfigError
from rlvis.schema import RewardTerm
from tests.cli.helpers import refusal

NO_SUCH = ["reward=function", "reward.terms.function.scorer=no.such"]


def test_words_of_its_own_and_words_of_the_reward() -> None:
    words = [
        "reward=[jpeg,checker]",
        "port=0",
        "host=::1",
        "token_env=MINE",
        "max_body_mb=8",
        "reward.cache=x",
    ]
    options, rest = serve.options_of(words)
    assert options == Options(port=0, host="::1", token_env="MINE", max_body_mb=8)
    assert rest == ["reward=[jpeg,checker]", "reward.cache=x"]
    assert serve.options_of(["token_env=null"])[0].token_env is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "type rlvis serve reward=NAME"),
        (["port=1"], "type rlvis serve reward=NAME"),
        (["reward=jpg"], "nearest: jpeg"),
        (["reward=jpeg", "prt=1"], "nearest: port"),
        (["reward=jpeg", "model=sd3"], "there are port"),
        (["reward=jpeg", "port=x"], "whole number from 0 to 65535"),
        (["reward=jpeg", "port=70000"], "whole number from 0 to 65535"),
        (["reward=jpeg", "max_body_mb=0"], "whole number from 1"),
        (["reward=jpeg", "port="], "wanted port=VALUE"),
        (["reward=function"], "reward.terms.function.scorer is not set"),
        (["reward=jpeg", "reward.executor=http"], "is for the training"),
        (["reward=jpeg", "host=0.0.0.0", "token_env=null"], "would let anybody"),
        (["reward=jpeg", "-m"], "belongs to rlvis train"),
    ],
)
def test_a_mistake_exits_2_with_one_message(words: list[str], message: str, capsys: Any) -> None:
    assert message in refusal(capsys, "serve", *words)


def test_a_port_that_is_taken_shows_before_anything_loads(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlvis.reward.scorer.build", lambda reward: pytest.fail("a scorer was loaded"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refusal(capsys, "serve", "reward=jpeg", f"port={port}")
    assert f"port={port}: Address already in use; type another port" in line


def test_scorers_and_arguments_that_are_not_there(capsys: Any) -> None:
    assert "no module 'no'" in refusal(capsys, "serve", *NO_SUCH, "port=0")
    words = ["reward=jpeg", "+reward.terms.jpeg.kwargs.quality=9999", "port=0"]
    line = refusal(capsys, "serve", *words)
    assert "terms.jpeg.kwargs.quality=9999: wanted at most 100; type reward.terms.jpeg.kwargs" in line


def test_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINE", raising=False)
    token = serve.token_of(Options(token_env="MINE"))
    assert token is not None
    assert len(token) >= 32
    assert token != serve.token_of(Options(token_env="MINE"))
    monkeypatch.setenv("MINE", " sixteen-or-more-of-it\n")
    assert serve.token_of(Options(token_env="MINE")) == "sixteen-or-more-of-it"
    monkeypatch.setenv("MINE", "short")
    with pytest.raises(ConfigError, match="has 5 characters"):
        serve.token_of(Options(token_env="MINE"))
    assert serve.token_of(Options(token_env=None, host="localhost")) is None


def test_frames_are_the_client_s_business() -> None:
    reward = serve.reward_of(["reward=jpeg", "reward.terms.jpeg.frames=every 4"])
    assert reward.terms == {"jpeg": RewardTerm(scorer="jpeg_compressibility")}


CODE = """
import sys
from rlvis.cli import main
code = main(["serve", "reward=jpeg", "port=0"])
heavy = {"diffusers", "transformers", "deepspeed", "accelerate", "peft", "open_clip"} & set(sys.modules)
print("ended", code, sorted(heavy), flush=True)
"""


def test_a_server_answers_and_ends_by_ctrl_c_without_the_policies_libraries() -> None:
    import httpx

    environment = {key: value for key, value in os.environ.items() if key != "RLVIS_TOKEN"}
    root = Path(__file__).parents[2]
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", CODE]
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, cwd=root, env=environment)
    try:
        assert process.stdout is not None
        address = re.fullmatch(r"serving jpeg at (\S+)\n", process.stdout.readline())
        assert address is not None
        token = process.stdout.readline().strip().partition("export RLVIS_TOKEN=")[2]
        transport = httpx.HTTPTransport(retries=8)  # it says where it is a moment before it listens
        with httpx.Client(transport=transport) as client:
            health = client.get(f"{address[1]}/health")
        assert health.json() == {"ready": True, "terms": ["jpeg"]}
        headers = {"authorization": f"Bearer {token}"}
        assert httpx.get(f"{address[1]}/terms", headers=headers).json()["terms"][0]["scorer"] == (
            "jpeg_compressibility"
        )
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert out == "ended 0 []\n"
    assert "Traceback" not in err
    assert token not in err
