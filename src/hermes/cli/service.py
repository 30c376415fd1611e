"""`hermes service`: have the system start Hermes, keep it running, and stop it gently."""

import os
import shutil
import sys
from pathlib import Path

import click

from hermes.cli.options import fail, say
from hermes.config.files import find
from hermes.errors import ConfigError

_NAME = "hermes.service"
_LABEL = "hermes.gateway"  # launchd's
# By ProtectHome and PrivateTmp of the system's unit.
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - is not written to


@click.group("service")
def command() -> None:
    """Run Hermes as a service of the system: systemd's, or launchd's on macOS.

    \b
    hermes service install --user
    """


@command.command("install")
@click.option("--user", is_flag=True, help="For you alone, without root. On macOS always.")
@click.option("--config", "path", metavar="FILE", help="The configuration file. Default: where `hermes serve` looks.")
@click.option("--print", "only_print", is_flag=True, help="Print it, and write nothing.")
def install(user: bool, path: str | None, only_print: bool) -> None:
    """Write the unit that starts this Hermes, and say what to do next. A unit of that name is replaced.

    \b
    hermes service install
    hermes service install --user
    hermes service install --print | less
    """
    file = _configuration(path)
    program = [_program(), "serve"] + (["--config", str(file)] if file else [])
    if sys.platform == "darwin":
        folder, name, text = Path.home() / "Library/LaunchAgents", f"{_LABEL}.plist", plist(program, Path.home())
        after = [f"launchctl bootstrap gui/{os.getuid()} {folder / name}"]
    else:
        folder = _user_units() if user else Path("/etc/systemd/system")
        name, text = _NAME, user_unit(program) if user else unit(program)
        systemctl = "systemctl --user" if user else "systemctl"
        after = [f"{systemctl} daemon-reload", f"{systemctl} enable --now {name}"]
        if not user and not only_print:
            if file:
                _check_is_seen(file)
            _check_for_all(program[0])
    if only_print:
        say(text, nl=False)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    except OSError as error:
        hint = ". As root, or with --user" if isinstance(error, PermissionError) and not user else ""
        fail(f"cannot write {folder / name}: {error.strerror}{hint}", 1)
    say(f"wrote {folder / name}, which reads {file or 'no file'}; to start it:")
    for line in after:
        say(f"  {line}")


def _program() -> str:
    """By which it was called, or would be."""
    found = shutil.which(sys.argv[0]) or shutil.which("hermes")
    return str(Path(found).absolute()) if found else fail("which program is meant? Call it as `hermes`", 1)


def _configuration(path: str | None) -> Path | None:
    """The file that `hermes serve` would read here and now: a service is started elsewhere."""
    try:
        file = find(path or os.environ.get("HERMES_CONFIG"), os.environ, Path.cwd())
    except ConfigError as error:
        fail(str(error), 2)
    return file.absolute() if file else None


def _user_units() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".config") / "systemd/user"


def _check_for_all(program: str) -> None:
    """The unit's user is nobody who is there already, so what it runs has to be everybody's: Python and Hermes too."""
    for path in (Path(program), Path(sys.executable), Path(__file__)):
        if (unseen := _unseen(path)) is not None:
            hint = "install it for all: /usr/bin/python3 -m venv /opt/hermes && /opt/hermes/bin/pip install ."
            alone = "or run it for you alone: hermes service install --user"
            needs = "" if path == Path(program) else f", which needs {path}"
            fail(f"the service's user may not look into {unseen}, so cannot run {program}{needs}; {hint}; {alone}", 1)


def _check_is_seen(file: Path) -> None:
    """A file that is not there yet may come; one that is has to be there for the unit's user too."""
    if _unseen(file) is not None:
        there = "/etc/hermes/hermes" + file.suffix
        hint = f"install -D -m 644 {file} {there} && hermes service install --config {there}"
        fail(f"the service's user cannot read {file}; put it where it can: {hint}", 1)


def _unseen(path: Path) -> Path | None:
    """What keeps others from reading it, wherever links lead; None: nothing does."""
    real = path.resolve()
    for each in map(Path, HIDDEN):
        if real.is_relative_to(each):
            return each
    needed = {real: 0o004} | dict.fromkeys(real.parents, 0o001)
    return next((each for each, mode in needed.items() if each.exists() and not each.stat().st_mode & mode), None)


# --- systemd ----------------------------------------------------------------------------------------------------------


def unit(program: list[str]) -> str:
    """For the system's systemd, 247 or newer."""
    return f"""{_HEAD}{_start(program)}# Keys, for root alone: /etc/credstore/API_KEYS_JSON
LoadCredential=API_KEYS_JSON
DynamicUser=yes
StateDirectory=hermes
StateDirectoryMode=0700
Environment=HERMES_SERVER__STATE_DIR=%S/hermes
UMask=0077

# It listens, asks backends, and writes to its state directory: nothing else.
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
# of devices the GPUs' alone, of which it asks how much memory is left
DevicePolicy=closed
DeviceAllow=char-nvidia* rw
DeviceAllow=char-drm rw
DeviceAllow=char-kfd rw
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RemoveIPC=yes
CapabilityBoundingSet=
AmbientCapabilities=
{_CONFINED}
[Install]
WantedBy=multi-user.target
"""


def user_unit(program: list[str]) -> str:
    """For a user's own, which may not confine as much without root."""
    return f"{_HEAD}{_start(program)}\n{_CONFINED}\n[Install]\nWantedBy=default.target\n"


_HEAD = """[Unit]
Description=Hermes, a gateway in front of LLM servers
After=network.target ollama.service

"""

_CONFINED = """NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
"""


def _start(program: list[str]) -> str:
    return f"""[Service]
Type=notify
ExecStart={" ".join(map(_quoted, program))}
ExecReload=/bin/kill -HUP $MAINPID
Restart=on-failure
RestartSec=1
# A loop that hangs is killed and started again.
WatchdogSec=30
# SIGTERM to Hermes, which drains and says how long that may take; what it runs it stops itself.
KillMode=mixed
TimeoutStopSec=45
"""


def _quoted(word: str) -> str:
    """As one word of a command line (systemd.service(5), systemd.syntax(7))."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if any(mark in word for mark in " \t'\"\\;") else escaped


# --- launchd ----------------------------------------------------------------------------------------------------------


def plist(program: list[str], home: Path) -> str:
    """launchd.plist(5)"""
    import plistlib

    return plistlib.dumps(
        {
            "Label": _LABEL,
            "ProgramArguments": program,
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ExitTimeOut": 45,
            "ProcessType": "Interactive",  # else macOS slows it down in favour of what has windows
            "SoftResourceLimits": {"NumberOfFiles": 8192},
            "WorkingDirectory": str(home),
            "StandardErrorPath": str(home / "Library/Logs/hermes.log"),
        },
        sort_keys=False,
    ).decode()
