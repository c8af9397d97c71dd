"""The doctor: what is looked at before every training, so that a run that cannot learn is not started.

    examine.py     the order of the checks, and what their findings stop
    machine.py     versions, GPUs, disk, host memory        hub.py       what must come from the hub
    geometry.py    sizes, padding, groups, files, prompts   parameters.py   checksums over ranks
    probe.py       one small step by the run's own stages   ratio.py     the ratio before any update
    gradient.py    a gradient for every loss term           rewards.py, canaries.py   what the scorers say

Unusual: nothing is imitated. The probe runs the stages that training runs, at its sizes and dtypes, with an
engine that never steps. It leaves no gradient, no optimizer state, no changed weight and no random state.
"""
