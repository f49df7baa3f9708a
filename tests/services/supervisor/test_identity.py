"""Who sends a command: tokens, names that need one, and what is never shown."""

import hmac
import logging
import stat

import pytest

from services.errors import PlainError
from services.supervisor import identity
from services.supervisor.commands import Command, CommandRefusedError, Origin
from services.supervisor.identity import Client, Identity, client_token, read_tokens, said

GUI_TOKEN = "gui-0123456789abcdef=="
ADA_TOKEN = "ada-0123456789abcdef"
TOKENS = f"gui={GUI_TOKEN}; ada:staff = {ADA_TOKEN} ;"
CA = Origin("ca", "ws1", user="bob")
HTTP = Origin("http", "ws2")


@pytest.fixture
def tokens(tmp_path):
    return read_tokens(tmp_path, {"TEMLINE_TOKENS": TOKENS})


@pytest.fixture(params=[False, True], ids=["open", "required"])
def required(request):
    return request.param


def command(**fields) -> Command:
    return Command(function="snap", **fields)


def http(token: str) -> Origin:
    return Origin("http", "ws2", token=token)


@pytest.mark.parametrize(
    ("sent", "origin", "client"),
    [
        ({"token": GUI_TOKEN}, CA, Client("gui", "ws1", "", False, True)),
        (
            {"token": ADA_TOKEN, "client": "ada", "session": "7"},
            HTTP,
            Client("ada", "ws2", "7", True, True),
        ),
        ({}, http(ADA_TOKEN), Client("ada", "ws2", "", True, True)),
        ({"token": GUI_TOKEN}, http(ADA_TOKEN), Client("gui", "ws2", "", False, True)),
    ],
)
def test_a_token_says_who_it_is(tokens, required, sent, origin, client):
    assert Identity(tokens, required).of(command(**sent), origin) == client


@pytest.mark.parametrize(
    ("sent", "origin", "client", "label"),
    [
        ({}, CA, Client("bob@ws1", "ws1"), "bob@ws1"),
        ({"session": "7"}, CA, Client("bob@ws1", "ws1", "7"), "bob@ws1 (7)"),
        ({"client": "cli"}, CA, Client("cli", "ws1"), "cli@ws1"),
        ({}, Origin("ca", "ws1"), Client("anonymous", "ws1"), "anonymous@ws1"),
        ({}, Origin("ca", ""), Client("anonymous", ""), "anonymous"),
        (
            {},
            Origin("ca", "w\n(\udc80" + "s" * 99, user="é\0"),
            Client(f"__@w___{'s' * 57}", f"w___{'s' * 60}"),
            None,
        ),
    ],
)
def test_without_a_token_a_client_is_what_it_says_over_channel_access(
    tokens, sent, origin, client, label
):
    found = Identity(tokens, required=False).of(command(**sent), origin)
    assert found == client
    assert not found.authenticated
    assert not found.staff
    assert label in {found.label, None}


@pytest.mark.parametrize(
    ("sent", "origin", "reason"),
    [
        ({"token": "gui-0123456789abcdef="}, CA, "the token is not known"),
        ({"token": "x"}, HTTP, "the token is not known"),
        ({"token": "wrong"}, http(ADA_TOKEN), "the token is not known"),
        ({}, http("\udc80é"), "the token is not known"),
        ({"token": GUI_TOKEN, "client": "ada"}, CA, "the token is that of gui, and not of ada"),
        ({"token": GUI_TOKEN, "client": "GUI"}, CA, "the token is that of gui, and not of GUI"),
        ({}, HTTP, "a token is needed"),
        ({"client": "cli"}, HTTP, "a token is needed"),
    ],
)
def test_what_is_refused_whether_or_not_tokens_are_required(tokens, required, sent, origin, reason):
    with pytest.raises(CommandRefusedError, match=reason) as caught:
        Identity(tokens, required).of(command(id="c-1", **sent), origin)
    assert (caught.value.id, caught.value.kind) == ("c-1", "token")


@pytest.mark.parametrize("name", ["ada", "Ada", "ada ", "A D A", "gui"])
def test_a_name_that_has_a_token_cannot_be_used_without_it(tokens, name):
    with pytest.raises(CommandRefusedError, match="needs its token; set TEMLINE_TOKEN"):
        Identity(tokens, required=False).of(command(client=name), CA)


def test_a_login_name_cannot_be_one_that_has_a_token(tmp_path):
    tokens = read_tokens(tmp_path, {"TEMLINE_TOKENS": f"bob@ws1={GUI_TOKEN}"})
    with pytest.raises(CommandRefusedError, match="the name bob@ws1 needs its token"):
        Identity(tokens, required=False).of(command(), CA)


def test_over_channel_access_a_token_can_be_required(tokens):
    with pytest.raises(CommandRefusedError, match="a token is needed"):
        Identity(tokens, required=True).of(command(client="cli"), CA)


def test_what_anybody_may_do_needs_no_token():
    assert said(command(client="ada", token="wrong"), HTTP) == Client("ada", "ws2")


def test_all_tokens_are_compared_whichever_it_is(tokens, monkeypatch):
    compared, compare_digest = [], hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(a)
        return compare_digest(a, b)

    monkeypatch.setattr(identity.hmac, "compare_digest", compare)
    who = Identity(tokens, required=True)
    for secret in (GUI_TOKEN, ADA_TOKEN, "wrong"):
        compared.clear()
        try:
            who.of(command(token=secret), CA)
        except CommandRefusedError:
            assert secret == "wrong"
        assert compared == [token.digest for token in tokens]


@pytest.mark.parametrize(
    ("variable", "mistake"),
    [
        ("gui", "entry 1: expected name=token or name:staff=token"),
        (f"gui={GUI_TOKEN};{ADA_TOKEN}", "entry 2: expected name=token"),
        (f"=;gui={GUI_TOKEN}", "entry 1: expected name=token"),
        (f"gui={GUI_TOKEN}\n\n ada:boss={ADA_TOKEN}", "entry 2: expected name=token"),
        (f"ada:={ADA_TOKEN}", "entry 1: expected name=token"),
        (f"-ada={ADA_TOKEN}", "entry 1: expected name=token"),
        ("gui=0123456789abcde", "entry 1: a token has 16 to 256 characters, found 15"),
        (f"gui={'x' * 257}", "entry 1: a token has 16 to 256 characters, found 257"),
        ("gui=0123456789 abcdef", "entry 1: a token has letters, digits and signs of ASCII"),
        ("gui=0123456789abcdefé", "entry 1: a token has letters, digits and signs of ASCII"),
        (f"gui={GUI_TOKEN};Gui:staff={ADA_TOKEN}", "entry 2: an entry before it has the same name"),
        (f"gui={GUI_TOKEN};ada={GUI_TOKEN}", "entry 2: an entry before it has the same token"),
    ],
)
def test_a_malformed_entry_is_named_by_its_number_only(tmp_path, variable, mistake):
    with pytest.raises(PlainError, match=mistake) as caught:
        read_tokens(tmp_path, {"TEMLINE_TOKENS": variable})
    for secret in ("gui", "ada", "boss", "0123", "é"):
        assert secret not in str(caught.value)


def test_entries_may_stand_on_lines(tmp_path):
    tokens = read_tokens(
        tmp_path, {"TEMLINE_TOKENS": f"\ngui={GUI_TOKEN}\r\nada:staff={ADA_TOKEN}\n"}
    )
    assert [(token.name, token.staff) for token in tokens] == [("gui", False), ("ada", True)]


@pytest.mark.parametrize("environ", [{}, {"TEMLINE_TOKENS": ""}, {"TEMLINE_TOKENS": " ;\n"}])
def test_without_the_variable_a_token_of_staff_is_made_once(tmp_path, environ):
    folder = tmp_path / "new"
    (made,) = read_tokens(folder, environ)
    assert read_tokens(folder, environ) == (made,)
    assert stat.S_IMODE((folder / "command.key").stat().st_mode) == 0o600
    who = Identity([made], required=True).of(command(token=client_token(folder, {})), CA)
    assert who == Client("staff", "ws1", "", True, True)


def test_a_variable_leaves_no_file(tokens, tmp_path):
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_token_is_told(tmp_path):
    (tmp_path / "command.key").write_text("")
    with pytest.raises(PlainError, match=r"command.key: .* found 0; remove the file"):
        read_tokens(tmp_path, {})


def test_a_client_takes_its_variable_first_and_may_have_no_token(tmp_path):
    assert client_token(tmp_path, {}) == ""
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "command.key").write_text("kept\n")
    assert client_token(tmp_path, {}) == "kept"
    assert client_token(tmp_path, {"TEMLINE_TOKEN": " own "}) == "own"


def test_a_client_of_another_user_has_no_token(tmp_path, monkeypatch):
    def read_text(path, encoding):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(identity.Path, "read_text", read_text)
    assert client_token(tmp_path, {}) == ""


def test_no_token_is_ever_shown(tokens, caplog):
    caplog.set_level(logging.DEBUG)
    who = Identity(tokens, required=True)
    client = who.of(command(token=GUI_TOKEN), CA)
    reasons = []
    for sent in (command(token=ADA_TOKEN, client="gui"), command(token=GUI_TOKEN + "x")):
        with pytest.raises(CommandRefusedError) as caught:
            who.of(sent, CA)
        reasons.append(caught.value.reason)
    shown = f"{tokens!r} {who!r} {vars(who)} {client!r} {reasons} {caplog.text}"
    for token, secret in zip(tokens, (GUI_TOKEN, ADA_TOKEN), strict=True):
        assert secret not in shown
        assert token.digest.hex() not in shown
        assert repr(token.digest) not in shown
