"""What can be configured: one frozen `Config`, the same whether a key came from a file, a variable or a flag.

Importing this reads nothing; `config.load` makes a Config. Each key is explained in `meanings.toml`, of which,
with these types, docs/configuration.md and the editors' schema are made.
"""

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from hermes.config.kinds import (
    AccessLog,
    Algorithm,
    Attempts,
    BackendKind,
    BackendName,
    Bytes,
    CacheRule,
    CacheScope,
    ClassName,
    CollectorUrl,
    Command,
    ConcurrencyMode,
    Cost,
    Count,
    CountOrZero,
    EnvName,
    HeaderName,
    Host,
    HostName,
    KeepAlive,
    KeySetUrl,
    Label,
    Leeway,
    LimitMode,
    LineStart,
    ModelGlob,
    ModelName,
    Moment,
    Number0To1,
    Number0To2,
    OptionsPolicy,
    Origin,
    Path,
    Penalty,
    Plugin,
    Port,
    PullRule,
    Quota,
    Rate,
    Seconds,
    SecondsOrZero,
    Secret,
    Seed,
    Sha256,
    StateDir,
    StopText,
    Tokens,
    Url,
    UrlPath,
    User,
    Weight,
)

__all__ = [
    "Admin",
    "Allowance",
    "Backend",
    "Cache",
    "Claims",
    "Config",
    "Cors",
    "Defaults",
    "Health",
    "Issuer",
    "Key",
    "Limits",
    "LoadOptions",
    "Logging",
    "Model",
    "Modes",
    "Params",
    "Rights",
    "Scheduling",
    "Secret",
    "Server",
    "Tls",
    "Tracing",
]


# --- the door -------------------------------------------------------------------------------------------------------


class Tls(Struct, frozen=True):
    """The server's certificate (PEM, with its chain); the key may be in the same file."""

    cert_file: Path
    key_file: Path | None = None


class Cors(Struct, frozen=True):
    """Which web pages may ask, and read the answers: those of these `origins`; none: off.

    `headers`: what they may send; none: what they ask for. `credentials`: cookies and Basic of the browser's own.
    """

    origins: tuple[Origin, ...] = ()
    headers: tuple[HeaderName, ...] = ()
    credentials: bool = False
    max_age_s: SecondsOrZero = 600


class Server(Struct, frozen=True):
    """Where Hermes listens, to whom it answers, and how long it puts up with slow clients."""

    host: Host = "127.0.0.1"
    port: Port = 4000
    unix_socket: Path | None = None
    tls: Tls | None = None
    allowed_hosts: tuple[HostName, ...] = ()
    cors: Cors = Cors()
    insecure: bool = False
    ollama_management: bool = False
    header_timeout_s: Seconds = 10
    body_min_bytes_per_s: Count = 1024
    max_body_bytes: Bytes = 10 * 2**20
    keep_alive_s: Seconds = 75
    write_timeout_s: Seconds = 60
    max_connections: CountOrZero = 0
    cpu_affinity: tuple[CountOrZero, ...] = ()
    drain_timeout_s: Seconds = 30
    drain_grace_s: SecondsOrZero = 0
    state_dir: StateDir | None = None
    watch_config: bool = True


class Admin(Struct, frozen=True):
    """The operators' own listener. `unix_socket`: None: in the state_dir. Without a `port` no address.

    `dashboard`: the page is there; without a port where clients come, if only this machine can.
    """

    host: Host = "127.0.0.1"
    port: Port | None = None
    unix_socket: StateDir | None = None
    metrics: bool = False
    dashboard: bool = True


class Allowance(Struct, frozen=True):
    """What may be used of one model at most: the names of `principal.Allowance`."""

    rpm: Count | None = None
    tpm: Count | None = None
    concurrency: Count | None = None
    daily_tokens: Quota | None = None
    monthly_tokens: Quota | None = None


class Key(Struct, frozen=True):
    """A static key, known only by its digest. `user` is the tenant it acts for.

    Its requests are of `usual_class` unless they say otherwise, and never above `max_class`. `models`: patterns of
    those that it may use; none: all. `metrics`: it may read them. What it may use is bounded for all models together,
    and for each that a pattern of `per_model` fits.
    """

    user: User
    sha256: Sha256
    admin: bool = False
    max_class: ClassName | None = None
    usual_class: ClassName | None = None
    weight: Weight = 1
    models: tuple[ModelGlob, ...] = ()
    expires: Moment | None = None
    metrics: bool = False
    rpm: Count | None = None
    tpm: Count | None = None
    concurrency: Count | None = None
    daily_tokens: Quota | None = None
    monthly_tokens: Quota | None = None
    per_model: dict[ModelGlob, Allowance] = {}

    @property
    def key_id(self) -> str:
        """Enough of the digest to tell keys apart in a log, too little to look one up by."""
        return self.sha256[:12]

    def __repr__(self) -> str:
        return f"Key({self.key_id}, user={self.user!r}, admin={self.admin})"


class Rights(Struct, frozen=True):
    """What the holder of a token may do: as for a key."""

    admin: bool = False
    metrics: bool = False
    models: tuple[ModelGlob, ...] = ()
    max_class: ClassName | None = None
    usual_class: ClassName | None = None
    weight: Weight = 1
    rpm: Count | None = None
    tpm: Count | None = None
    concurrency: Count | None = None
    daily_tokens: Count | None = None
    monthly_tokens: Count | None = None


class Claims(Struct, frozen=True):
    """The claims that say it, with dots for one inside another. All but the first two are rights."""

    tenant: Label = "sub"
    roles: Label | None = None
    admin: Label | None = None
    metrics: Label | None = None
    models: Label | None = None
    max_class: Label | None = None
    usual_class: Label | None = None
    weight: Label | None = None
    rpm: Label | None = None
    tpm: Label | None = None
    concurrency: Label | None = None
    daily_tokens: Label | None = None
    monthly_tokens: Label | None = None


class Issuer(Struct, frozen=True):
    """Whose JSON Web Tokens are taken in place of keys, and what they come to. `roles`: the first one counts."""

    name: BackendName
    issuer: Label
    audience: tuple[Label, ...]
    algorithms: tuple[Algorithm, ...] = ("RS256",)
    jwks_url: KeySetUrl | None = None
    jwks_file: Path | None = None
    ca_file: Path | None = None
    leeway_s: Leeway = 30
    claims: Claims = Claims()
    roles: dict[Label, Rights] = {}


# --- what is served -------------------------------------------------------------------------------------------------


class Backend(Struct, frozen=True):
    """One server with models. `slots`: how many requests it runs at once per loaded model (OLLAMA_NUM_PARALLEL);
    `max_loaded`: how many models it has loaded at once (OLLAMA_MAX_LOADED_MODELS). `plugin`: the class that speaks to a
    custom one.

    With a `command` it is a process of ours, with one `model`; those of one name share a memory. What such a backend
    does not say of its name, url, kind and model, the command does (`config.commands`).
    """

    name: BackendName
    url: Url
    kind: BackendKind = "ollama"
    plugin: Plugin | None = None
    memory: Bytes | None = None
    max_loaded: Count | None = None
    slots: Count | None = None
    weight: Weight = 1
    ca_file: Path | None = None
    api_key: Secret | None = None
    connect_timeout_s: Seconds = 5
    probe_interval_s: Seconds = 5
    simulated: bool = False
    command: Command | None = None
    env: dict[EnvName, Secret] = {}
    model: ModelName | None = None
    health: UrlPath | None = None
    start_timeout_s: Seconds = 300
    idle_ttl: Seconds | None = None
    preload: bool = False


class Params(Struct, frozen=True):
    """Sampling where the request says nothing: the names of `chat.Sampling`."""

    temperature: Number0To2 | None = None
    top_p: Number0To1 | None = None
    top_k: Tokens | None = None
    min_p: Number0To1 | None = None
    seed: Seed | None = None
    max_tokens: Tokens | None = None
    stop: tuple[StopText, ...] = ()
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: Number0To2 | None = None
    repeat_last_n: Tokens | None = None
    typical_p: Number0To1 | None = None


class LoadOptions(Struct, frozen=True):
    """What a model is loaded with, by Ollama's names. None: what the server finds best."""

    num_ctx: Count | None = None
    num_batch: Count | None = None
    num_gpu: CountOrZero | None = None
    main_gpu: CountOrZero | None = None
    num_thread: Count | None = None
    use_mmap: bool | None = None
    draft_num_predict: CountOrZero | None = None


class Defaults(Struct, frozen=True):
    """What a model gets where it says nothing itself."""

    max_concurrency: Count | None = None
    queue_limit: CountOrZero = 256
    timeout_s: Seconds = 120
    stall_timeout_s: Seconds = 60
    max_stream_s: Seconds = 3600
    options_policy: OptionsPolicy = "pin"
    max_num_ctx: Count | None = None
    pull: PullRule = "never"
    cache: CacheRule = False


class Model(Struct, frozen=True):
    """One model under its public name, with the defaults already filled in. No `backends`: any that has it.

    All but `timeout_s`: the default one gives way to a long load, the model's own never.
    """

    backend_model: ModelName | None = None
    backends: tuple[BackendName, ...] = ()
    fallback: tuple[ModelName, ...] = ()
    max_concurrency: Count | None = None
    adaptive_concurrency: bool = False
    queue_limit: CountOrZero = 256
    timeout_s: Seconds | None = None
    stall_timeout_s: Seconds = 60
    max_stream_s: Seconds = 3600
    pull: PullRule = "never"
    memory_cost: Cost | None = None
    load_time_s: Seconds | None = None
    decode_tps: Rate | None = None
    options: LoadOptions = LoadOptions()
    options_policy: OptionsPolicy = "pin"
    max_num_ctx: Count | None = None
    keep_alive: KeepAlive | None = None
    pinned: bool = False
    max_class: ClassName | None = None
    params: Params = Params()
    max_output_tokens: Tokens | None = None
    rpm: Count | None = None
    tpm: Count | None = None
    daily_tokens: Quota | None = None
    monthly_tokens: Quota | None = None
    cache: CacheRule = False


class Modes(Struct, frozen=True):
    """What comes of a limit: `shadow` counts whom it would refuse."""

    rpm: LimitMode = "enforce"
    tpm: LimitMode = "enforce"
    daily_tokens: LimitMode = "enforce"
    monthly_tokens: LimitMode = "enforce"
    concurrency: ConcurrencyMode = "queue"


class Limits(Struct, frozen=True):
    """Bounds of the whole process, and how those of keys and models are taken."""

    max_concurrent: Count | None = None
    queue_total: Count = 4096
    queue_bytes: Bytes = 256 * 2**20
    per_tenant_queue: Count = 2048
    max_attempts: Attempts = 3
    retry_ratio: Number0To1 = 0.2
    modes: Modes = Modes()


class Interactive(Struct, frozen=True):
    """Somebody is waiting. `weight`: the share beside the other classes; `max_wait_s`: 0 is no bound."""

    weight: Weight = 16
    max_wait_s: SecondsOrZero = 30


class Normal(Struct, frozen=True):
    weight: Weight = 4
    max_wait_s: SecondsOrZero = 120


class Batch(Struct, frozen=True):
    weight: Weight = 1
    max_wait_s: SecondsOrZero = 0


class Scheduling(Struct, frozen=True):
    """Who runs next, and which models are loaded for it."""

    interactive: Interactive = Interactive()
    normal: Normal = Normal()
    batch: Batch = Batch()
    usual_class: ClassName = "normal"
    model_floor: Number0To1 = 0.5
    queue_heartbeat_s: SecondsOrZero = 20


class Health(Struct, frozen=True):
    """When a backend is thought to hang, and how soon it is tried again. `silence_s`: 0 is never."""

    silence_s: SecondsOrZero = 30
    probe_timeout_s: Seconds = 15
    pause_s: Seconds = 1


class Cache(Struct, frozen=True):
    """Answers that are given again, of the models that say so. `scope`: who is given what another was."""

    max_bytes: Bytes = 64 * 2**20
    ttl_s: Seconds = 3600
    scope: CacheScope = "key"


class Logging(Struct, frozen=True):
    """`access_log`: stderr, off, or a file. `format`: auto is lines to read on a terminal, else JSON."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    access_log: AccessLog = "stderr"
    format: Literal["auto", "json", "human"] = "auto"


class Tracing(Struct, frozen=True):
    """Where the spans of requests go; None: nowhere. `sample_ratio`: of those that nobody else has decided about.

    `capture_content`: what is asked and answered goes too, of these users; none: of all.
    """

    otlp_endpoint: CollectorUrl | None = None
    sample_ratio: Number0To1 = 1
    service_name: Label = "hermes"
    capture_content: bool = False
    capture_users: tuple[User, ...] = ()


class Config(Struct, frozen=True):
    """Everything, checked. `backends` is never empty once loaded."""

    server: Server = Server()
    backends: tuple[Backend, ...] = ()
    models: dict[ModelName, Model] = {}
    defaults: Defaults = Defaults()
    serve_unlisted: bool = True
    volatile_lines: tuple[LineStart, ...] = ()
    limits: Limits = Limits()
    scheduling: Scheduling = Scheduling()
    health: Health = Health()
    admin: Admin = Admin()
    cache: Cache = Cache()
    keys: tuple[Key, ...] = ()
    jwt: tuple[Issuer, ...] = ()
    logging: Logging = Logging()
    tracing: Tracing = Tracing()

    def model(self, name: str) -> Model | None:
        """How to serve `name`: as listed, by the defaults if unlisted models are served, or not at all."""
        listed = self.models.get(name)
        if listed is None and self.serve_unlisted:
            return with_defaults(Model(), self.defaults, said=frozenset())
        return listed


def with_defaults(model: Model, defaults: Defaults, said: frozenset[str]) -> Model:
    """The model with `defaults` in place of whatever is not among the keys it `said` itself."""
    filled = (key for key in Defaults.__struct_fields__ if key not in said and key != "timeout_s")
    return replace(model, **{key: getattr(defaults, key) for key in filled})
