"""What is healthy: limits on metrics and the symptoms that a run shows, each with numbers, likely cause and
override.

`rules` is the table: name, metrics, function. The functions look at the whole run, by subject (update,
groups, reward, trust_maps, machine, sentinels); windows keep a noisy step, and runs of a few steps, from
raising alarms. Limits were set on healthy runs of the tiny policies and on runs made sick on purpose; they
are for a look, a run is never stopped by them.
"""

from rlvis.observe.health.rules import RULES, limits, symptoms
from rlvis.observe.health.symptom import Range

__all__ = ["RULES", "Range", "limits", "symptoms"]
