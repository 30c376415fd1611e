"""The last requests that are over, for whoever asks what became of one."""

from array import array
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from msgspec import Struct, convert, msgpack
from msgspec.structs import astuple

from hermes.policy.ticket import Why
from hermes.record import Record

# Some 160 bytes each, 300 more if it waited.
REMEMBERED = 10_000
PACKED_TOGETHER = 100

_Row: TypeAlias = tuple[tuple[object, ...], bytes]

_pack = msgpack.Encoder().encode
_unpack = msgpack.Decoder(list[_Row]).decode
_unpack_why = msgpack.Decoder(Why).decode


class Finished(Struct, frozen=True):
    """`why`: what it found when it began to wait; None if it did not."""

    record: Record
    why: Why | None


class Past:
    """Kept packed, many in one piece: one by one they would lie between what is gone in a moment, and keep its memory
    from being given back.
    """

    def __init__(self) -> None:
        self._loose: list[tuple[Record, bytes]] = []
        self._pieces: deque[tuple[bytes, array[int]]] = deque(maxlen=REMEMBERED // PACKED_TOGETHER)

    def add(self, record: Record, why: Why | None) -> None:
        # A why is a twentieth of the values that it is made of.
        self._loose.append((record, b"" if why is None else _pack(why)))
        if len(self._loose) == PACKED_TOGETHER:
            whose = array("q", [hash((record.user, record.request_id)) for record, _ in self._loose])
            self._pieces.append((_pack([(astuple(record), why) for record, why in self._loose]), whose))
            self._loose.clear()

    def of(self, request_id: str, user: str | None) -> Iterator[list[Finished]]:
        """Those with this id, the last one first, as `newest` tells them: clients choose ids.

        Of this user, in a time that what others have asked has no part in (invariant I21); None: of all.
        """
        loose, pieces = list(reversed(self._loose)), list(reversed(self._pieces))
        yield [
            Finished(record, _unpack_why(why) if why else None)
            for record, why in loose
            if record.request_id == request_id and user in (None, record.user)
        ]
        sought, own = request_id.encode("utf-8", "surrogatepass"), hash((user, request_id))
        for piece, whose in pieces:
            if sought in piece if user is None else own in whose:
                yield [
                    Finished(_record(values), _unpack_why(why) if why else None)
                    for values, why in reversed(_unpack(piece))
                    if values[_ID] == request_id and user in (None, values[_USER])
                ]

    def newest(self, wanted: Mapping[str, str]) -> Iterator[list[Record]]:
        """Those with these values, the last one first: a few at a time, as they were when the first were asked for, so
        that others run in between (invariant I36).
        """
        loose, pieces = [record for record, _ in reversed(self._loose)], [piece for piece, _ in reversed(self._pieces)]
        yield [record for record in loose if all(getattr(record, name) == value for name, value in wanted.items())]
        sought = [(_NAMES.index(name), value) for name, value in wanted.items()]
        for piece in pieces:
            rows = (values for values, _ in reversed(_unpack(piece)))
            yield [_record(values) for values in rows if all(values[index] == value for index, value in sought)]


def _record(values: tuple[object, ...]) -> Record:
    return convert(dict(zip(_NAMES, values, strict=True)), Record)


_NAMES = Record.__struct_encode_fields__
_ID, _USER = _NAMES.index("request_id"), _NAMES.index("user")
