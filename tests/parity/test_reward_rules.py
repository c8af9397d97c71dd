"""The text and composition rewards against Flow-GRPO's and its reward server's own, on recorded readings."""

import json
from pathlib import Path

import numpy as np

from rlvis.reward.judging.geneval_rules import correct, judge
from rlvis.reward.scorers import ocr

DATA = np.load(Path(__file__).parent / "data" / "reward_rules.npz")
META = json.loads(bytes(DATA["meta"]))
READINGS = [lines for _, lines in META["ocr_cases"]]


def test_the_text_of_pictures_scores_as_flow_grpos() -> None:
    ours = [ocr.image_score(lines, ocr.target(prompt, {})) for prompt, lines in META["ocr_cases"]]
    np.testing.assert_allclose(ours, DATA["ocr_image"], rtol=1e-12)


def test_the_text_of_clips_scores_as_flow_grpos() -> None:
    clips = zip(META["ocr_video_prompts"], META["ocr_video_frames"], strict=True)
    ours = [ocr.video_score([READINGS[i] for i in frames[::4]], ocr.target(p, {})) for p, frames in clips]
    np.testing.assert_allclose(ours, DATA["ocr_video"], rtol=1e-12)


def test_compositions_score_as_the_reward_servers() -> None:
    ours = []
    for case in META["geneval_cases"]:

        def colours(name: str, boxes: object, case: dict = case) -> list[str]:
            return case["colors"][name][: len(boxes)]

        judged = judge(case["objects"], case["metadata"], colours)
        ours.append((judged.score, judged.strict, correct(case["objects"], case["metadata"], colours)))
    theirs = np.stack([DATA["ge_score"], DATA["ge_strict"], DATA["ge_eval"]], axis=1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
