#!/usr/bin/env python3
"""An R2P2 client written from the description of the wire alone, to test that servers speak it.

It shares no code with the servers and is as strict as the published client: where that one would abort (a second ACK, an
ACK of another length, a RESPONSE before the ACK, a reply out of order), a check here fails.

    r2p2_client.py --server 127.0.0.1:8000 --server 127.0.0.1:8001 suite
    r2p2_client.py --server 127.0.0.1:8000 no-leader
    r2p2_client.py --server 127.0.0.1:8000 blast
    r2p2_client.py --server 127.0.0.1:8000 call --policy 2 SET key value

Prints one line per check; exits with 1 when one failed, 2 on wrong use. Needs Python 3.8 and nothing else.

A datagram is an 8-byte header and payload:
    magic 0xCC, header size 8, type << 4 | policy, flags, rid (16 bits), p_order (16 bits), both big endian.
A message of up to 1464 bytes is one packet with both flags, F and L. A larger request begins with a packet of 14 bytes that
announces how many there are; the server ACKs it; the rest goes to wherever the ACK came from. A larger reply is cut
into full packets, the first of which announces how many there are.
"""
import argparse
import os
import random
import select
import socket
import struct
import sys
import time

MAGIC, HEADER_BYTES, PAYLOAD_BYTES, REQ0_BYTES, MAX_PACKETS = 0xCC, 8, 1464, 14, 254
REQUEST, RESPONSE, FEEDBACK, ACK, DROP = range(5)
NAMES = {REQUEST: "REQUEST", RESPONSE: "RESPONSE", FEEDBACK: "FEEDBACK", ACK: "ACK", DROP: "DROP"}
F, L, BLOCK = 0x80, 0x40, 0x20  # first, last, the project's own clients put a block before the message
LB_ROUTE, FIXED_ROUTE, REPLICATED_ROUTE, REPLICATED_ROUTE_NO_SE = range(4)
SIZES = [0, 1, 14, 1463, 1464, 1465, 1478, 1479, 2928, 65536, 370406]
# A default receive buffer holds 92 datagrams; a burst of 254 would overrun it.
BURST_PACKETS, BURST_PAUSE_S = 32, 0.001


class Violation(Exception):
    """The server broke the protocol or gave a wrong answer."""


class Dropped(Exception):
    """The server refused with a DROP."""


class Silence(Exception):
    """Nothing came in time."""


def header(kind, policy, flags, rid, p_order, magic=MAGIC, size=HEADER_BYTES):
    return struct.pack("!BBBBHH", magic, size, kind << 4 | policy, flags, rid, p_order)


def segments(message, first=REQ0_BYTES, rest=PAYLOAD_BYTES):
    """The payloads of a request's packets."""
    if len(message) <= PAYLOAD_BYTES and first == REQ0_BYTES:
        return [message]
    return [message[:first]] + [message[at:at + rest] for at in range(first, len(message), rest)]


def request(message, policy, rid, **sizes):
    """The datagrams of a request, in order."""
    parts = segments(message, **sizes)
    if len(parts) == 1:
        return [header(REQUEST, policy, F | L, rid, 1) + message]
    packets = [header(REQUEST, policy, F, rid, len(parts)) + parts[0]]
    for index, part in enumerate(parts[1:], start=1):
        packets.append(header(REQUEST, policy, L if index == len(parts) - 1 else 0, rid, index) + part)
    return packets


class Reply:
    """What came for one request so far; raises at the first datagram that should not have come."""

    def __init__(self, rid, packets_sent, given_up=()):
        self.rid, self.multi_packet, self.given_up = rid, packets_sent > 1, given_up
        self.ack_from, self.count, self.parts = None, None, []

    def take(self, datagram, source):
        """Returns the whole message once it is there, else None."""
        kind, flags, rid, p_order, payload = parse(datagram)
        if rid in self.given_up and rid != self.rid:
            return None
        if rid != self.rid:
            raise Violation("datagram for rid %d while only %d is pending" % (rid, self.rid))
        if kind == DROP:
            raise Dropped()
        if kind == ACK:
            if not self.multi_packet:
                raise Violation("ACK for a single-packet request")
            if self.ack_from is not None:
                raise Violation("second ACK")
            self.ack_from = source
            return None
        if self.multi_packet and self.ack_from is None:
            raise Violation("RESPONSE before the ACK")
        return self.response(flags, p_order, payload)

    def response(self, flags, p_order, payload):
        if self.count is None:
            if not flags & F:
                raise Violation("reply begins with packet %d" % p_order)
            self.count = p_order
            if self.count == 0 or self.count > MAX_PACKETS:
                raise Violation("reply announces %d packets" % self.count)
        elif flags & F or p_order != len(self.parts):
            raise Violation("reply packet %d where %d was due" % (p_order, len(self.parts)))
        self.parts.append(payload)
        last = len(self.parts) == self.count
        if bool(flags & L) != last:
            raise Violation("flag L on packet %d of %d" % (len(self.parts), self.count))
        if not last and len(payload) != PAYLOAD_BYTES:
            raise Violation("reply packet %d holds %d bytes" % (len(self.parts) - 1, len(payload)))
        if last and self.count > 1 and not payload:
            raise Violation("last reply packet is empty")
        return b"".join(self.parts) if last else None


def parse(datagram, reserved=0):
    """(kind, flags, rid, p_order, payload) of a datagram from a server, every byte of it checked.

    `reserved`: flags beyond F and L that may be set; none in a reply to a plain client."""
    if len(datagram) < HEADER_BYTES or len(datagram) > HEADER_BYTES + PAYLOAD_BYTES:
        raise Violation("datagram of %d bytes" % len(datagram))
    magic, size, kind_policy, flags, rid, p_order = struct.unpack("!BBBBHH", datagram[:HEADER_BYTES])
    payload = datagram[HEADER_BYTES:]
    if magic != MAGIC or size != HEADER_BYTES:
        raise Violation("magic 0x%02x, header size %d" % (magic, size))
    if kind_policy not in (0x11, 0x31, 0x41):
        raise Violation("type and policy 0x%02x" % kind_policy)
    if flags & 0x3F & ~reserved:
        raise Violation("reserved flags 0x%02x" % flags)
    kind = kind_policy >> 4
    if kind in (ACK, DROP) and (flags != F | L or p_order != 1 or payload != NAMES[kind].encode()):
        raise Violation("%s with flags 0x%02x, p_order %d, payload %r" % (NAMES[kind], flags, p_order, payload))
    return kind, flags, rid, p_order, payload


class Client:
    """One UDP socket, never connected, and the next request id."""

    def __init__(self, silence_s=1.5, patience_s=20.0, bind="0.0.0.0"):
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.socket.bind((bind, 0))
        self.silence_s, self.patience_s, self.rid = silence_s, patience_s, 0
        self.given_up = set()

    def next_rid(self):
        self.rid = self.rid % 0xFFFF + 1
        return self.rid

    def receive(self, wait_s):
        """(datagram, source), or None when nothing comes in time."""
        if not select.select([self.socket], [], [], max(wait_s, 0))[0]:
            return None
        return self.socket.recvfrom(65536)

    def drain(self, wait_s=0.0):
        """All that still comes, until nothing has come for `wait_s`."""
        came = []
        while True:
            one = self.receive(wait_s)
            if one is None:
                return came
            came.append(one)

    def send(self, packets, to):
        for index, packet in enumerate(packets):
            if index and index % BURST_PACKETS == 0:
                time.sleep(BURST_PAUSE_S)
            self.socket.sendto(packet, to)

    def call_once(self, to, message, policy, rid=None, shuffle=None, **sizes):
        """One request, one reply. Raises Dropped or Silence: R2P2 itself never retries."""
        rid = self.next_rid() if rid is None else rid
        packets = request(message, policy, rid, **sizes)
        reply = Reply(rid, len(packets), self.given_up)
        self.send(packets[:1], to)
        sent_rest = len(packets) == 1
        while True:
            came = self.receive(self.silence_s)
            if came is None:
                self.given_up.add(rid)
                raise Silence()
            whole = reply.take(*came)
            if whole is not None:
                late = [one for one in self.drain() if parse(one[0])[2] not in self.given_up]
                if late:
                    raise Violation("%d datagrams after the end of the reply" % len(late))
                return whole
            if not sent_rest and reply.ack_from is not None:
                rest = packets[1:]
                if shuffle is not None:
                    shuffle(rest)
                self.send(rest, reply.ack_from)
                sent_rest = True

    def call(self, to, message, policy, **options):
        """The same, patiently: an election or a full buffer is no fault of the wire. Late packets of an earlier try are let go."""
        until = time.monotonic() + self.patience_s
        while True:
            try:
                return self.call_once(to, message, policy, **options)
            except (Dropped, Silence) as error:
                if time.monotonic() > until:
                    raise Violation("only %s for %.0f s" % (type(error).__name__, self.patience_s))
                time.sleep(0.05)
                self.drain(0.05)


def resp(*words):
    """A Redis command: a count, then each word with its length."""
    parts = [b"*%d\r\n" % len(words)]
    for word in words:
        parts.append(b"$%d\r\n%s\r\n" % (len(word), word))
    return b"".join(parts)


def bulk(value):
    return b"$%d\r\n%s\r\n" % (len(value), value)


def filled(total_bytes, *words):
    """(command, last word) of exactly `total_bytes`: the last word is padding that differs from place to place."""
    empty = len(resp(*words, b""))
    for length in range(max(total_bytes - empty - 6, 0), total_bytes - empty + 1):
        value = bytes(33 + (i * 7 + i // 91) % 94 for i in range(length))
        command = resp(*words, value)
        if len(command) == total_bytes:
            return command, value
    return None, None


class Checks:
    """Runs checks and counts them."""

    def __init__(self):
        self.count, self.failed = 0, 0

    def check(self, name, action, *args):
        self.count += 1
        started = time.monotonic()
        try:
            note = self.attempt(action, args)
        except (Violation, Dropped, Silence, OSError) as error:
            self.failed += 1
            print("FAIL  %s: %s %s" % (name, type(error).__name__, error), flush=True)
            return
        took_ms = (time.monotonic() - started) * 1000
        print("ok    %s%s  (%.1f ms)" % (name, ", " + note if note else "", took_ms), flush=True)

    @staticmethod
    def attempt(action, args, tries=3):
        """A refusal or silence may be an election or a busy machine, so it is asked again; a violation never."""
        for left in reversed(range(tries)):
            try:
                return action(*args)
            except (Dropped, Silence):
                if not left:
                    raise
                time.sleep(0.5)

    def finish(self):
        print("%d checks, %d failed" % (self.count, self.failed), flush=True)
        return 1 if self.failed else 0


def expect(got, wanted):
    if got != wanted:
        shorten = lambda b: repr(b) if len(b) < 80 else "%r.. (%d bytes)" % (b[:60], len(b))
        raise Violation("got %s instead of %s" % (shorten(got), shorten(wanted)))


# --- the suite: a cluster with a leader ------------------------------------------------------------------------------


def echo(client, server, size, policy):
    command, value = filled(size, b"ECHO")
    if command is None:
        # Too short for a command: the message must arrive whole and be refused by the service, not by the wire.
        command = resp(b"PING") if size == 14 else b"x" * size
        assert len(command) == size
        reply = client.call(server, command, policy)
        if size == 14:
            expect(reply, b"+PONG\r\n")
        elif not reply.startswith(b"-"):
            raise Violation("a request of %d bytes is no command, yet got %r" % (size, reply[:40]))
        return None
    expect(client.call(server, command, policy), bulk(value))


def set_and_get(client, server, others, size):
    """Writes through one server, reads through all. `size` is the request's, or the value's where no request is so short."""
    key = b"wire:%d:%d" % (size, server[1])
    command, value = filled(size, b"SET", key)
    if command is None:
        command, value = resp(b"SET", key, b"v" * size), b"v" * size
    expect(client.call(server, command, REPLICATED_ROUTE), b"+OK\r\n")
    for other in others:
        expect(client.call(other, resp(b"GET", key), REPLICATED_ROUTE_NO_SE), bulk(value))
    return "%d request packets" % len(segments(command))


def reply_of(client, server, size):
    """A reply of exactly `size` bytes: boundaries of replies are not those of requests."""
    value = next(b"r" * n for n in range(size) if len(bulk(b"r" * n)) == size)
    key = b"wire:reply"
    expect(client.call(server, resp(b"SET", key, value), REPLICATED_ROUTE), b"+OK\r\n")
    expect(client.call(server, resp(b"GET", key), REPLICATED_ROUTE_NO_SE), bulk(value))
    return "%d reply packets" % -(-size // PAYLOAD_BYTES)


def write_under_wrong_policy(client, server, policy):
    key = b"wire:refused"
    expect(client.call(server, resp(b"SET", key, b"before"), REPLICATED_ROUTE), b"+OK\r\n")
    reply = client.call_once(server, resp(b"SET", key, b"after"), policy)
    if not reply.startswith(b"-ERR"):
        raise Violation("got %r instead of -ERR" % reply[:40])
    expect(client.call(server, resp(b"GET", key), REPLICATED_ROUTE_NO_SE), bulk(b"before"))


def missing_key(client, server):
    expect(client.call(server, resp(b"GET", b"wire:never-written"), REPLICATED_ROUTE_NO_SE), b"$-1\r\n")


def fragments_in_any_order(client, server):
    rng = random.Random(1)
    for shuffle in (lambda rest: rest.reverse(), rng.shuffle):
        command, value = filled(20000, b"ECHO")
        expect(client.call(server, command, LB_ROUTE, shuffle=shuffle), bulk(value))
        command, value = filled(20000, b"SET", b"wire:order")
        expect(client.call(server, command, REPLICATED_ROUTE, shuffle=shuffle), b"+OK\r\n")
        expect(client.call(server, resp(b"GET", b"wire:order"), REPLICATED_ROUTE_NO_SE), bulk(value))


def fragments_of_any_size(client, server):
    command, value = filled(4000, b"ECHO")
    for first, rest in ((1, 100), (1464, 1464), (14, 17), (700, 3300)):
        expect(client.call(server, command, FIXED_ROUTE, first=first, rest=min(rest, PAYLOAD_BYTES)), bulk(value))


def reserved_flags_are_ignored(client, server):
    rid = client.next_rid()
    client.send([header(REQUEST, LB_ROUTE, F | L | 0x1F, rid, 1) + resp(b"ECHO", b"flags")], server)
    came = client.receive(client.silence_s)
    if came is None:
        raise Silence()
    expect(Reply(rid, 1).take(*came), bulk(b"flags"))


def a_triple_used_again(client, server):
    """A restarted client begins again with the same port and rid: its second request is another request."""
    for value in (b"first", b"second", b"third"):
        expect(client.call(server, resp(b"SET", b"wire:triple", value), REPLICATED_ROUTE, rid=7), b"+OK\r\n")
        expect(client.call(server, resp(b"GET", b"wire:triple"), REPLICATED_ROUTE_NO_SE, rid=7), bulk(value))


def rid_at_its_ends(client, server):
    for rid in (0, 1, 0x00FF, 0xFF00, 0xFFFF):
        expect(client.call(server, resp(b"ECHO", b"%d" % rid), LB_ROUTE, rid=rid), bulk(b"%d" % rid))


def many_at_once(client, server):
    """Replies are matched by rid, whatever their order."""
    pending = {}
    for n in range(24):
        rid = client.next_rid()
        policy, command, reply = [
            (LB_ROUTE, resp(b"ECHO", b"%d" % n), bulk(b"%d" % n)),
            (REPLICATED_ROUTE, resp(b"SET", b"wire:many:%d" % n, b"%d" % n), b"+OK\r\n"),
        ][n % 2]
        pending[rid] = (Reply(rid, 1, client.given_up), reply)
        client.given_up.add(rid)
        client.send(request(command, policy, rid), server)
    sent = set(pending)
    while pending:
        came = client.receive(client.silence_s)
        if came is None:
            raise Silence()
        rid = parse(came[0])[2]
        if rid not in pending and rid in client.given_up - sent:
            continue
        if rid not in pending:
            raise Violation("reply for rid %d, which is not pending" % rid)
        reply, wanted = pending[rid]
        whole = reply.take(*came)
        if whole is not None:
            expect(whole, wanted)
            del pending[rid]
    client.given_up -= sent


def one_ack_for_a_doubled_start(client, server):
    """A network may deliver the first packet twice; a second ACK would abort the published client."""
    command, value = filled(3000, b"ECHO")
    rid = client.next_rid()
    packets = request(command, LB_ROUTE, rid)
    client.given_up.add(rid)
    client.send([packets[0], packets[0]], server)
    came = [one for one in client.drain(0.1) if parse(one[0])[2] == rid]
    kinds = [parse(datagram)[0] for datagram, _ in came]
    if not kinds:
        raise Silence()
    if kinds != [ACK]:
        raise Violation("two equal first packets brought %s" % [NAMES[kind] for kind in kinds])
    client.send(packets[1:], came[0][1])
    reply, whole = Reply(rid, 1, client.given_up), None
    while whole is None:
        came = client.receive(client.silence_s)
        if came is None:
            raise Silence()
        whole = reply.take(*came)
    expect(whole, bulk(value))


def suite(checks, servers, client):
    name = lambda server: "%s:%d" % server
    for server in servers:
        for policy in (LB_ROUTE, FIXED_ROUTE):
            for size in SIZES:
                checks.check("%s  echo, request of %d bytes, policy %d" % (name(server), size, policy), echo, client, server, size, policy)
        for size in SIZES:
            checks.check("%s  set and get, %d bytes, policies 2 and 3" % (name(server), size), set_and_get, client, server, servers, size)
        for size in (1463, 1464, 1465, 2928, 2929, 50000):
            checks.check("%s  reply of %d bytes" % (name(server), size), reply_of, client, server, size)
        for policy in (LB_ROUTE, FIXED_ROUTE, REPLICATED_ROUTE_NO_SE):
            checks.check("%s  a write under policy %d is refused and changes nothing" % (name(server), policy), write_under_wrong_policy, client, server, policy)
        for what in (missing_key, fragments_in_any_order, fragments_of_any_size, reserved_flags_are_ignored, a_triple_used_again,
                     rid_at_its_ends, many_at_once, one_ack_for_a_doubled_start):
            checks.check("%s  %s" % (name(server), what.__name__.replace("_", " ")), what, client, server)


# --- a server that knows no leader -----------------------------------------------------------------------------------


def dropped(client, server, message, policy):
    """A DROP at once instead of silence; patience only for a leader that has yet to notice that it is alone."""
    until = time.monotonic() + client.patience_s
    while True:
        try:
            reply = client.call_once(server, message, policy)
            raise Violation("got %r instead of a DROP" % reply[:40])
        except Dropped:
            return None
        except Silence:
            if time.monotonic() > until:
                raise
            client.drain(0.05)


def no_leader(checks, servers, client):
    for server in servers:
        for size in (60, 1464, 1465, 65536):
            command, _ = filled(size, b"SET", b"wire:lost")
            checks.check("%s:%d  DROP for a write of %d bytes" % (server + (size,)), dropped, client, server, command, REPLICATED_ROUTE)
        checks.check("%s:%d  DROP for a read" % server, dropped, client, server, resp(b"GET", b"k"), REPLICATED_ROUTE_NO_SE)
        for size in (1464, 65536):
            checks.check("%s:%d  echo of %d bytes needs no leader" % (server + (size,)), echo, client, server, size, LB_ROUTE)


# --- bad input -------------------------------------------------------------------------------------------------------


# Kinds of bad input, by how their names begin, that must bring no answer at all: their sender is not asking anything.
MUTE = ("datagrams under", "wrong", "types of", "unknown", "single packets", "packets of no", "replies without", "feedback", "oversized", "all-zero")


def bad_input(rng):
    """(name, datagrams) for everything that a server must count and otherwise ignore."""
    body = resp(b"ECHO", b"bad")
    noise = bytes(rng.randrange(256) for _ in range(PAYLOAD_BYTES))
    start = lambda count, rid, policy=LB_ROUTE: header(REQUEST, policy, F, rid, count) + noise[:REQ0_BYTES]
    part = lambda index, rid, last=False: header(REQUEST, LB_ROUTE, L if last else 0, rid, index) + noise
    single = lambda kind, policy=1: header(kind, policy, F | L, 77, 1)
    yield "datagrams under 8 bytes", [header(REQUEST, 0, F | L, 1, 1)[:n] for n in range(8)]
    yield "wrong magic", [header(REQUEST, 0, F | L, 2, 1, magic=m) + body for m in (0, 0xCB, 0xCD, 0xFF)]
    yield "wrong header size", [header(REQUEST, 0, F | L, 3, 1, size=s) + body for s in (0, 7, 9, 16, 255)]
    yield "types of the replicas' own traffic", [header(k, 0, F | L, 4, 1) + noise for k in (5, 6, 7, 8, 9)]
    yield "unknown types", [header(k, 0, F | L, 5, 1) + body for k in range(10, 16)]
    yield "unknown policies", [header(REQUEST, p, F | L, 6, 1) + body for p in range(4, 16)]
    yield "single packets that are not packet 1", [header(REQUEST, 0, F | L, 8, n) + body for n in (0, 2, 254, 255, 0xFFFF)]
    yield "packets of no pending message", [part(n, 9, last=n == 3) for n in (1, 2, 3, 253, 0xFFFF)]
    yield "first packets that announce none or one", [start(0, 10), start(1, 11)]
    yield "more packets than the limit", [start(n, 12 + n % 7) for n in (255, 256, 1000, 0x7FFF, 0xFFFF)]
    yield "packets out of range", [start(4, 20), part(0, 20), part(4, 20), part(5, 20), part(0xFFFF, 20)]
    yield "repeated packets", [start(5, 21)] + [part(1, 21), part(2, 21)] * 20
    yield "conflicting packets", [start(5, 22), part(1, 22), header(REQUEST, 0, 0, 22, 1) + noise[::-1], part(1, 22)[:9]]
    yield "early end", [start(6, 23), part(1, 23), part(2, 23, last=True), part(3, 23)]
    yield "end without its flag", [start(3, 24), part(1, 24), part(2, 24)]
    yield "a second start with another count", [start(6, 25), part(1, 25), start(3, 25), part(2, 25, last=True)]
    yield "another policy in mid-message", [start(4, 26), header(REQUEST, REPLICATED_ROUTE, 0, 26, 1) + noise]
    yield "replies without a call", [single(RESPONSE) + b"hello", single(ACK) + b"ACK", single(ACK) + b"ACKS", single(DROP) + b"DROP"]
    yield "feedback, whole and cut", [struct.pack("!BBBBHHHHI", MAGIC, 8, 0x20, 0, 0, 0, 1, 2, 3)[:n] for n in (8, 12, 15, 16)]
    yield "oversized datagrams", [header(REQUEST, 0, F | L, 27, 1) + noise[:1] * n for n in (1465, 2041, 2048, 9000, 65499)]
    yield "all-zero bytes", [bytes(n) for n in (8, 9, 16, 48, 1472)]
    yield "client blocks that are cut or wild", [header(REQUEST, p, F | L | BLOCK, 28, 1) + noise[:n] for p in range(4) for n in (0, 1, 39, 40, 41, 1464)]
    yield "policies 2 and 3 with bytes that are no command", [header(REQUEST, p, F | L, 29, 1) + b for p in (2, 3) for b in (b"", b"\0", noise)]
    wild = (b"*", b"*-1\r\n", b"*99999999999999999999\r\n", b"*3\r\n$3\r\nSET\r\n$-5\r\n", b"$4294967296\r\n", b"*2\r\n$4\r\nECHO\r\n$9\r\nshort\r\n")
    yield "commands that lie about their lengths", [header(REQUEST, p, F | L, 30, 1) + b for p in range(4) for b in wild]
    yield "noise", [bytes(rng.randrange(256) for _ in range(rng.randrange(100))) for _ in range(2000)]
    yield "noise behind a good start", [bytes([MAGIC, 8]) + bytes(rng.randrange(256) for _ in range(6 + rng.randrange(40))) for _ in range(3000)]


def blasted(server, datagrams):
    """Sends them all from a socket of its own; what comes back must be well formed and bounded by what was sent."""
    client = Client()
    client.send(datagrams, server)
    kinds = [parse(datagram, reserved=BLOCK)[0] for datagram, _ in client.drain(0.05)]
    client.socket.close()
    # A message that was begun and never ended brings an ACK and, at its deadline, a DROP.
    if kinds.count(RESPONSE) + kinds.count(ACK) > len(datagrams) or kinds.count(DROP) > len(datagrams):
        raise Violation("%d datagrams in, %d out" % (len(datagrams), len(kinds)))
    counts = ["%d %s" % (kinds.count(kind), NAMES[kind]) for kind in (RESPONSE, ACK, DROP) if kind in kinds]
    return "%d sent, %s back" % (len(datagrams), ", ".join(counts) or "nothing")


def alive(client, server):
    expect(client.call(server, resp(b"ECHO", b"alive"), LB_ROUTE), bulk(b"alive"))
    command, value = filled(5000, b"ECHO")
    expect(client.call(server, command, LB_ROUTE), bulk(value))


def silent_about(server, datagrams):
    """No answer, not even a DROP."""
    client = Client()
    client.send(datagrams, server)
    came = client.drain(0.05)
    client.socket.close()
    if came:
        raise Violation("answered %r" % came[0][0][:16])


def flood(server, sources, starts):
    """Starts messages and never ends them: pending ones are bounded per source, the rest is refused."""
    clients = [Client() for _ in range(sources)]
    acks = drops = 0
    for client in clients:
        began = time.monotonic()
        client.send([header(REQUEST, LB_ROUTE, F, rid, 254) + bytes(REQ0_BYTES) for rid in range(1, starts + 1)], server)
        kinds = [parse(datagram)[0] for datagram, _ in client.drain(0.01)]
        if RESPONSE in kinds:
            raise Violation("RESPONSE to the start of a message")
        # Within this time so many generations of them may have ended.
        if kinds.count(ACK) > 64 * (1 + (time.monotonic() - began) // 0.2):
            raise Violation("%d pending messages of one source" % kinds.count(ACK))
        acks, drops = acks + kinds.count(ACK), drops + kinds.count(DROP)
    for client in clients:
        client.socket.close()
    # The pending ones end at their absolute deadline.
    time.sleep(0.5)
    return "%d starts, %d ACK, %d DROP" % (sources * starts, acks, drops)


def slow_trickle(client, server):
    """A packet now and then does not keep a message alive: the deadline counts from its first packet."""
    rid = client.next_rid()
    client.send([header(REQUEST, LB_ROUTE, F, rid, 10) + bytes(REQ0_BYTES)], server)
    for index in range(1, 10):
        time.sleep(0.1)
        client.send([header(REQUEST, LB_ROUTE, L if index == 9 else 0, rid, index) + b"x"], server)
    kinds = [parse(datagram)[0] for datagram, _ in client.drain(0.1)]
    if RESPONSE in kinds:
        raise Violation("a message that took 0.9 s was still assembled")


def raw_ip(server, rng):
    """What only a raw socket can send: lies in the UDP header, fragments, options."""
    try:
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    except PermissionError:
        return "skipped: raw sockets are for root"
    address = socket.inet_aton(server[0])
    body = header(REQUEST, LB_ROUTE, F | L, 31, 1) + resp(b"ECHO", b"raw")
    udp = lambda length, checksum: struct.pack("!HHHH", 40000, server[1], length, checksum)

    def ip(fragment, payload, options=b""):
        first = 0x45 + len(options) // 4
        head = struct.pack("!BBHHHBBH4s4s", first, 0, 20 + len(options) + len(payload), rng.randrange(1, 0xFFFF), fragment, 64, 17, 0, address, address)
        return head + options + payload

    exact = 8 + len(body)
    packets = [ip(0, udp(length, 0) + body) for length in (0, 7, 8, exact - 1, exact + 1, 0xFFFF)]
    packets += [ip(0, udp(exact, checksum) + body) for checksum in (1, 0xDEAD, 0xFFFF)]
    packets += [ip(0x2000, udp(exact, 0) + body[:8]), ip(0x2001, body[:8]), ip(0x1FFF, body[:8])]
    packets += [ip(0, udp(exact, 0) + body, options) for options in (b"\x01\x01\x01\x00", b"\x07\x07\x04\x00\x00\x00\x00\x00", b"\x44\xff\x05\x00")]
    sent = 0
    for packet in packets:
        try:
            raw.sendto(packet, server)
            sent += 1
        except OSError:
            pass  # this kernel refuses to send it, which is as good as dropping it
    return "%d of %d sent" % (sent, len(packets))


def blast(checks, servers, client):
    for server in servers:
        name = "%s:%d" % server
        rng = random.Random(20260101)
        for what, datagrams in bad_input(rng):
            checks.check("%s  %s" % (name, what), blasted, server, datagrams)
        for what, datagrams in bad_input(rng):
            if what.startswith(MUTE):
                checks.check("%s  no answer to %s" % (name, what), silent_about, server, datagrams)
        checks.check("%s  lies below R2P2" % name, raw_ip, server, rng)
        checks.check("%s  one greedy source" % name, flood, server, 1, 300)
        checks.check("%s  many greedy sources" % name, flood, server, 80, 64)
        checks.check("%s  a slow trickle" % name, slow_trickle, client, server)
        checks.check("%s  still alive" % name, alive, client, server)


# --- command line ----------------------------------------------------------------------------------------------------


def one_call(server, client, policy, words):
    try:
        sys.stdout.buffer.write(client.call_once(server, resp(*(os.fsencode(word) for word in words)), policy))
        return 0
    except (Dropped, Silence, Violation) as error:
        print("%s %s" % (type(error).__name__, error), file=sys.stderr)
        return 1


def address(text):
    host, _, port = text.rpartition(":")
    return (socket.gethostbyname(host), int(port))


def main():
    parser = argparse.ArgumentParser(description="An independent R2P2 client that tests servers.")
    parser.add_argument("--server", action="append", required=True, type=address, metavar="HOST:PORT", help="may be given several times")
    parser.add_argument("--patience", type=float, default=20.0, metavar="S", help="how long to wait for a leader, or for none (default 20)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("suite", help="all exchanges with servers that have a leader, then all bad input, then a few again")
    commands.add_parser("no-leader", help="servers that know no leader refuse at once")
    commands.add_parser("blast", help="bad input only")
    call = commands.add_parser("call", help="send one command to the first server and print the reply")
    call.add_argument("--policy", type=int, choices=range(4), default=LB_ROUTE)
    call.add_argument("words", nargs="+")
    args = parser.parse_args()
    client, checks = Client(patience_s=args.patience), Checks()
    if args.command == "call":
        return one_call(args.server[0], client, args.policy, args.words)
    if args.command == "no-leader":
        no_leader(checks, args.server, client)
    if args.command == "suite":
        suite(checks, args.server, client)
    if args.command in ("suite", "blast"):
        blast(checks, args.server, client)
    if args.command == "suite":
        for server in args.server:
            checks.check("%s:%d  set and get after the bad input" % server, set_and_get, client, server, args.server, 2000)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
