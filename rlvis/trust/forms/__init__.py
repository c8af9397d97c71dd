"""The options of trust.kind, one module each; its ENTRY is a function or class of the form that
rlvis/trust/form.py describes. The first paragraph of its docstring explains the weights in a report.
"""
