"""For servers that leave the stop text in an answer, or notice it only where a token ends: clients expect neither."""

from hermes.chat import Stop, StreamEvent, TextDelta
from hermes.dialects import Decoder


class Trimmed:
    """A decoder whose text ends before any of these. What may be the beginning of one is held until that is known."""

    __slots__ = ("_decoder", "_held", "_over", "_stops")

    def __init__(self, decoder: Decoder, stops: tuple[str, ...]) -> None:
        self._decoder = decoder
        self._stops = stops
        self._held: list[TextDelta] = []
        self._over = ""  # this one has ended it

    def feed(self, chunk: bytes) -> list[StreamEvent]:
        return self._trimmed(self._decoder.feed(chunk))

    def text(self, chunk: bytes) -> str:
        return ""

    def finish(self) -> list[StreamEvent]:
        return self._trimmed(self._decoder.finish())

    def _trimmed(self, events: list[StreamEvent]) -> list[StreamEvent]:
        told: list[StreamEvent] = []
        for event in events:
            if isinstance(event, TextDelta):
                told += self._text(event)
            else:
                told += self._held
                self._held.clear()
                told.append(Stop("stop", self._over) if self._over and isinstance(event, Stop) else event)
        return told

    def _text(self, delta: TextDelta) -> list[TextDelta]:
        if self._over:
            return []
        self._held.append(delta)
        text = "".join(held.text for held in self._held)
        # The first that is complete, as a server has it that looks at every token.
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if not found:
            return self._release(len(text) - self._begun(text))
        _, at, self._over = min(found)
        told = self._release(at)
        self._held.clear()
        return told

    def _begun(self, text: str) -> int:
        """How much at the end of it may be the beginning of a stop text."""
        sizes = range(min(len(text), max(map(len, self._stops))), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stops)), 0)

    def _release(self, size: int) -> list[TextDelta]:
        """So many characters. Of a piece that is cut the probabilities go with its beginning."""
        told: list[TextDelta] = []
        while self._held and size >= len(self._held[0].text):
            told.append(self._held.pop(0))
            size -= len(told[-1].text)
        if size:
            cut = self._held[0]
            told.append(TextDelta(cut.text[:size], cut.logprobs))
            self._held[0] = TextDelta(cut.text[size:])
        return told
