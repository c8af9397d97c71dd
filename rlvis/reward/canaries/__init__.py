"""Canaries: samples that scorers are asked about again, to see whether they still say the same.

drift.py       what is kept of a run's first samples, and how far their scores may move
watch.py       looks during a run, and stops it where a scorer has drifted
questions.py   before a run: again, in another order, alone, with other prompts; the doctor tells of it
"""
