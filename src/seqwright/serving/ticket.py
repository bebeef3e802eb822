"""A request that was accepted, and its answer."""

import asyncio
from collections.abc import Callable

from seqwright.inference.translator import Translation


class Ticket:
    """A request that was accepted.

    Args:
        size: its instances.
        expires: when it must have its answer, by `time.monotonic`.
        on_end: told of this ticket when it has its answer, or nobody wants one any more.

    Attributes:
        translations: done when all instances are: one translation for each, in order. Its exception is whatever broke
            the search.
        given_up: whether nobody wants the answer any more; set by `give_up`.
    """

    def __init__(self, size: int, expires: float, on_end: Callable[["Ticket"], None]) -> None:
        self.translations: asyncio.Future[list[Translation]] = asyncio.get_running_loop().create_future()
        self.expires = expires
        self.given_up = False
        self._on_end = on_end
        self._found: list[Translation | None] = [None] * size
        self._missing = size

    def give_up(self) -> None:
        """Compute no more for this request: leave the queue now, and a running search after its next step."""
        if not self.given_up and self._missing:
            self.given_up = True
            self._on_end(self)

    def leave(self) -> None:
        """As `give_up`, and `translations` are cancelled, for nobody is there to read them."""
        self.translations.cancel()
        self.give_up()

    def put(self, number: int, translation: Translation) -> None:
        """Take in the translation of an instance."""
        self._found[number] = translation
        self._missing -= 1
        if not self._missing and not self.given_up:
            self._on_end(self)
            if not self.translations.done():
                self.translations.set_result([each for each in self._found if each is not None])

    def fail(self, error: BaseException) -> None:
        """Answer the request with an error and compute no more for it."""
        if not self.translations.done():
            self.translations.set_exception(error)
        self.give_up()
