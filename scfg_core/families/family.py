"""One family of transformers: its layers, its keys, its patches and its text columns.

Blocks of one size attend to patches and text, both at once in one softmax ("joint") or to the patches and then to
the text. Which layers and roles serve best awaits real weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..collect.calls import Layout
from ..collect.layers import BAND, BAND_LAYERS, LayerChoice, choose_by_depth
from ..grid import Grid
from ..prompt import Role
from .text import Columns, Text, empty_columns, kept_columns, names_word


@dataclass(frozen=True)
class Family:
    """A family of transformers over patches of `patch`×`patch` latent cells, frame by frame.

    starts    how many of its first text columns serve as START: the attention of every prompt rests on them.
    suffix    how many columns of the prompt's template stand behind the prompt.
    masks     whether padding of the text is masked in the attention.
    band      part of its depth in which "auto" chooses layers, and how many at most.
    multiple  text and patches are padded to it by learned tokens; 1 = not at all.
    """

    name: str
    patch: int = 2
    starts: int = 0
    suffix: int = 0
    masks: bool = False
    band: tuple[float, float] = BAND
    band_layers: int = BAND_LAYERS
    multiple: int = 1

    def with_patch(self, patch: int) -> "Family":
        """The family with the patch that a network says it has."""
        return replace(self, patch=patch)

    def choose_layers(self, blocks: Sequence[str], choice: LayerChoice) -> list[str]:
        """Names of the chosen blocks, in the order of `blocks`, which is the order in which they run."""
        return choose_by_depth(blocks, choice, self.band, self.band_layers)

    def grid(self, height: int, width: int, frames: int = 1) -> Grid:
        """Patches of a latent, frames one below the other; the last ones may be padded."""
        h, w = (-(-side // self.patch) for side in (height, width))
        return Grid(frames * h, w, frames)

    def layout(
        self,
        columns: int,
        grid: Grid,
        *,
        text_first: bool = True,
        before: int = 0,
        between: int = 0,
        behind: int = 0,
    ) -> Layout:
        """Keys of a joint layer with so many text columns.

        text_first  whether the network puts the text before the image.
        before      keys of something else at the beginning (registers); between text and image (glyphs); behind
                    both (reference images).
        """
        text, image = (-(-count // self.multiple) * self.multiple for count in (columns, grid.area))
        first = (before, before + text + between) if text_first else (before + image + between, before)
        keys = before + text + between + image + behind
        return Layout(keys, range(first[0], first[0] + columns), range(first[1], first[1] + grid.area))

    def read(self, text: Text) -> Columns:
        """What the text columns of a prompt are. Reads the text off the device.

        Columns of exact zeros, and those outside the encoder's mask, are padding; the first and last others are the
        template's; where nothing would be left, everything is a word.
        """
        zeros = empty_columns(text.context)
        length = len(zeros)
        padding = [zero or not kept for zero, kept in zip(zeros, kept_columns(text.mask, length), strict=True)]
        dead = [not kept for kept in kept_columns(self._model_mask(text), length)]
        real = [column for column, padded in enumerate(padding) if not padded]
        first = length - len(text.words)
        if first > 0:
            first = real[0] if real else 0
        template = self._template(text, real, first)
        roles: list[Role] = [
            "dead" if dead[column] else "null" if padding[column] else "template" if column in template else "word"
            for column in range(length)
        ]
        if "word" not in roles:
            roles = [
                "dead" if dead[column] else "null" if padding[column] and real else "word"
                for column in range(length)
            ]
        for column in (*real[: self.starts], *(start + first for start in text.starts)):
            if 0 <= column < length and roles[column] != "dead":
                roles[column] = "start"
        return Columns(tuple(roles), first)

    def _template(self, text: Text, real: Sequence[int], first: int) -> set[int]:
        """Template columns: those of no word where the encoder named the words, else the family's last ones."""
        if not (self.suffix or text.framed):
            return set()
        if text.words:
            return {column for column in real if not names_word(text.words, column - first)}
        return set(real[max(0, len(real) - self.suffix) :])

    def _model_mask(self, text: Text) -> Tensor | None:
        return text.extra.get("attention_mask") if self.masks else None
