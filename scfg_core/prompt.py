"""A prompt entry: the tokens behind the text columns of an attention layer, their roles, and their labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal

from .errors import ShapeError

Branch = Literal["cond", "uncond", "both"]
"""Which rows a prompt conditions; "both" where the host decides only later which they are."""

Role = Literal["word", "start", "template", "null", "dead"]
"""What a token column is.

word      may own patches: words, and in CLIP prompts END and padding as well (the paper's reading)
start     START: may own patches, and separates the foreground (Eq. 14)
template  of the model's own prompt template: takes its share of the attention, owns nothing
null      padding that the model attends to: takes its share of the attention, owns nothing
dead      padding that is masked: not part of the softmax
"""

OWNERS = ("word", "start")


@dataclass(frozen=True)
class Prompt:
    """One prompt entry of L token columns; column i has label `first_label` + i.

    branch  which rows it conditions.
    roles   role of every column, (L,).
    texts   whole word that each token is part of, (L,); for START, END and padding a name in angle brackets;
            "" where the text encoder does not tell. () = nowhere.
    words   index of that word in the prompt, (L,); −1 = none. () = nowhere.
    """

    branch: Branch
    roles: tuple[Role, ...]
    texts: tuple[str, ...] = ()
    words: tuple[int, ...] = ()
    first_label: int = 0

    def __post_init__(self) -> None:
        if not self.roles:
            raise ShapeError("expected a prompt of at least 1 token, got 0: leave an empty prompt out")
        for name, unknown in (("texts", ""), ("words", -1)):
            given = getattr(self, name) or (unknown,) * len(self.roles)
            if len(given) != len(self.roles):
                raise ShapeError(
                    f"expected {len(self.roles)} {name}, one per token, got {len(given)}: "
                    "name every token, or none of them"
                )
            object.__setattr__(self, name, tuple(given))

    @classmethod
    def plain(
        cls,
        branch: Branch,
        num_tokens: int,
        start_tokens: Iterable[int] = (0,),
        texts: Sequence[str] = (),
        words: Sequence[int] = (),
    ) -> "Prompt":
        """A prompt in which every token competes, as in the paper; `start_tokens`: one per chunk, () = none.

        Raises `ShapeError` where START lies outside the prompt.
        """
        return _plain(branch, num_tokens, frozenset(start_tokens), tuple(texts), tuple(words))

    @property
    def num_tokens(self) -> int:
        return len(self.roles)

    @cached_property
    def start_tokens(self) -> tuple[int, ...]:
        """Columns of START, one per chunk of the prompt; () = the text encoder has none."""
        return tuple(i for i, role in enumerate(self.roles) if role == "start")

    @cached_property
    def owners(self) -> tuple[int, ...]:
        """Columns that may own patches, ascending."""
        return tuple(i for i, role in enumerate(self.roles) if role in OWNERS)

    @cached_property
    def owner_runs(self) -> tuple[range, ...]:
        """The owners as runs of consecutive columns."""
        runs: list[range] = []
        for index in self.owners:
            if runs and runs[-1].stop == index:
                runs[-1] = range(runs[-1].start, index + 1)
            else:
                runs.append(range(index, index + 1))
        return tuple(runs)

    @cached_property
    def owner_labels(self) -> tuple[int, ...]:
        """Labels of the owners."""
        return tuple(self.first_label + index for index in self.owners)

    @cached_property
    def dead(self) -> tuple[int, ...]:
        """Columns that take no part in the softmax."""
        return tuple(i for i, role in enumerate(self.roles) if role == "dead")

    @property
    def labels(self) -> range:
        """Labels of all its tokens."""
        return range(self.first_label, self.first_label + self.num_tokens)

    def words_with_labels(self) -> list[tuple[str, tuple[int, ...]]]:
        """The words in order, with the labels of their tokens."""
        labels: dict[int, list[int]] = {}
        for index, word in enumerate(self.words):
            if word >= 0:
                labels.setdefault(word, []).append(self.first_label + index)
        return [(self.texts[found[0] - self.first_label], tuple(found)) for _, found in sorted(labels.items())]


@lru_cache(maxsize=64)
def _plain(
    branch: Branch, num_tokens: int, starts: frozenset[int], texts: tuple[str, ...], words: tuple[int, ...]
) -> Prompt:
    """`Prompt.plain`, once for the same prompt: hosts ask at every evaluation, and what it works out is kept."""
    if not all(0 <= start < num_tokens for start in starts):
        raise ShapeError(
            f"expected start_tokens from 0 to {num_tokens - 1}, got {tuple(sorted(starts))}: "
            "give the index of START in every chunk, or () for a text encoder without START"
        )
    roles: tuple[Role, ...] = tuple("start" if i in starts else "word" for i in range(num_tokens))
    return Prompt(branch, roles, texts, words)


def number_labels(prompts: Iterable[Prompt]) -> list[Prompt]:
    """The prompts of one branch with consecutive labels: each begins after the one before it."""
    numbered, first = [], 0
    for prompt in prompts:
        numbered.append(prompt if prompt.first_label == first else replace(prompt, first_label=first))
        first += prompt.num_tokens
    return numbered
