"""The boundary between S-CFG and a host: S-CFG never fails a generation."""

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

Given = ParamSpec("Given")
Result = TypeVar("Result")


class GivesUp(Protocol):
    def give_up(self, error: Exception) -> None:
        """Plain CFG from here on."""
        ...


Guarded = TypeVar("Guarded", bound=GivesUp)


def guarded(
    method: Callable[Concatenate[Guarded, Given], Result],
) -> Callable[Concatenate[Guarded, Given], Result | None]:
    """The method, in which any exception makes its object give up and returns None: plain CFG."""

    @wraps(method)
    def safe(self: Guarded, *args: Given.args, **kwargs: Given.kwargs) -> Result | None:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            self.give_up(error)
            return None

    return safe
