"""What is made of answers on the wire, whatever they are: never an exception, and never a good one by accident."""

from __future__ import annotations

import hashlib
import hmac
import struct
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyrad import packet

from dsr_agent.config.check_settings import CheckSettings
from dsr_agent.service.checks import http, radius, tacacs
from dsr_agent.service.checks.asking import CannotAskError, Target
from dsr_agent.service.checks.secret import reveal
from dsr_agent.truth.checks import FailureReason

VIP, OWN = "192.0.2.10", "10.0.3.2"
TARGET = Target(ip_address(VIP), "udp/1812", ip_address(OWN))
SECRET = b"between us"
USER = {"request": "access-request", "user": "joe", "password": "pass"}


def check(protocol: str, **keys: Any) -> CheckSettings:
    """As the file would say it."""
    if protocol == "radius":
        keys = {"secret": SECRET.decode(), **keys}
    return CheckSettings.model_validate({"protocol": protocol, **keys})


def reply(made: packet.AuthPacket, code: int, *attributes: bytes, secret: bytes = SECRET, signed: bool = True) -> bytes:
    """An answer, made without the library (RFC 2865, section 3, and RFC 3579, section 3.2)."""
    body = b"".join(attributes)
    if signed:
        body = struct.pack("!BB16x", 80, 18) + body
    head = struct.pack("!BBH", code, made.id, 20 + len(body))
    if signed:
        mac = hmac.new(secret, head + made.authenticator + body, hashlib.md5).digest()
        body = struct.pack("!BB", 80, 18) + mac + body[18:]
    return head + hashlib.md5(head + made.authenticator + body + secret).digest() + body


class TestRadius:
    def test_a_request_is_signed_in_front_and_says_who_asks(self) -> None:
        sent = radius.request(check("radius")).RequestPacket()

        assert sent[0] == 12
        assert sent[20:22] == bytes((80, 18))
        zeroed = sent[:22] + bytes(16) + sent[38:]
        assert sent[22:38] == hmac.new(SECRET, zeroed, hashlib.md5).digest()
        assert sent[38:] == bytes((32, 11)) + b"dsr-agent"

    def test_an_access_request_hides_the_password(self) -> None:
        made = radius.request(check("radius", **USER))
        sent = made.RequestPacket()

        assert sent[0] == 1
        pad = hashlib.md5(SECRET + made.authenticator).digest()
        hidden = bytes(one ^ other for one, other in zip(b"pass".ljust(16, b"\0"), pad, strict=True))
        assert sent[38:] == bytes((1, 5)) + b"joe" + bytes((2, 18)) + hidden + bytes((32, 11)) + b"dsr-agent"

    @pytest.mark.parametrize(
        ("keys", "code", "reason"),
        [
            ({}, 2, None),
            ({}, 5, None),
            ({}, 3, FailureReason.REJECTED),
            (USER, 2, None),
            (USER, 3, FailureReason.REJECTED),
            (USER, 11, FailureReason.REJECTED),
            ({**USER, "expect": "reject"}, 3, None),
            ({**USER, "expect": "reject"}, 2, FailureReason.REJECTED),
            ({**USER, "expect": "any"}, 11, None),
            ({**USER, "expect": "any"}, 3, None),
        ],
    )
    @pytest.mark.parametrize("signed", [True, False])
    def test_a_genuine_answer(
        self, keys: dict[str, str], code: int, reason: FailureReason | None, signed: bool
    ) -> None:
        one = check("radius", **keys)
        made = radius.request(one)
        made.RequestPacket()
        found = radius.judge(one, TARGET, made, reply(made, code, b"\x12\x04hi", signed=signed), VIP)

        assert found is not None
        assert found.reason is reason

    def test_a_genuine_answer_from_elsewhere_is_the_fault_itself(self) -> None:
        one = check("radius")
        made = radius.request(one)
        found = radius.judge(one, TARGET, made, reply(made, 2), OWN)

        assert found is not None
        assert found.reason is FailureReason.WRONG_SOURCE
        assert found.text == f"answers from {OWN} instead of the VIP"

    def test_an_answer_with_another_secret_or_a_forged_signature_is_none(self) -> None:
        one = check("radius")
        made = radius.request(one)
        made.RequestPacket()
        forged = bytearray(reply(made, 2))
        forged[22] ^= 1
        head = bytes(forged[:4])
        forged[4:20] = hashlib.md5(head + made.authenticator + bytes(forged[20:]) + SECRET).digest()
        for data in (reply(made, 2, secret=b"other"), bytes(forged)):
            found = radius.judge(one, TARGET, made, data, VIP)
            assert found is not None
            assert found.reason is FailureReason.BAD_ANSWER
            assert radius.judge(one, TARGET, made, data, OWN) is None

    @given(st.binary(max_size=300), st.sampled_from([VIP, OWN]))
    def test_garbage_is_a_bad_answer(self, data: bytes, peer: str) -> None:
        one = check("radius")
        found = radius.judge(one, TARGET, radius.request(one), data, peer)

        assert found is None if peer == OWN else found is not None and found.reason is FailureReason.BAD_ANSWER

    @given(st.data())
    def test_an_answer_that_was_tampered_with_is_a_bad_answer(self, data: st.DataObject) -> None:
        """Cut, longer than it says, or with one byte changed."""
        one = check("radius")
        made = radius.request(one)
        good = reply(made, 2, b"\x1a\x0c\0\0\0\x09\x01\x06abcd", b"\x12\x04hi")
        at = data.draw(st.integers(0, len(good) - 1))
        changed = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
        for bad in (changed, good[:at]):
            found = radius.judge(one, TARGET, made, bad, VIP)
            assert found is not None
            assert found.reason is FailureReason.BAD_ANSWER

    @given(st.binary(max_size=250))
    def test_a_signed_answer_with_whatever_inside_raises_nothing(self, inside: bytes) -> None:
        one = check("radius")
        made = radius.request(one)
        radius.judge(one, TARGET, made, reply(made, 2, inside, signed=False), VIP)


# Made with the pad of RFC 8907 written down once more, and tried against another implementation (tacacs_plus 2.6).
class TestTacacs:
    SESSION = 0x01020304

    def reply(self, body: bytes, *, flags: int = 0, sequence: int = 2, secret: bytes = SECRET) -> tuple[bytes, bytes]:
        """Header and body of an answer."""
        pad = block = b""
        while len(pad) < len(body):
            block = hashlib.md5(struct.pack("!I", self.SESSION) + secret + bytes((0xC0, sequence)) + block).digest()
            pad += block
        under = bytes(one ^ other for one, other in zip(body, pad, strict=False))
        return struct.pack("!BBBBII", 0xC0, 1, sequence, flags, self.SESSION, len(body)), under

    def test_a_start_is_about_nobody(self) -> None:
        sent = tacacs.start(SECRET, self.SESSION, OWN)

        assert sent[:12] == struct.pack("!BBBBII", 0xC0, 1, 1, 0, self.SESSION, len(sent) - 12)
        plain = tacacs.obfuscated(sent[12:], SECRET, self.SESSION, 1)
        assert plain == b"\x01\x00\x01\x01\x00\x09\x08\x00dsr-agent10.0.3.2"

    def test_a_reply_is_read(self) -> None:
        header, body = self.reply(struct.pack("!BBHH", 4, 0, 6, 0) + b"User: ")

        assert tacacs.reply_of(header, body, SECRET, self.SESSION) == (4, b"User: ")

    def test_what_is_no_reply_to_us_is_none(self) -> None:
        plain = struct.pack("!BBHH", 4, 0, 6, 0) + b"User: "
        for header, body in (
            self.reply(plain, flags=1),
            self.reply(plain, sequence=1),
            self.reply(plain, secret=b"other"),
            self.reply(plain + b"x"),
            self.reply(plain[:5]),
            self.reply(b"\x09" + plain[1:]),
        ):
            assert tacacs.reply_of(header, body, SECRET, self.SESSION) is None
        header, body = self.reply(plain)
        assert tacacs.reply_of(header, body, SECRET, self.SESSION + 1) is None

    @given(st.binary(min_size=12, max_size=12), st.binary(max_size=200))
    def test_garbage_raises_nothing(self, header: bytes, body: bytes) -> None:
        tacacs.reply_of(header, body, SECRET, self.SESSION)


class TestHttp:
    @pytest.mark.parametrize(
        ("protocol", "service", "vip", "host"),
        [
            ("http", "tcp/80", VIP, VIP),
            ("http", "tcp/8080", VIP, f"{VIP}:8080"),
            ("https", "tcp/443", "2001:db8::10", "[2001:db8::10]"),
            ("https", "tcp/80", "2001:db8::10", "[2001:db8::10]:80"),
        ],
    )
    def test_a_request_names_the_vip(self, protocol: str, service: str, vip: str, host: str) -> None:
        target = Target(ip_address(vip), service, ip_address(OWN))
        sent = http.request(check(protocol, service=service, path="/x"), target)

        assert sent.startswith(f"GET /x HTTP/1.1\r\nHost: {host}\r\n".encode())
        assert sent.endswith(b"\r\nConnection: close\r\n\r\n")


class TestSecrets:
    @pytest.mark.parametrize("text", ["s", "s\n", "s\r\n"])
    def test_the_end_of_the_line_is_not_part_of_it(self, tmp_path: Any, text: str) -> None:
        (tmp_path / "secret").write_text(text, newline="")

        assert reveal("secret", None, str(tmp_path / "secret")) == b"s"

    @pytest.mark.parametrize("text", ["", "\n", "x" * 129, None])
    def test_what_cannot_be_read_is_told_without_showing_it(self, tmp_path: Any, text: str | None) -> None:
        if text is not None:
            (tmp_path / "secret").write_text(text)

        with pytest.raises(CannotAskError) as raised:
            reveal("secret", None, str(tmp_path / "secret"))
        assert str(raised.value).startswith(f"secret_file {tmp_path}/secret ")
        assert "xxx" not in str(raised.value)
