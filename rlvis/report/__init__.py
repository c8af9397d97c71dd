"""Report: what a finished (or broken off) run looks like, for a reader who was not there.

In: a run folder. Out: one self-contained report.html (html), put together from panels (panels) that read the
folder through one loader (folder) and draw with one plotter (plots).
"""
