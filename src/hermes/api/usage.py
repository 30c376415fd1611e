"""The route about what was used: one's own, or, for operators, everybody's."""

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

import msgspec
from msgspec import Struct
from msgspec.structs import asdict

from hermes.api.routes import Call
from hermes.auth import Authenticator
from hermes.errors import BadRequest, NotStored, StorageError
from hermes.fleet.inventory import full_name
from hermes.policy.limits import day_of
from hermes.storage.ledger import Ledger
from hermes.storage.usage import Use, Used, Wanted

_json = msgspec.json.Encoder().encode

MOST_KEYS = 1000

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII).fullmatch


class Usage:
    """`ledger` None: nothing is counted. `names` are those that keys have, by their ids."""

    def __init__(self, ledger: Ledger | None, people: Authenticator, names: Callable[[], Mapping[str, str]]) -> None:
        self._ledger = ledger
        self._people = people
        self._names = names

    async def list(self, call: Call) -> None:
        """By day, key and model, since the first of this month or the day that is asked for."""
        since = call.query("since") or day_of(call.exchange.created_at)[:7] + "-01"
        if not _DAY(since):
            raise BadRequest("`since` is a day such as 2026-11-22", param="since")
        key, model, names = call.query("key"), call.query("model"), self._names()
        keys = None if key is None else {key, *(id for id, name in names.items() if name == key)}
        if not call.principal.admin:
            own = call.principal.key_id
            if keys is not None and own not in keys:
                raise BadRequest("`key` is not yours", param="key")
            keys = {own}
        wanted = Wanted(since, None if keys is None else frozenset(keys), _named(model))
        try:
            used = Used(Use(), {}, False) if self._ledger is None else await self._ledger.usage(wanted)
        except StorageError as error:
            raise NotStored("the ledger cannot be read now; the log has its cause", retry_after_s=1.0) from error
        known = list(islice(self._keys(keys, names), MOST_KEYS))
        call.reply(await asyncio.to_thread(_render, since, used, names, known))

    def _keys(self, keys: set[str] | None, names: Mapping[str, str]) -> Iterator[dict[str, object]]:
        """What keys may use; of tokens nothing is known before they are shown."""
        for each in self._people.table.principals.values():
            if keys is None or each.key_id in keys:
                limits = {name: most for name, most in asdict(each.allowance).items() if most is not None}
                yield {"key": each.key_id, "name": names.get(each.key_id), "user": each.tenant, "limits": limits}


class _Row(Struct, frozen=True, gc=False):
    day: str
    key: str
    name: str | None
    model: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    refused: int


def _render(since: str, used: Used, names: Mapping[str, str], keys: list[dict[str, object]]) -> bytes:
    told = [_Row(day, key, names.get(key), model, *_tell(use).values()) for (day, key, model), use in used.rows.items()]
    total = _tell(used.total)
    body = {"object": "list", "since": since, "total": total, "data": told, "has_more": used.has_more, "keys": keys}
    return _json(body)


def _named(model: str | None) -> frozenset[str] | None:
    """It is counted by the name that it is listed by, or by a backend's, which has a tag."""
    return None if model is None else frozenset((model, full_name(model), model.removesuffix(":latest")))


def _tell(use: Use) -> dict[str, int]:
    return {
        "requests": use.requests,
        "prompt_tokens": use.prompt_tokens,
        "completion_tokens": use.completion_tokens,
        "total_tokens": use.prompt_tokens + use.completion_tokens,
        "refused": use.refused,
    }
