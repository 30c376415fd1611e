"""Where the verbs change what operators may: by the running server's admin socket, else in the file itself."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from hermes import composition, grants
from hermes.auth import Authenticator
from hermes.cli.options import fail, load_or_exit
from hermes.cli.remote import get
from hermes.config import Config
from hermes.config.load import Source
from hermes.errors import GatewayError, StorageError
from hermes.keyring import OPERATOR, Keyring
from hermes.storage.store import Store

# Operations of the keyring, as its routes have them.
_ROUTES = {
    "list": ("GET", "/admin/keys"),
    "create": ("POST", "/admin/keys"),
    "show": ("GET", "/admin/keys/{}"),
    "update": ("PATCH", "/admin/keys/{}"),
    "revoke": ("DELETE", "/admin/keys/{}"),
    "rotate": ("POST", "/admin/keys/{}/rotate"),
}
_ONLY_LOOK = ("list", "show")


def ask(config_path: str | None, operation: str, named: str = "", asked: dict[str, Any] | None = None) -> Any:
    """What the operation tells. Exits with a message when that fails."""
    config = load_or_exit(Source(config_path, os.environ, {}, Path.cwd()))
    path = composition.admin_socket(config, os.environ)
    if path is not None and answers(path):
        method, route = _ROUTES[operation]
        return get(f"unix://{path}", route.format(quote(named, safe="")), method, asked)
    told = _in_the_file(config, path, operation, named, asked or {})
    if operation not in _ONLY_LOOK:
        click.echo(f"hermes: no server answers at {path}: the next one that starts reads it from the file", err=True)
    return told


def folder(config_path: str | None) -> Path:
    """The state_dir. Exits with a message where there is none."""
    found = composition.state_dir(load_or_exit(Source(config_path, os.environ, {}, Path.cwd())).server, os.environ)
    return found or fail("nothing is stored: server.state_dir is off, or there is no HOME to have it in", 2)


def answers(path: Path) -> bool:
    """Whether a Hermes does, at its admin socket. Exits with a message where that is another user's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        try:
            caller.connect(str(path))
        except PermissionError:
            fail(f"{path} is another user's: become who runs that Hermes, or say another --config", 1)
        except OSError:  # nobody, or a path that is too long to be listened at
            return False
    return True


def _in_the_file(config: Config, path: Path | None, operation: str, named: str, asked: dict[str, Any]) -> Any:
    store = Store(composition.state_dir(config.server, os.environ))
    keyring = Keyring(Authenticator({}), store)
    keyring.adopt(grants.static_keys(config), grants.stored(config))
    try:
        keyring.load()
        return asyncio.run(getattr(keyring, operation)(named, asked, OPERATOR))
    except (GatewayError, StorageError) as error:
        stored = error if isinstance(error, StorageError) else error.__cause__
        if isinstance(stored, StorageError) and stored.in_use:
            where = f"does not answer at {path}" if path else "has no admin.unix_socket"
            fail(f"{stored}, which {where}", 3)
        fail(str(error), 1)
    finally:
        store.close()
