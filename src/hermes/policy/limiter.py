"""Who may still use how much: the limits of each key, each model, and each key with each model, charged all or none.

Pure: time is an argument. What is reserved for a request is settled once, when it is over, with what it really took. A
limit in the mode `shadow` refuses nobody: it is charged for those whom it would have let in, and counts the others. An
account that is as it was when it was new is forgotten, so that of those that were ever seen only those in use are kept.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import compress
from typing import Literal, TypeVar

from msgspec import Struct

from hermes.policy.access import may_use
from hermes.policy.limits import AtOnce, Budget, Flow, Limit, Mark, Moment, Settle, Take, Window, day_of
from hermes.principal import UNBOUNDED, Allowance, Principal, Quota

Mode = Literal["enforce", "shadow", "off"]
T = TypeVar("T", Window, Flow)

# Of an answer, before any was seen: the mean of the conversations in the Azure LLM inference trace of 2023.
USUAL_OUTPUT_TOKENS = 211
# So many answers of a key and model tell how long the next will be.
_LAST = 50
_FEW = 1000


class Modes(Struct, frozen=True):
    """`concurrency`: `queue` has what is too much wait with everything else that waits."""

    rpm: Mode = "enforce"
    tpm: Mode = "enforce"
    daily_tokens: Mode = "enforce"
    monthly_tokens: Mode = "enforce"
    concurrency: Literal["queue", "reject", "shadow", "off"] = "queue"


class Refusal(Struct, frozen=True):
    """Which limit of whose (`key`, `model`, `key_model`) says no, and for how long at least."""

    limit: str
    scope: str
    most: int
    wait_s: float


class Account:
    """What one key, one model, or one key with one model may use, and has used."""

    __slots__ = ("allowance", "limits", "name", "open", "scope")

    def __init__(self, scope: str, name: str) -> None:
        self.scope = scope
        self.name = name
        self.allowance = UNBOUNDED
        self.limits: dict[str, Limit] = {}
        self.open = 0  # requests that are not settled


class Rule(Struct, frozen=True, gc=False):
    """One limit as it is asked: `label` is limit, scope and mode."""

    limit: Limit
    label: tuple[str, str, str]
    refuses: bool


class Lengths:
    """How long the last answers of a key and model were. `most`: the next will be no longer, nine times in ten.

    It is found anew as soon as a tenth of them are new.
    """

    __slots__ = ("_last", "_until", "most")

    def __init__(self) -> None:
        self.most = USUAL_OUTPUT_TOKENS
        self._last: deque[int] = deque(maxlen=_LAST)
        self._until = 1  # so many more

    def add(self, tokens: int) -> None:
        self._last.append(tokens)
        self._until -= 1
        if not self._until:
            found = sorted(self._last)
            self.most, self._until = found[len(found) * 9 // 10], -(-len(found) // 10)


class Least(Struct, frozen=True):
    """Of several limits of a kind, what that one leaves which leaves the least."""

    limits: tuple[Window | Flow, ...]

    def quota(self, at: Moment) -> Quota:
        return min((limit.quota(at) for limit in self.limits), key=_left)


class Party(Struct, frozen=True, eq=False):
    """All that bounds one key's requests for one model. `caps`: the runs at once for which more have to wait."""

    principal: Principal
    allowance: Allowance
    accounts: tuple[Account, ...]
    rules: tuple[Rule, ...]
    takes: tuple[Take, ...]  # of the rules, in their order
    settles: tuple[Settle, ...]
    requests: Window | Least | None  # that refuse
    tokens: Flow | Least | None
    budgets: tuple[tuple[str, Budget], ...]
    caps: tuple[tuple[str, int], ...]
    lengths: Lengths | None  # of answers; None: nobody asks

    def quotas(self, at: Moment) -> tuple[Quota | None, Quota | None]:
        """What is left of requests and of tokens, each by the limit that leaves the least; None: there is none."""
        requests, tokens = self.requests, self.tokens
        return None if requests is None else requests.quota(at), None if tokens is None else tokens.quota(at)


class Hold(Struct, eq=False, gc=False):
    """What is reserved for one request."""

    party: Party
    prompt: int
    output: int
    settles: Sequence[Settle]
    marks: Sequence[Mark]

    def settle(self, tokens: int | None, at: Moment) -> None:
        """It is over, and took so many; None: it was given nothing, and nothing is charged. To be called once."""
        for account in self.party.accounts:
            account.open -= 1
        for settle, mark in zip(self.settles, self.marks):  # noqa: B905 - `strict` costs as much again
            settle(mark, tokens, at)


class Limiter:
    """`earlier`: what was used of budgets before this began, by account and period. `refused` counts, by `Rule.label`,
    those who were or would have been.
    """

    def __init__(self, modes: Modes, earlier: dict[tuple[str, str], int] | None = None) -> None:
        self.modes = modes
        self.earlier = {} if earlier is None else earlier
        self.refused: dict[tuple[str, str, str], int] = {}
        self._accounts: dict[str, Account] = {}
        self._parties: dict[tuple[str, str], Party] = {}
        self._many = _FEW

    def party(self, principal: Principal, model: str, allowance: Allowance, at: Moment) -> Party:
        """`allowance` is what all keys together may use of the model."""
        party = self._parties.get((principal.key_id, model))
        if party is None or party.principal is not principal or party.allowance is not allowance:
            party = self._join(principal, model, allowance, at)
        return party

    def reserve(self, party: Party, prompt: int, most_output: int | None, at: Moment) -> Hold | Refusal:
        """For an answer of at most `most_output` tokens to a prompt of so many. Who is refused is charged nothing."""
        output, lengths = 0, party.lengths
        if lengths is not None:
            output = lengths.most
            if most_output is not None and most_output < output:
                output = most_output
        cost = prompt + output
        for account in party.accounts:
            account.open += 1
        hold = Hold(party, prompt, output, party.settles, [take(cost, prompt, at) for take in party.takes])
        if None in hold.marks:
            taken = [mark is not None for mark in hold.marks]
            hold.settles, hold.marks = tuple(compress(hold.settles, taken)), tuple(compress(hold.marks, taken))
            lacking = [rule for rule, is_taken in zip(party.rules, taken, strict=True) if not is_taken]
            refusal = self._refuse(lacking, cost, prompt, at)
            if refusal is not None:
                hold.settle(None, at)
                return refusal
        return hold

    def _refuse(self, lacking: Iterable[Rule], cost: int, prompt: int, at: Moment) -> Refusal | None:
        """By the limit that would let it in last, of those `lacking` room that refuse; None: they are shadows."""
        worst = None
        for rule in lacking:
            self.refused[rule.label] = self.refused.get(rule.label, 0) + 1
            wait_s = rule.limit.wait_s(cost, prompt, at)
            if rule.refuses and (worst is None or wait_s > worst.wait_s):
                worst = Refusal(rule.label[0], rule.label[1], rule.limit.most, wait_s)
        return worst

    def budgets(self) -> Iterable[tuple[str, Budget]]:
        """Of all accounts, by their names."""
        return [(account.name, budget) for account in self._accounts.values() for budget in _budgets(account)]

    def change(self, modes: Modes) -> None:
        """What has been used stays so."""
        self.modes = modes
        self._parties.clear()

    # --- who has what -----------------------------------------------------------------------------------------------

    def _join(self, principal: Principal, model: str, allowance: Allowance, at: Moment) -> Party:
        if len(self._parties) >= self._many:
            self._forget(at)
        key_id = principal.key_id
        own = next((own for pattern, own in principal.per_model if may_use((pattern,), model)), UNBOUNDED)
        told = (
            ("key", f"key {key_id}", principal.allowance),
            ("model", f"model {model}", allowance),
            ("key_model", f"key {key_id} model {model}", own),
        )
        accounts = tuple(self._account(*each, at) for each in told if each[2] != UNBOUNDED)
        rules = tuple(
            Rule(limit, (name, account.scope, _mode(self.modes, name)), _mode(self.modes, name) != "shadow")
            for account in accounts
            for name, limit in account.limits.items()
            if self._holds(account.allowance, name)
        )
        caps: tuple[tuple[str, int], ...] = ()
        if self.modes.concurrency == "queue":
            caps = tuple((each.name, most) for each in accounts if (most := each.allowance.concurrency) is not None)
        before = self._parties.get((key_id, model))
        lengths = before.lengths if before is not None else None
        if not any(isinstance(rule.limit, Flow | Budget) for rule in rules):
            lengths = None
        elif lengths is None:
            lengths = Lengths()
        refusing = [rule.limit for rule in rules if rule.refuses]
        party = self._parties[key_id, model] = Party(
            principal=principal,
            allowance=allowance,
            accounts=accounts,
            rules=rules,
            takes=tuple(rule.limit.take for rule in rules),
            settles=tuple(rule.limit.settle for rule in rules),
            requests=_least(tuple(limit for limit in refusing if isinstance(limit, Window))),
            tokens=_least(tuple(limit for limit in refusing if isinstance(limit, Flow))),
            budgets=tuple(
                (each.name, limit)
                for each in accounts
                for kind, limit in each.limits.items()
                if isinstance(limit, Budget) and self._holds(each.allowance, kind)
            ),
            caps=caps,
            lengths=lengths,
        )
        return party

    def _account(self, scope: str, name: str, allowance: Allowance, at: Moment) -> Account:
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(scope, name)
        account.allowance = allowance
        for kind in Allowance.__struct_fields__:
            most, limit = getattr(allowance, kind), account.limits.get(kind)
            if not self._holds(allowance, kind):
                continue  # what was used of it is not forgotten: it may hold again
            if limit is None:
                account.limits[kind] = self._limit(kind, most, name)
            else:
                limit.resize(most, at)
        return account

    def _holds(self, allowance: Allowance, kind: str) -> bool:
        return getattr(allowance, kind) is not None and _mode(self.modes, kind) not in ("off", "queue")

    def _limit(self, kind: str, most: int, account: str) -> Limit:
        match kind:
            case "rpm":
                return Window(most)
            case "tpm":
                return Flow(most)
            case "concurrency":
                return AtOnce(most)
        span: Literal["day", "month"] = "day" if kind == "daily_tokens" else "month"
        return Budget(most, span, partial(self._used_earlier, account))

    def _used_earlier(self, account: str, period: str) -> int:
        return self.earlier.pop((account, period), 0)

    def _forget(self, at: Moment) -> None:
        """What nobody would miss. Of a budget its number is enough."""
        for name, account in list(self._accounts.items()):
            budgets = _budgets(account)
            if not account.open and all(
                limit.is_blank(at) for limit in account.limits.values() if limit not in budgets
            ):
                self.earlier |= {(name, budget.period): budget.used for budget in budgets if not budget.is_blank(at)}
                del self._accounts[name]
        today = day_of(at.unix)
        self.earlier = {key: used for key, used in self.earlier.items() if today.startswith(key[1])}
        self._parties = {
            key: party
            for key, party in self._parties.items()
            if party.accounts and all(self._accounts.get(each.name) is each for each in party.accounts)
        }
        self._many = max(_FEW, 2 * len(self._parties))


def _mode(modes: Modes, kind: str) -> str:
    mode: str = getattr(modes, kind)
    return mode


def _budgets(account: Account) -> list[Budget]:
    return [limit for limit in account.limits.values() if isinstance(limit, Budget)]


def _least(limits: tuple[T, ...]) -> T | Least | None:
    return Least(limits) if len(limits) > 1 else limits[0] if limits else None


def _left(quota: Quota) -> tuple[int, float]:
    return quota.remaining, -quota.reset_s
