"""Changes keys for as long as it lives, and tells each change when it is acknowledged: a line of JSON.

python writer.py FOLDER SEED FULL|NORMAL|OFF
"""

import asyncio
import json
import random
import sqlite3
import sys
from pathlib import Path

from hermes.auth import Authenticator
from hermes.keyring import OPERATOR, Keyring
from hermes.storage import database
from hermes.storage.store import Store


def tell(**change: object) -> None:
    print(json.dumps(change), flush=True)


async def change(keyring: Keyring, lot: random.Random, number: int) -> None:
    """One after the other, so that at the end at most one of them is in doubt."""
    live = [key["id"] for key in (await keyring.list("", {}, OPERATOR))["data"] if key["revoked_at"] is None]
    what = lot.choice(("create", "rotate", "update", "revoke")) if len(live) > 3 else "create"
    if what == "create":
        name = f"n{number}-{lot.randrange(1 << 60)}"
        tell(about=name)
        made = await keyring.create("", {"name": name, "rpm": number + 1}, OPERATOR)
        tell(id=made["id"], key=made["key"], rpm=made["rpm"])
        return
    id = lot.choice(live)
    tell(about=id)
    match what:
        case "rotate":
            tell(id=id, key=(await keyring.rotate(id, {"grace_s": 0}, OPERATOR))["key"])
        case "update":
            tell(id=id, rpm=(await keyring.update(id, {"rpm": number + 1}, OPERATOR))["rpm"])
        case "revoke":
            await keyring.revoke(id, {}, OPERATOR)
            tell(id=id, key=None)


async def main(folder: Path, seed: int) -> None:
    store, lot = Store(folder), random.Random(seed)
    keyring = Keyring(Authenticator({}), store)
    keyring.adopt({}, lambda key, until: OPERATOR)
    keyring.load()
    for number in range(10**6):
        await change(keyring, lot, number)


def synchronous(level: str) -> None:
    """As the database is opened, so much later that it counts."""
    prepare = database._prepare

    def prepared(connection: sqlite3.Connection) -> None:
        prepare(connection)
        connection.execute(f"PRAGMA synchronous={level}")

    database._prepare = prepared


if __name__ == "__main__":
    if sys.argv[3] != "FULL":
        synchronous(sys.argv[3])
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
