"""A request that was accepted and is not answered yet."""

import asyncio
from collections.abc import Callable

from seqwright.inference.translator import Translation


class PendingRequest:
    """A request that was accepted, and its translations as they are found.

    Args:
        size: instances of the request.
        on_end: called with this object once, when the request is complete or cancelled.

    Attributes:
        translations: a future of one translation for each instance, in order, or of the error that is the answer.
        cancelled: whether nobody wants the translations any more.
    """

    def __init__(self, size: int, on_end: Callable[["PendingRequest"], None]) -> None:
        self.translations: asyncio.Future[list[Translation]] = asyncio.get_running_loop().create_future()
        self.cancelled = False
        self._on_end = on_end
        self._found: list[Translation | None] = [None] * size
        self._missing = size

    def cancel(self) -> None:
        """Search no more for this request: it leaves the queue now, and a running search after its next step."""
        if not self.cancelled and self._missing:
            self.cancelled = True
            self._on_end(self)

    def has(self, index: int) -> bool:
        """Whether the translation of an instance was found."""
        return self._found[index] is not None

    def put(self, index: int, translation: Translation) -> None:
        """Store the translation of an instance. The last one completes the request."""
        self._found[index] = translation
        self._missing -= 1
        if not self._missing and not self.cancelled:
            self._on_end(self)
            if not self.translations.done():
                self.translations.set_result([each for each in self._found if each is not None])

    def fail(self, error: BaseException) -> None:
        """Answer the request with an error, and cancel it."""
        if not self.translations.done():
            self.translations.set_exception(error)
        self.cancel()
