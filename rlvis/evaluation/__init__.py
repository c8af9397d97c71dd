"""Evaluation: held-out prompts and fixed noise in, a table of judged samples and its statistics out.

In: a policy, the `eval` section, the prompts that training never sees. Out: step_NNNNNN.parquet with a row
for each sample, summary.json, metrics. What is unusual: the noise of a sample is named by the prompt's text,
never by the run, so two runs are compared on the same noise and errors can be paired.
"""
