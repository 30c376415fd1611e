"""The route about what was used: one's own, or, for operators, everybody's."""

import re

import msgspec

from hermes.api.routes import Call
from hermes.errors import BadRequest, NotStored, StorageError
from hermes.policy.limits import day_of
from hermes.storage.ledger import Ledger, Use

_json = msgspec.json.Encoder().encode

# Rows that are told at once.
MOST_ROWS = 10_000

_DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII).fullmatch


class Usage:
    """`ledger` None: nothing is counted."""

    def __init__(self, ledger: Ledger | None) -> None:
        self._ledger = ledger

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
        }
        call.reply(_json(body))


def _tell(use: Use) -> dict[str, int]:
    return {
        "requests": use.requests,
        "prompt_tokens": use.prompt_tokens,
        "completion_tokens": use.completion_tokens,
        "total_tokens": use.prompt_tokens + use.completion_tokens,
        "refused": use.refused,
    }
