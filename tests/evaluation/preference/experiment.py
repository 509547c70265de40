"""A small experiment of two arms, and what its page and its voters say."""

import json

import numpy as np
from PIL import Image

from evaluation.preference.key import QUESTIONS

A, B = ARMS = ("arm-of-the-old-kind", "arm-of-the-new-kind")
SCALE = 7.5
DRAWN, PAIRS = 30, 20


def pixels(path):
    return np.asarray(Image.open(path)).tobytes()


def pairs_of(page):
    return json.loads((page / "pairs.js").read_text().removeprefix("const STUDY = "))["pairs"]


def preferring(key, arms):
    """A voter's answers: by pair, for each question the arm preferred, or None for no difference."""
    sides = {pair: {key.left[pair]: "left", key.other(key.left[pair]): "right", None: "same"} for pair in arms}
    return {
        pair: {question: sides[pair][arm] for question, arm in zip(QUESTIONS, said, strict=False)}
        for pair, said in arms.items()
    }


def write(folder, key, voter, answers, saved="2026-01-01T00:00:00.000Z"):
    """A voter's file as the page saves it."""
    votes = {"study": key.study, "voter": voter, "name": "", "saved": saved, "order": [], "answers": answers}
    path = folder / f"votes-{voter}-{saved[:4]}.json"
    path.write_text(json.dumps(votes))
    return path
