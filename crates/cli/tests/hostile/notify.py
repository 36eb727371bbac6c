#!/usr/bin/env python3
"""A program that speaks systemd's protocol by hand, step by step, and says what it sees.

    notify.py STEP...

Lines are "[SLOT] STEP: RESULT"; NODE_APP_INSTANCE is the slot, "-" alone.
"""
import array
import json
import os
import select
import socket
import sys
import threading
import time

SLOT = os.environ.get("NODE_APP_INSTANCE", "-")
VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "WATCHDOG_USEC",
             "WATCHDOG_PID", "LISTEN_PIDFDID", "NODE_CHANNEL_FD", "NODE_UNIQUE_ID")
stopping = threading.Event()


def say(step, text):
    # One write: lines of several processes do not mix.
    os.write(1, f"[{SLOT}] {step}: {text}\n".encode())


def notify(data, fds=()):
    path = os.environ["NOTIFY_SOCKET"]
    if path.startswith("@"):
        path = "\0" + path[1:]
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        to.sendmsg([data], rights, 0, path)


def inherited():
    """The sockets that were handed over, by name, if they were meant for this process."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    count = int(os.environ["LISTEN_FDS"])
    return [(names[k] if k < len(names) else "?", 3 + k) for k in range(count)]


def check():
    """What a program may rely on."""
    own = os.environ.get("LISTEN_PID") == str(os.getpid())
    say("check", f"{os.environ.get('LISTEN_FDS', 'no')} sockets for {'me' if own else 'another'}")
    for name, fd in inherited():
        s = socket.socket(fileno=os.dup(fd))
        flags = ["blocking" if os.get_blocking(fd) else "nonblocking",
                 "inherited" if os.get_inheritable(fd) else "cloexec",
                 "listening" if s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) else "silent"]
        at = s.getsockname()
        say("check", f"{fd} {name} {at if isinstance(at, str) else at[0] + ' ' + str(at[1])} {' '.join(flags)}")
        s.close()
    say("check", f"open {' '.join(str(fd) for fd in range(1024) if is_open(fd))}")


def is_open(fd):
    try:
        os.fstat(fd)
        return True
    except OSError:
        return False


def environment():
    """Which variables of the protocol are set; those that differ in each run are told from the rest."""
    for name in VARIABLES:
        value = os.environ.get(name)
        if name.endswith("_PID") and value == str(os.getpid()):
            value = "me"
        say("env", f"{name} {value}")


def answer(client, name):
    with client:
        client.settimeout(10)
        request = b""
        # All of it: a client whose request is not read is reset by the close.
        while b"\r\n\r\n" not in request:
            more = client.recv(65536)
            if not more:
                break
            request += more
        else:
            body = json.dumps({"pid": os.getpid(), "slot": int(SLOT), "name": name})
            client.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n"
                           f"Connection: close\r\n\r\n{body}".encode())


def accepting(listener, name):
    while not stopping.is_set():
        # A socket that is to block is waited for in accept(2); one that stops looks now and then.
        if name.startswith("polled") and not select.select([listener], [], [], 0.02)[0]:
            continue
        client, _ = listener.accept()
        try:
            answer(client, name)
        except OSError:
            pass


def serve(kind=""):
    threads = []
    for name, fd in inherited():
        work = (socket.socket(fileno=fd), kind + name)
        threads.append(threading.Thread(target=accepting, args=work, daemon=True))
        threads[-1].start()
    return threads


def pings(interval):
    until = os.environ.get("SILENT_WHEN", "")

    def run():
        while not (until and SLOT == "0" and os.path.exists(until)):
            notify("WATCHDOG=1")
            time.sleep(interval)
        # Once: its successor goes on.
        os.unlink(until)
        say("watchdog", "silent")
    threading.Thread(target=run, daemon=True).start()


def barrier():
    reader, writer = os.pipe()
    notify("BARRIER=1", [writer])
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], 10)
    say("barrier", "passed" if ready and os.read(reader, 1) == b"" else "stuck")


def garbage():
    """No datagram that there could be does anything."""
    bad = [b"", b"\0", b"\n\n\n", b"=", b"=1", b"READY", b"READY=", b"READY=2", b"READY=1x", b"ready=1",
           b"\xff\xfe=1", b"X" * 4096, b"STATUS", b"WATCHDOG=2", b"WATCHDOG", b"WATCHDOG_USEC=x",
           b"WATCHDOG_USEC=-1", b"WATCHDOG_USEC=99999999999999999999999", b"MAINPID=", b"MAINPID=x",
           b"NOTHING_KNOWN=1", b"A=1\n" * 1000, b"X" * 100_000, bytes(range(256))]
    for data in bad:
        try:
            notify(data)
        except OSError as error:
            # What does not fit is the sender's.
            say("garbage", f"{len(data)} bytes: {error.strerror}")
    say("garbage", "sent")


def store(count):
    """Descriptors that are to be kept: they are not, but closed."""
    with open("/dev/null") as file:
        for number in range(count):
            notify(f"FDSTORE=1\nFDNAME=stored{number}", [file.fileno()] * 3)
    say("store", "sent")


def flood(seconds):
    end, count = time.monotonic() + seconds, 0
    path = os.environ["NOTIFY_SOCKET"]
    path = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.connect(path)
        while time.monotonic() < end:
            to.send(b"STATUS=flood %d" % count)
            count += 1
    say("flood", f"{count} datagrams")


def until(path):
    while not os.path.exists(path):
        time.sleep(0.005)


def step(text, threads):
    name, _, value = text.partition("=")
    if name in ("check", "env", "barrier", "garbage"):
        {"check": check, "env": environment, "barrier": barrier, "garbage": garbage}[name]()
    elif name == "notify":
        notify(value.encode().decode("unicode_escape").encode("latin-1"))
    elif name == "socket":
        say("socket", os.environ.get("NOTIFY_SOCKET", "none"))
    elif name == "until":
        until(value)
    elif name == "slot" and value != SLOT:
        # The rest is for that slot alone.
        return False
    elif name == "serve":
        threads += serve(value)
    elif name == "watchdog":
        pings(float(value))
    elif name == "store":
        store(int(value))
    elif name == "flood":
        flood(float(value))
    elif name == "stop":
        # Takes nothing any more, finishes what it has, and ends.
        stopping.set()
        for thread in threads:
            thread.join()
        os._exit(int(value or 0))
    return True


def main():
    threads = []
    for text in sys.argv[1:]:
        if not step(text, threads):
            break
    say("end", "ok")
    threading.Event().wait()


main()
