"""A request by the end of its id, as tables show it."""

from hermes.cli.options import fail
from hermes.cli.remote import Refused, get
from hermes.cli.shapes import Past, Queue


def complete(url: str, said: str, refused: Refused) -> str:
    """The id that ends so, of those that are open and the last thousand that are over.

    `refused`: what was told of it as it was said; raised again where there is none.
    """
    ending = said.removeprefix("…")
    if refused.status != 404 or not ending:
        raise refused
    listed = [*get(url, "/v1/queue", shape=Queue)["data"], *get(url, "/v1/requests?limit=1000", shape=Past)["data"]]
    found = {id for each in listed if (id := str(each["request_id"])).endswith(ending)}
    if len(found) > 1:
        fail(f"{len(found)} requests have an id that ends in {ending}: say more of it", 1)
    if not found:
        raise refused
    return found.pop()
