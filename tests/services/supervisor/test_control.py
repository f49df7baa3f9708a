"""Who may command: the rules, time, what is kept, and two servers over one store."""

import copy
import dataclasses
import json
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from records import LeaseChangedError, LeaseRecord, LeaseStore, open_database
from services.supervisor.commands import CommandRefusedError
from services.supervisor.control import ALWAYS_ALLOWED, Control
from services.supervisor.identity import Client

IDLE, ASK = 900.0, 60.0  # s
GUI = Client("gui", "ws1", "A", authenticated=True)
OTHER_SESSION = Client("gui", "ws1", "B", authenticated=True)
CLI = Client("cli", "ws2")
BOB = Client("bob@ws3", "ws3")
ADA = Client("ada", "ws4", staff=True, authenticated=True)
EVE = Client("eve", "ws5", staff=True, authenticated=True)


class Clock:
    """A time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class MemoryStore:
    """What `LeaseStore` does, without a database."""

    def __init__(self) -> None:
        self.lease = LeaseRecord()

    def load(self) -> LeaseRecord:
        return self.lease

    def save(self, record: LeaseRecord, expected_version: int) -> LeaseRecord:
        if self.lease.version != expected_version:
            raise LeaseChangedError
        self.lease = dataclasses.replace(record, version=expected_version + 1)
        return self.lease


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    engine = open_database(f"sqlite:///{tmp_path_factory.mktemp('records') / 'records.db'}")
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine, request):
    return LeaseStore(engine, request.node.name)


@pytest.fixture
def clock():
    return Clock()


class Request:
    runs = False

    def __call__(self) -> bool:
        return self.runs


@pytest.fixture
def request_():
    return Request()


@pytest.fixture
def control(store, clock, request_):
    return Control(store, IDLE, ASK, request_, clock)


def may(control: Control, client: Client, function: str = "snap") -> bool:
    try:
        control.admit(client, function)
    except CommandRefusedError:
        return False
    return True


def reason(act, *args) -> str:
    with pytest.raises(CommandRefusedError) as caught:
        act(*args)
    assert caught.value.kind == "control"
    return caught.value.reason


ALL = (GUI, OTHER_SESSION, CLI, BOB, ADA, EVE)
RULES = {
    "free": ([], set(ALL)),
    "held": ([("ask", GUI)], {GUI}),
    "held by an unproven client": ([("ask", CLI)], {CLI}),
    "held by staff": ([("ask", ADA)], {ADA}),
    "asked for": ([("ask", GUI), ("ask", CLI)], {GUI}),
    "granted": ([("ask", GUI), ("ask", CLI), ("grant", GUI)], {CLI}),
    "granted by staff": ([("ask", GUI), ("ask", CLI), ("grant", ADA)], {CLI}),
    "declined": ([("ask", GUI), ("ask", CLI), ("refuse", GUI)], {GUI}),
    "released": ([("ask", GUI), ("release", GUI)], set(ALL)),
    "released while asked for": ([("ask", GUI), ("ask", CLI), ("release", GUI)], {CLI}),
    "asking withdrawn": ([("ask", GUI), ("ask", CLI), ("release", CLI)], {GUI}),
    "taken": ([("ask", GUI), ("ask", CLI), ("take", ADA, "the shutter")], {ADA}),
    "taken while free": ([("take", ADA, "")], {ADA}),
    "taken by its holder": ([("take", ADA, ""), ("take", ADA, "")], {ADA}),
    "taken from staff": ([("take", ADA, ""), ("take", EVE, "")], {EVE}),
    "locked": ([("lock", ADA, "venting")], {ADA, EVE}),
    "locked while held": ([("ask", GUI), ("lock", ADA, "venting")], set()),
    "locked and taken": ([("ask", GUI), ("lock", ADA, ""), ("take", EVE, "")], {EVE}),
    "locked and asked for": ([("lock", ADA, ""), ("ask", EVE)], {EVE}),
    "locked and released": ([("take", EVE, ""), ("lock", ADA, ""), ("release", EVE)], {ADA, EVE}),
    "unlocked": ([("ask", GUI), ("lock", ADA, ""), ("unlock", EVE)], {GUI}),
    "unlocked without a lock": ([("unlock", EVE)], set(ALL)),
}


@pytest.mark.parametrize(("steps", "admitted"), RULES.values(), ids=RULES)
def test_who_may_command(control, steps, admitted):
    for act, *args in steps:
        getattr(control, act)(*args)
    assert {client for client in ALL if may(control, client)} == admitted
    for client in ALL:
        assert all(may(control, client, function) for function in ALWAYS_ALLOWED)
        assert may(control, client, "resume") == (client in admitted)


@pytest.mark.parametrize(
    ("steps", "act", "why"),
    [
        ([], ("grant", ADA), "nobody asks for control"),
        ([("ask", GUI)], ("grant", GUI), "nobody asks for control"),
        ([("ask", GUI), ("ask", CLI)], ("grant", CLI), "only who has control grants it; gui@ws1"),
        ([("ask", GUI), ("ask", CLI)], ("refuse", ADA), "only who has control declines"),
        ([], ("refuse", GUI), "only who has control declines; nobody has control"),
        ([("ask", GUI)], ("refuse", GUI), "nobody asks for control"),
        ([("ask", GUI), ("ask", CLI)], ("ask", BOB), "cli@ws2 asked for control 0 s before"),
        ([], ("release", GUI), "there is nothing to release; nobody has control"),
        ([("ask", GUI)], ("release", ADA), "there is nothing to release; gui@ws1 (A) has"),
        ([], ("take", GUI, ""), "only staff takes control, and gui@ws1 (A) is not"),
        ([], ("lock", GUI, ""), "only staff locks control"),
        ([("lock", ADA, "")], ("unlock", GUI), "only staff unlocks control"),
        ([("lock", ADA, "venting")], ("ask", GUI), "locked by ada@ws4: venting"),
        ([("ask", GUI), ("lock", ADA, "")], ("admit", GUI, "snap"), "only staff may command: lock"),
    ],
)
def test_what_is_refused_changes_nothing(control, store, steps, act, why):
    for name, *args in steps:
        getattr(control, name)(*args)
    before = store.load()
    name, *args = act
    assert why in reason(getattr(control, name), *args)
    assert store.load() == before


def test_a_refusal_says_who_since_when_how_long_idle_and_how_to_ask(control, clock):
    control.ask(GUI)
    since = clock.now.astimezone()
    clock.go(300)
    has = f"gui@ws1 (A) has control since {since:%d %b %H:%M}, idle for 5 min; "
    assert reason(control.admit, CLI, "snap") == has + "ask_control asks for it"
    assert reason(control.admit, ADA, "snap") == has + "take_control takes it"
    control.ask(CLI)
    assert "you have asked for it" in reason(control.admit, CLI, "snap")


def test_longest_labels_can_be_kept_and_told(control):
    long = Client("n" * 64, "h" * 64, "s" * 64, staff=True, authenticated=True)
    control.take(long, "r" * 1000)
    view = control.lock(long, "r" * 1000)
    assert view.locked_by.startswith(long.label)
    assert long.label in reason(control.admit, ADA, "snap")


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (dataclasses.replace(GUI, host="elsewhere"), True),
        (dataclasses.replace(GUI, authenticated=False), False),
        (OTHER_SESSION, False),
    ],
)
def test_a_token_proves_a_holder_on_any_host(control, other, same):
    control.ask(GUI)
    assert may(control, other) is same


@pytest.mark.parametrize(
    "other",
    [dataclasses.replace(CLI, host="elsewhere"), dataclasses.replace(CLI, authenticated=True)],
)
def test_a_name_alone_is_good_for_one_host_only(control, other):
    control.ask(CLI)
    assert not may(control, other)
    assert may(control, CLI)


def test_control_is_lost_by_idling_and_commands_keep_it(control, clock):
    control.ask(GUI)
    clock.go(IDLE - 1)
    control.admit(GUI, "snap")
    clock.go(IDLE - 1)
    assert control.view().holder == GUI.label
    assert control.view().idle_for == IDLE - 1
    assert control.view().expires_in == 1
    clock.go(1)
    view = control.view()
    assert view.holder is None
    assert view.last_change == "nobody has control; gui@ws1 (A) was idle for 15 min"
    assert may(control, CLI)


def test_what_is_refused_to_others_does_not_keep_it(control, clock):
    control.ask(GUI)
    for _ in range(3):
        clock.go(IDLE / 3)
        may(control, CLI)
        control.admit(GUI, "abort")
    assert control.view().holder is None


def test_idle_control_goes_to_who_asks(store, clock):
    control = Control(store, idle_timeout=30, ask_timeout=60, clock=clock)
    control.ask(GUI)
    clock.go(20)
    control.ask(CLI)
    clock.go(10)
    assert control.tick().holder == CLI.label


def test_who_gets_no_answer_gets_control(control, clock):
    control.ask(GUI)
    assert control.ask(CLI).expires_in == ASK
    clock.go(ASK - 1)
    control.admit(GUI, "snap")  # not an answer
    assert control.ask(CLI).asked_by == CLI.label  # nor a new question
    clock.go(1)
    view = control.tick()
    assert (view.holder, view.asked_by, view.expires_in) == (CLI.label, None, IDLE)
    assert view.last_change == "cli@ws2 has control; gui@ws1 (A) did not answer"


def test_who_was_declined_does_not_get_it_by_waiting(control, clock):
    control.ask(GUI)
    control.ask(CLI)
    control.refuse(GUI)
    clock.go(ASK)
    assert control.tick().holder == GUI.label


def test_who_asks_is_let_go_by_a_lock(control, clock):
    control.ask(GUI)
    control.ask(CLI)
    assert control.lock(ADA, "venting").asked_by is None
    clock.go(ASK)
    assert control.unlock(ADA).holder == GUI.label


def test_while_a_request_runs_time_takes_control_from_nobody(control, clock, request_):
    control.ask(GUI)
    request_.runs = True
    for _ in range(5):
        clock.go(IDLE)
        assert control.tick().holder == GUI.label
    assert control.view().expires_in is None
    request_.runs = False
    clock.go(IDLE - 1)
    assert control.tick().holder == GUI.label  # it idles from the request's end on
    clock.go(1)
    assert control.tick().holder is None


def test_who_asks_has_control_when_the_request_ends(control, clock, request_):
    control.ask(GUI)
    request_.runs = True
    control.ask(CLI)
    clock.go(10 * ASK)
    assert control.tick().holder == GUI.label
    request_.runs = False
    assert control.tick().holder == CLI.label


def test_a_clock_that_is_set_back_does_not_keep_control_for_years(control, clock):
    control.ask(GUI)
    clock.go(-1e8)
    assert control.view().idle_for == 0
    clock.go(IDLE)
    assert control.tick().holder is None


def test_a_change_is_told_with_its_reason(control, caplog):
    caplog.set_level("INFO", logger="services.supervisor.control")
    control.ask(GUI)
    control.take(ADA, "the filament is dying")
    told = "ada@ws4 took control from gui@ws1 (A): the filament is dying"
    assert control.view().last_change == told
    assert caplog.messages == ["control: gui@ws1 (A) has control", f"control: {told}"]


def test_the_view_is_json(control, clock):
    assert json.loads(json.dumps(dataclasses.asdict(control.view())))["holder"] is None
    control.ask(GUI)
    control.ask(CLI)
    clock.go(7)
    assert json.loads(json.dumps(dataclasses.asdict(control.view()))) == {
        "holder": "gui@ws1 (A)",
        "since": "2026-03-01T12:00:00+00:00",
        "idle_for": 7.0,
        "expires_in": ASK - 7,
        "asked_by": "cli@ws2",
        "locked_by": None,
        "last_change": "cli@ws2 asks gui@ws1 (A) for control",
    }


def test_it_outlives_the_server(control, store, clock):
    control.ask(GUI)
    control.ask(CLI)
    before = control.view()
    again = Control(store, IDLE, ASK, clock=clock)
    assert again.view() == dataclasses.replace(before, last_change="")
    assert may(again, GUI)
    assert not may(again, CLI)
    clock.go(ASK)
    assert Control(store, IDLE, ASK, clock=clock).view().holder == CLI.label


def test_a_lock_outlives_the_server(control, store, clock):
    control.lock(ADA, "venting")
    clock.go(1e6)
    again = Control(store, IDLE, ASK, clock=clock)
    assert again.view().locked_by == "ada@ws4: venting"
    assert not may(again, GUI)


def test_what_is_always_allowed_does_not_need_the_store(clock):
    control = Control(None, IDLE, ASK, clock=clock)
    for function in ALWAYS_ALLOWED:
        control.admit(CLI, function)


def test_many_commands_are_not_written_each(control, store, clock):
    control.ask(GUI)
    version = store.load().version
    for _ in range(50):
        clock.go(0.1)
        control.admit(GUI, "snap")
    assert store.load().version <= version + 5


class LateStore:
    """A store to which another server writes just after the first load."""

    def __init__(self, store, first) -> None:
        self._store = store
        self._first = [first]
        self.save = store.save

    def load(self):
        lease = self._store.load()
        if self._first:
            self._first.pop()()
        return lease


def test_who_comes_second_asks_and_does_not_get_it_too(control, store, clock):
    late = Control(LateStore(store, lambda: control.ask(GUI)), IDLE, ASK, clock=clock)
    view = late.ask(CLI)
    assert (view.holder, view.asked_by) == (GUI.label, CLI.label)


def test_a_command_is_refused_if_control_goes_meanwhile(control, store, clock):
    control.ask(GUI)
    clock.go(10)
    late = Control(LateStore(store, lambda: control.take(ADA, "")), IDLE, ASK, clock=clock)
    assert "ada@ws4 has control" in reason(late.admit, GUI, "snap")


def test_time_hands_over_once(control, store, clock):
    control.ask(GUI)
    control.ask(CLI)
    clock.go(ASK)
    late = Control(LateStore(store, control.tick), IDLE, ASK, clock=clock)
    assert late.tick().holder == CLI.label
    assert late.view().last_change == ""  # it was the other one's doing


def test_a_store_that_always_changes_is_given_up(clock):
    class Busy(MemoryStore):
        def save(self, record, expected_version):
            raise LeaseChangedError

    assert "try again" in reason(Control(Busy(), IDLE, ASK, clock=clock).ask, GUI)


def test_of_two_servers_only_one_gives_control_away(tmp_path, clock):
    url = f"sqlite:///{tmp_path / 'records.db'}"
    engines = [open_database(url), open_database(url)]
    barrier = threading.Barrier(2, timeout=30)
    rounds = 30
    views = {}

    def serve(server: int) -> None:
        for number in range(rounds):
            control = Control(
                LeaseStore(engines[server], f"round {number}"), IDLE, ASK, clock=clock
            )
            barrier.wait()
            views[server, number] = control.ask(Client("gui", f"ws{server}"))

    threads = [threading.Thread(target=serve, args=(server,)) for server in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(views) == 2 * rounds
    for number in range(rounds):
        lease = LeaseStore(engines[0], f"round {number}").load()
        assert {lease.holder.host, lease.asked_by.host} == {"ws0", "ws1"}
        for server in (0, 1):
            assert views[server, number].holder == f"gui@{lease.holder.host}"
    for engine in engines:
        engine.dispose()


servers = st.sampled_from([0, 1])
clients = st.sampled_from(ALL)


class TwoServers(RuleBasedStateMachine):
    """All that clients, staff, time and restarts do to control, through two servers by turns."""

    @initialize()
    def start(self) -> None:
        self.clock, self.store, self.request = Clock(), MemoryStore(), Request()
        self.controls = [self.make(self.store) for _ in range(2)]
        self.used = self.asked = self.clock.now

    def make(self, store: MemoryStore) -> Control:
        return Control(store, IDLE, ASK, self.request, self.clock)

    def holder(self, store: MemoryStore | None = None) -> Client | None:
        kept = (store or self.store).lease.holder
        found = [
            one for one in ALL if kept and (one.name, one.session) == (_said(kept), kept.session)
        ]
        assert len(found) == (kept is not None)
        return found[0] if found else None

    def act(self, server: int, name: str, by: Client | None, *args: object) -> None:
        """Do one thing, and see that control only goes where it may."""
        lease, held = self.store.lease, self.holder()
        idle = (self.clock.now - self.used).total_seconds()
        waits = (self.clock.now - self.asked).total_seconds()
        try:
            getattr(self.controls[server], name)(*([by] if by else []), *args)
        except CommandRefusedError:
            done = False
        else:
            done = True
        now_held = self.holder()
        if held and not self.request.runs and (idle >= IDLE or (lease.asked_by and waits >= ASK)):
            assert now_held != held or name in {"ask", "take"}
        elif held and now_held != held:
            nearly = idle >= IDLE - 1 and not self.request.runs  # uses within 1 s count as one
            given = name in {"release", "grant"} and by == held
            by_staff = name in {"take", "grant"} and by is not None and by.staff
            assert nearly or (done and (given or by_staff))
        if name not in {"lock", "unlock"}:
            assert self.store.lease.locked_by == lease.locked_by
        if lease.asked_by != self.store.lease.asked_by:
            self.asked = self.clock.now
        at_work = done and by == now_held and name in {"admit", "refuse"}
        if now_held != held or at_work or self.request.runs:
            self.used = self.clock.now

    @rule(server=servers, by=clients, other=clients)
    def ask(self, server: int, by: Client, other: Client) -> None:
        self.act(server, "ask", by)
        self.act(1 - server, "ask", other)

    @rule(server=servers, by=clients, name=st.sampled_from(["grant", "refuse", "release"]))
    def answer(self, server: int, by: Client, name: str) -> None:
        self.act(server, name, by)

    @rule(server=servers, by=clients, name=st.sampled_from(["take", "lock", "unlock"]))
    def overrule(self, server: int, by: Client, name: str) -> None:
        locked = self.store.lease.locked_by
        self.act(server, name, by, *([] if name == "unlock" else ["a reason"]))
        if by.staff:
            assert name != "take" or self.holder() == by
            expected = {"take": locked, "lock": f"{by.label}: a reason", "unlock": None}[name]
        else:
            expected = locked
        assert self.store.lease.locked_by == expected

    @rule(server=servers, by=clients, function=st.sampled_from(["snap", "abort", "pause", "halt"]))
    def command(self, server: int, by: Client, function: str) -> None:
        version = self.store.lease.version
        if function in ALWAYS_ALLOWED:
            self.controls[server].admit(by, function)
            assert self.store.lease.version == version
        else:
            self.act(server, "admit", by, function)

    @rule(server=servers, seconds=st.sampled_from([0.2, 1.0, ASK / 2, ASK, IDLE / 2, IDLE]))
    def wait(self, server: int, seconds: float) -> None:
        self.clock.go(seconds)
        self.act(server, "tick", None)

    @rule(server=servers)
    def start_or_end_a_request(self, server: int) -> None:
        self.act(server, "tick", None)
        self.request.runs = not self.request.runs

    @rule(server=servers)
    def restart(self, server: int) -> None:
        self.controls[server] = self.make(self.store)

    @invariant()
    def only_the_holder_commands(self) -> None:
        store = copy.copy(self.store)
        control = self.make(store)
        control.tick()
        held, locked = self.holder(store), store.lease.locked_by is not None
        for client in ALL:
            expected = (held is None or client == held) and (client.staff or not locked)
            assert may(control, client) == expected
        for client in (ADA, EVE):
            control.take(client, "")
            assert [one for one in ALL if may(control, one)] == [client]

    @invariant()
    def a_lease_makes_sense(self) -> None:
        lease = self.store.lease
        assert (lease.holder is None) == (lease.since is None) == (lease.last_used is None)
        assert (lease.asked_by is None) == (lease.asked_at is None)
        assert lease.holder or not lease.asked_by
        assert lease.holder is None or lease.holder != lease.asked_by


def _said(holder) -> str:
    return holder.client.removesuffix("?")


TestTwoServers = TwoServers.TestCase
TestTwoServers.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
