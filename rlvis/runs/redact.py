"""What a run folder must not tell: values that are secret by their name."""

from __future__ import annotations

import re
from typing import Any

SECRET = re.compile(r"(^|_)(api_?key|token|secret|password|passwd|credentials?)$", re.IGNORECASE)
HIDDEN = "***"


def public(nested: Any) -> Any:
    """Nested plain values with what is secret by its name (api_key, token, password) hidden."""
    if isinstance(nested, dict):
        return {
            k: HIDDEN if SECRET.search(str(k)) and v is not None else public(v) for k, v in nested.items()
        }
    return [public(v) for v in nested] if isinstance(nested, list) else nested


def public_word(word: str) -> str:
    """One override of a command line with secrets hidden, in KEY=VALUE as in SECTION={KEY: VALUE}."""
    key, equals, _ = word.partition("=")
    if equals and SECRET.search(key.rsplit(".", 1)[-1]):
        return f"{key}={HIDDEN}"
    return re.sub(
        r"(\w+)(\s*:\s*)([^,}\s]+)", lambda m: m[1] + m[2] + HIDDEN if SECRET.search(m[1]) else m[0], word
    )
