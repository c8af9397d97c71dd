"""A term of servers that `rlvis serve` runs, among terms that are scored here; see docs/serving.md."""

from rlvis.reward.serving.client import Remote

ENTRY = Remote
