"""Attacks over the network and on other processes. Data for tests/test_sandbox_attacks.py."""

from __future__ import annotations

from sandbox_attacks_host import Attack

from sandbox import RunResult


def _prompt(result: RunResult) -> str | None:
    return None if result.duration_s < 6 else f"the run took {result.duration_s:.1f} s"


NETWORK = [
    Attack(
        name="connect over TCP",
        body="socket.create_connection(('127.0.0.1', H['tcp']), 2).send(b'x'); reached()",
    ),
    Attack(
        name="send a UDP packet",
        body="socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', H['udp']))",
    ),
    Attack(
        name="connect to a listening port by another address of this machine",
        body="""
for address in ('0.0.0.0', '127.1.2.3', '::1', '::ffff:127.0.0.1'):
    try:
        socket.create_connection((address, H['tcp']), 1)
        reached(address)
    except OSError:
        pass
""",
    ),
    Attack(
        name="connect to an abstract socket",
        body="socket.socket(socket.AF_UNIX).connect(H['abstract']); reached()",
    ),
    Attack(
        name="connect to a socket file", body="socket.socket(socket.AF_UNIX).connect(H['unix']); reached()"
    ),
    Attack(
        name="send from a socket pair to a socket file",
        body="""
one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
one.sendto(b'x', H['datagram'])
reached()
""",
        real=False,
    ),
    Attack(
        name="send by sendmsg to a socket file",
        body="""
one, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
one.sendmsg([b'x'], [], 0, H['datagram'])
reached()
""",
        real=False,
    ),
    Attack(
        name="ask for the interfaces over netlink",
        body="""
link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
link.bind((0, 0))
reached()
""",
    ),
    Attack(
        name="open a packet socket",
        body="socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3); reached()",
        real=False,
    ),
    Attack(name="open a raw socket", body="socket.socket(2, socket.SOCK_RAW, 1); reached()", real=False),
    Attack(name="open a vsock to the hypervisor", body="socket.socket(40, 1); reached()", real=False),
    Attack(name="use the kernel's crypto sockets", body="socket.socket(38, 5); reached()", real=False),
    Attack(
        name="reach the cloud's metadata address",
        body="""
link = socket.socket()
link.settimeout(1)
try:
    link.connect(('169.254.169.254', 80))
    reached()
except TimeoutError:
    reached('packets leave')
""",
        real=False,
    ),
    Attack(
        name="resolve a name",
        body="reached(socket.getaddrinfo('example.com', 80)[0])",
        real=False,
    ),
    Attack(
        name="serve on a port of this machine",
        body="""
link = socket.socket()
link.bind(('0.0.0.0', 0))
link.listen()
if any(name != 'lo' for _, name in socket.if_nameindex()): reached()
""",
        real=False,
    ),
]

PROCESSES = [
    Attack(name="kill a process outside", body="os.kill(H['victim'], 9); time.sleep(0.2)"),
    Attack(name="signal a process outside", body="os.kill(H['victim'], 10); time.sleep(0.2)"),
    Attack(name="see a process outside", body="os.kill(H['victim'], 0); reached()"),
    Attack(
        name="signal through a process descriptor",
        body="""
import signal
signal.pidfd_send_signal(os.pidfd_open(H['victim']), 10)
time.sleep(0.2)
""",
    ),
    Attack(name="queue a signal outside", body="syscall(129, H['victim'], 10, b'\\0' * 128)", real=False),
    Attack(name="signal a thread outside", body="syscall(234, H['victim'], H['victim'], 10); time.sleep(.2)"),
    Attack(
        name="signal everybody",
        # A process without a handler ignores SIGWINCH, so a hole in the sandbox would do no harm.
        body="os.kill(-1, 28); time.sleep(0.2)",
        real=False,  # it would reach the victims of a suite that runs at the same time
    ),
    Attack(
        name="signal the process group of the parent",
        body="os.killpg(os.getpgid(H['victim']), 28); time.sleep(0.2)",
    ),
    Attack(name="signal the test process", body="os.kill(H['parent'], 0); reached()"),
    Attack(name="kill what supervises inside", body="os.kill(os.getppid(), 9); time.sleep(30)", real=False),
    Attack(
        name="stop what supervises inside",
        body="os.kill(os.getppid(), 19); reached() if os.getppid() == H['parent'] else time.sleep(30)",
        real=False,
    ),
    Attack(
        name="outlive the run by a double fork",
        body="""
if os.fork() == 0:
    try: os.setsid()
    except OSError: pass
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(20)', H['token']])
    os._exit(0)
time.sleep(0.3)
""",
        check=_prompt,
    ),
    Attack(
        name="hold the output open after the end",
        body="""
if os.fork() == 0:
    os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(20)', H['token']])
time.sleep(0.3)
""",
        check=_prompt,
    ),
    Attack(
        name="leave a process that ignores signals",
        body="""
import signal
if os.fork() == 0:
    for number in (1, 2, 3, 15): signal.signal(number, signal.SIG_IGN)
    os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(20)', H['token']])
time.sleep(0.3)
""",
        check=_prompt,
    ),
    Attack(
        name="raise its own limits",
        body="""
import resource
for name in ('RLIMIT_AS', 'RLIMIT_CPU', 'RLIMIT_NOFILE', 'RLIMIT_CORE'):
    kind = getattr(resource, name)
    soft, hard = resource.getrlimit(kind)
    if hard == -1: continue
    try:
        resource.setrlimit(kind, (soft, hard + 1000))
        reached(name)
    except (OSError, ValueError):
        pass
""",
        real=False,
    ),
    Attack(
        name="change the limits of another process",
        body="import resource\nresource.prlimit(H['victim'], resource.RLIMIT_NOFILE, (10, 10))",
    ),
    Attack(
        name="take real-time priority",
        body="os.sched_setscheduler(0, 1, os.sched_param(1)); reached()",
        real=False,
    ),
    Attack(name="lower its niceness", body="os.setpriority(0, 0, -5); reached()", real=False),
    Attack(
        name="change the niceness of another process",
        body="os.setpriority(0, H['victim'], 5); reached()",
    ),
    Attack(
        name="pin another process to a CPU",
        body="os.sched_setaffinity(H['victim'], {0}); reached()",
    ),
    Attack(
        name="keep root or a capability",
        body="""
data = ctypes.create_string_buffer(24)
syscall(125, struct.pack('Ii', 0x20080522, 0), data)
effective, permitted, _, effective2, permitted2, _ = struct.unpack('6I', data.raw)
if effective or permitted or effective2 or permitted2: reached()
""",
        real=False,
    ),
    Attack(
        name="gain privileges by a set-user-id program",
        body="if _libc.prctl(39, 0, 0, 0, 0) == 0: reached()",
    ),
    Attack(
        name="become root and read",
        body="os.setuid(0); os.setgid(0); reached(open(H['secret_file']).read())",
        real=False,
    ),
]
