"""The sign-up: the letter as an SMTP server receives it."""

from __future__ import annotations

import email
import email.policy
import io
import os
import signal
import socket
from collections.abc import Awaitable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from PIL import Image

from .conftest import Start
from .driver import Demo, is_there, item_ids, until


def letter_in(path: Path) -> EmailMessage:
    """Read a received letter."""
    return email.message_from_bytes(path.read_bytes(), policy=email.policy.default)


def received(demo: Demo, name: str, address: str) -> EmailMessage:
    """Sign up, and return the letter that came of it."""
    before = demo.letters()
    answer = demo.post("/signup", name=name, address=address)
    assert answer.status == 200
    item = demo.ended(item_ids(answer)[0])
    assert item["status"] == "succeeded", item
    (path,) = set(demo.letters()) - set(before)
    return letter_in(path)


def test_letter_and_picture_arrive(demo: Demo) -> None:
    """The welcome arrives over SMTP: sender, recipient, a link to this very host, a picture."""
    letter = received(demo, "Ada Lovelace", "ada@example.com")
    assert letter["To"] == "ada@example.com"
    assert letter["From"] == "Flask-Background demo <demo@example.com>"
    assert letter["Subject"] == "Welcome, Ada Lovelace!"
    body = letter.get_body(("plain",))
    assert body is not None
    assert "Hello Ada Lovelace," in body.get_content()
    assert f"\n{demo.url}/gallery\n" in body.get_content().replace("\r\n", "\n")
    (attached,) = letter.iter_attachments()
    assert attached.get_filename() == "welcome.png"
    with Image.open(io.BytesIO(attached.get_content()), formats=["PNG"]) as card:
        card.load()
        assert card.size == (960, 480)


def test_outbox_shows_it(demo: Demo) -> None:
    """The page shows the letter as it was received, with the name and size of what is attached."""
    received(demo, "Grace <b>Hopper</b>", "grace@example.com")
    outbox = demo.get("/signup")
    assert "grace@example.com" in outbox.text
    assert "Welcome, Grace &lt;b&gt;Hopper&lt;/b&gt;!" in outbox.page
    assert "welcome.png" in outbox.text
    assert " kB" in outbox.text
    assert "127.0.0.1:" in outbox.text


def test_name_in_any_script(demo: Demo) -> None:
    """A long name in another script is whole in the subject and the text."""
    name = "王小明" * 26
    letter = received(demo, name, "wang@example.com")
    assert letter["Subject"] == f"Welcome, {name}!"
    assert letter["To"] == "wang@example.com"


@pytest.mark.parametrize(
    "address",
    [
        "ada@example.com\r\nBcc: all@example.com",
        "ada@example.com\nBcc: all@example.com",
        "ada@example.com, all@example.com",
        "Ada <ada@example.com>",
        "ada@example",
        "@example.com",
        "ada",
        "",
        "a" * 65 + "@example.com",
        "ada@" + "a." * 130 + "com",
        "ädä@example.com",
        "ada@exa mple.com",
    ],
)
def test_address_that_is_none(demo: Demo, address: str) -> None:
    """A text that is not one plain address gets a message, and no letter."""
    before = demo.letters()
    answer = demo.post("/signup", name="Ada", address=address)
    assert answer.status == 400
    assert "Please give an e-mail address" in answer.text
    assert not item_ids(answer)
    assert demo.letters() == before


@pytest.mark.parametrize("name", ["", "  ", "Ada\nBcc: all@example.com", "Ada\0", "a" * 81])
def test_name_that_is_none(demo: Demo, name: str) -> None:
    """A name cannot start another header."""
    answer = demo.post("/signup", name=name, address="ada@example.com")
    assert answer.status == 400
    assert "Please give a name" in answer.text


def test_letter_in_flight_survives_a_stop(start_demo: Start) -> None:
    """Letters that were promised are delivered in the grace period, or by the next server; each once."""
    demo = start_demo()
    for number in range(10):
        demo.post("/signup", name="Ada", address=f"ada{number}@example.com")
    demo.signal(signal.SIGTERM)
    assert demo.process.wait(60) == 0
    demo = start_demo(after=demo)
    recipients = until(
        lambda: len(letters := [letter_in(path)["To"] for path in demo.letters()]) >= 10 and letters
    )
    assert sorted(recipients) == [f"ada{number}@example.com" for number in range(10)], "and no letter twice"


def test_letter_survives_a_kill(start_demo: Start) -> None:
    """Letters that were promised arrive, at least once, when every process is killed at once."""
    demo = start_demo()
    addresses = {f"ada{number}@example.com" for number in range(6)}
    for address in addresses:
        demo.post("/signup", name="Ada", address=address)
    demo.kill()
    demo = start_demo(after=demo)
    until(lambda: {letter_in(path)["To"] for path in demo.letters()} == addresses)


def test_one_local_server_for_all(start_demo: Start) -> None:
    """One mail server serves all workers, outlives each, and is gone when the demo is killed."""
    demo = start_demo()
    (server,) = demo.mail_servers()
    for pid in demo.workers():
        os.kill(pid, signal.SIGKILL)
        until(lambda pid=pid: pid not in demo.workers() and len(demo.workers()) == 2)
    before = demo.workers()
    demo.signal(signal.SIGHUP)
    until(lambda: demo.workers() and not set(before) & set(demo.workers()))
    until(demo.answers)
    received(demo, "Ada", "ada@example.com")
    assert demo.mail_servers() == [server]
    demo.kill()
    until(lambda: not is_there(server))


class RealServer(Controller):
    """Stands for the mail server of a provider: it wants a name and a password."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.received: list[Envelope] = []
        super().__init__(
            self,
            "127.0.0.1",
            self.listener.getsockname()[1],
            authenticator=self.authenticate,
            auth_require_tls=False,
        )

    def _create_server(self) -> Awaitable[Any]:
        return self.loop.create_server(self._factory_invoker, sock=self.listener)

    def authenticate(self, server: SMTP, session: Session, *args: Any) -> AuthResult:
        """Let the demo in."""
        return AuthResult(success=args[-1] == LoginPassword(b"demo", b"s3cret"))

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Know everybody but one."""
        if address.startswith("nobody@"):
            return "550 No such user here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Take a letter from those that were let in."""
        if not session.authenticated:
            return "530 Authentication required"
        self.received.append(envelope)
        return "250 OK"


def test_real_mail_server(start_demo: Start) -> None:
    """With MAIL_SERVER set, letters go there, no local server is started, and the page says so."""
    server = RealServer()
    server.start()
    try:
        demo = start_demo(
            MAIL_SERVER=server.hostname,
            MAIL_PORT=str(server.port),
            MAIL_USERNAME="demo",
            MAIL_PASSWORD="s3cret",
            MAIL_DEFAULT_SENDER="me@example.org",
        )
        assert not demo.mail_servers()
        answer = demo.post("/signup", name="Ada", address="ada@example.com")
        assert demo.ended(item_ids(answer)[0])["status"] == "succeeded"
        page = demo.get("/signup").text
        assert f"Letters go out through  {server.hostname}:{server.port}" in page
        assert "s3cret" not in page

        (item_id,) = item_ids(demo.post("/signup", name="Ada", address="nobody@example.com"))
        item = demo.ended(item_id)
        assert (item["status"], item["attempt"]) == ("refused", 1)
        assert "takes no letters to this address" in demo.get(f"/signup?item={item_id}").text
        assert "Traceback" not in demo.log()
    finally:
        server.stop()
    (envelope,) = server.received
    assert (envelope.mail_from, envelope.rcpt_tos) == ("me@example.org", ["ada@example.com"])


def test_mail_server_that_is_down(start_demo: Start) -> None:
    """A letter that cannot be sent, three times, is shown as failed, without the error's details."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    demo = start_demo(MAIL_SERVER="127.0.0.1", MAIL_PORT=str(port))
    answer = demo.post("/signup", name="Ada", address="ada@example.com")
    (item_id,) = item_ids(answer)
    assert demo.ended(item_id)["status"] == "failed"
    page = demo.get(f"/signup?item={item_id}").text
    assert "Something went wrong here, at the step: Mailing it." in page
    assert "Attempt 3" in page
    assert "refused" not in page


def test_mail_server_that_says_nothing(start_demo: Start) -> None:
    """A mail server that takes the connection and never answers does not hold an item up for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        demo = start_demo(MAIL_SERVER="127.0.0.1", MAIL_PORT=port, MAIL_TIMEOUT="0.3")
        (item_id,) = item_ids(demo.post("/signup", name="Ada", address="ada@example.com"))
        assert demo.ended(item_id)["status"] == "failed"
        assert "timed out" in demo.log()


def test_page_says_at_least_once(demo: Demo) -> None:
    """The page says that a letter may come twice."""
    assert "at least once" in demo.get("/signup").text
