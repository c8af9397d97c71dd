"""The tabs of a run's page, in order."""

from __future__ import annotations

from rlvis.report.panels import (
    configuration,
    curves,
    evaluation,
    gallery,
    health,
    maps,
    samples,
    sentinels,
    timing,
    trust,
    verdict,
)
from rlvis.report.panels.base import Tab

TABS: tuple[Tab, ...] = (
    Tab(
        "overview",
        "Overview",
        (
            ("Verdict", verdict.verdict),
            ("First curves", verdict.first_figures),
            ("Better", evaluation.first_better),
            ("Worse", evaluation.first_worse),
            ("First and last samples", verdict.first_samples),
            ("What is missing", verdict.missing),
        ),
    ),
    Tab("curves", "Curves", (("Curves", curves.curves), ("All metrics", curves.all_metrics))),
    Tab(
        "health",
        "Health",
        (
            ("Limits", health.table),
            ("Curves with limits", health.figures),
            ("Alarms", sentinels.table),
            ("Samples themselves", sentinels.figures),
            ("Doctor", health.doctor),
        ),
    ),
    Tab(
        "held-out",
        "Held-out",
        (
            ("Held-out prompts", evaluation.evaluation),
            ("Gain", evaluation.gain),
            ("Better", evaluation.better),
            ("Worse", evaluation.worse),
        ),
    ),
    Tab("samples", "Samples", (("Samples", samples.samples),)),
    Tab("best-worst", "Best, worst", (("Best and worst", gallery.gallery),)),
    Tab("trust", "Trust", (("Trust", trust.trust), ("Groups", trust.pictured))),
    Tab(
        "maps",
        "Maps",
        (
            ("Maps", maps.maps),
            ("Trained samples", maps.overlays),
            ("Fixed prompts", maps.fixed),
            ("Clips", maps.films),
        ),
    ),
    Tab("time", "Time", (("Time and memory", timing.figures), ("Sums", timing.table))),
    Tab(
        "config",
        "Config",
        (
            ("Reproduce", configuration.reproduce),
            ("Changed", configuration.changed),
            ("Whole configuration", configuration.configuration),
            ("Manifest", configuration.manifest),
        ),
    ),
)
