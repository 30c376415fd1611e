"""The route about what was used: one's own, or, for operators, everybody's."""

import re
from collections.abc import Iterator
from itertools import islice

import msgspec
from msgspec.structs import asdict

from hermes.api.routes import Call
from hermes.auth import Authenticator
from hermes.errors import BadRequest, NotStored, StorageError
from hermes.policy.limits import day_of
from hermes.principal import Principal
from hermes.storage.ledger import Ledger, Use

_json = msgspec.json.Encoder().encode

# Rows that are told at once.
MOST_ROWS = 10_000
MOST_KEYS = 1000

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII).fullmatch


class Usage:
    """`ledger` None: nothing is counted."""

    def __init__(self, ledger: Ledger | None, people: Authenticator) -> None:
        self._ledger = ledger
        self._people = people

    async def list(self, call: Call) -> None:
        """By day, key and model, since the first of this month or the day that is asked for."""
        since = call.query("since") or day_of(call.exchange.created_at)[:7] + "-01"
        if not _DAY(since):
            raise BadRequest("`since` is a day such as 2026-11-22", param="since")
        key, model = call.query("key"), call.query("model")
        if not call.principal.admin:
            if key not in (None, call.principal.key_id):
                raise BadRequest("`key` is not yours", param="key")
            key = call.principal.key_id
        try:
            rows = {} if self._ledger is None else await self._ledger.usage(since, key, model)
        except StorageError as error:
            raise NotStored("the ledger cannot be read now; the log has its cause", retry_after_s=1.0) from error
        total = Use()
        for use in rows.values():
            total.add(use)
        told = [
            {"day": day, "key": owner, "model": name, **_tell(use)}
            for (day, owner, name), use in list(rows.items())[-MOST_ROWS:]
        ]
        body = {
            "object": "list",
            "since": since,
            "total": _tell(total),
            "data": told,
            "has_more": len(told) < len(rows),
            "keys": list(islice(self._keys(call.principal, key), MOST_KEYS)),
        }
        call.reply(_json(body))

    def _keys(self, principal: Principal, key: str | None) -> Iterator[dict[str, object]]:
        """What keys may use; of tokens nothing is known before they are shown."""
        for each in self._people.table.principals.values():
            if key in (None, each.key_id) and (principal.admin or each.key_id == principal.key_id):
                limits = {name: most for name, most in asdict(each.allowance).items() if most is not None}
                yield {"key": each.key_id, "user": each.tenant, "limits": limits}


def _tell(use: Use) -> dict[str, int]:
    return {
        "requests": use.requests,
        "prompt_tokens": use.prompt_tokens,
        "completion_tokens": use.completion_tokens,
        "total_tokens": use.prompt_tokens + use.completion_tokens,
        "refused": use.refused,
    }
