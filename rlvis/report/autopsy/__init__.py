"""The autopsy of a run: state, first bad step, what moved first, symptoms, likely causes, what to type.

Reads what is in the folder (metrics, details, dumps, doctor.json, exit.json, logs) and runs nothing.
"""

from rlvis.report.autopsy.examine import Autopsy, examine, to_json
from rlvis.report.autopsy.text import WIDTH, to_text

__all__ = ["WIDTH", "Autopsy", "examine", "to_json", "to_text"]
