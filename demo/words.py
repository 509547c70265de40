"""The words of the picture book, in the order of their token ids."""

GROUND_THINGS = ("house", "tree", "car", "mushroom", "rocket", "tent", "flower", "cactus", "boat", "cat")
SKY_THINGS = ("balloon", "star", "kite", "moon", "heart")
NOUNS = GROUND_THINGS + SKY_THINGS
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
GROUNDS = ("grass", "sand", "snow", "water")
SKIES = ("noon", "sunset", "night", "rain")
PLAIN = ("a", "an", "and", "on", "at", "in", "the", "left", "right")
WORDS = PLAIN + COLOURS + NOUNS + GROUNDS + SKIES

SPECIALS = ("<start>", "<end>", "<pad>")
START, END, PAD = range(3)
VOCABULARY = SPECIALS + WORDS
LENGTH = 24
"""Tokens of a prompt: START, at most 22 words, END, padding."""
