"""The system calls that a sandboxed program may make, compiled to a BPF program.

This is an allow-list: every other call fails with ENOSYS. So calls that a newer kernel adds are refused too,
and programs fall back as they would on an old kernel. The list holds the calls that CPython, its standard
library, numpy and a shell were seen to use, except those that reach beyond the process (mount, namespaces,
tracing, keys, BPF, io_uring, System V objects, memfd, clocks).

Some common calls are missing for these reasons:
    memfd_create, shmget, mq_open, msgget   memory that no process's resident set shows
    ptrace, process_vm_*, pidfd_getfd, kcmp another process's memory and descriptors
    inotify_*, fanotify_*                   watch files outside on tier 2
    socket of other families                netlink, vsock and packet sockets reach out of a network namespace
"""

from __future__ import annotations

import functools
import os
import tempfile
from typing import Any

from sandbox.errors import SandboxUnavailable

# This placeholder stands for the program's own process id on tier 2. The stage replaces it after its fork.
SELF_PID = 0x5EAFF00D
# The flags are CLONE_NEWTIME|NEWNS|NEWCGROUP|NEWUTS|NEWIPC|NEWUSER|NEWPID|NEWNET of linux/sched.h.
_CLONE_NEW = (
    0x00000080 | 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
)
# The requests of ioctl that files, pipes and a pseudo-terminal need (asm-generic/ioctls.h): TCGETS, TCSETS,
# TCSETSW, TCSETSF, TIOCGPGRP, TIOCSPGRP, TIOCGWINSZ, TIOCSWINSZ, FIONREAD, FIONBIO, TIOCGSID, TIOCGPTN,
# TIOCSPTLCK, FIONCLEX, FIOCLEX. TIOCSTI and TIOCLINUX are left out, because they type into the
# terminal. The kernel reads 32 bits of the request.
_IOCTLS = (
    *(0x5401, 0x5402, 0x5403, 0x5404, 0x540F, 0x5410, 0x5413, 0x5414, 0x541B, 0x5421, 0x5429),
    *(0x80045430, 0x40045431, 0x5450, 0x5451),
)
_FIOASYNC = 0x5452
# The commands of fcntl that tier 2 allows: F_DUPFD, F_GETFD, F_SETFD, F_GETFL, the locks (F_GETLK to
# F_SETLKW, F_OFD_GETLK to F_OFD_SETLKW), F_DUPFD_CLOEXEC, F_SETPIPE_SZ, F_GETPIPE_SZ and the seals. F_SETOWN,
# F_SETSIG and F_SETLEASE are left out, because they make the kernel signal any process of the same user.
_FCNTL = (0, 1, 2, 3, 5, 6, 7, 36, 37, 38, 1030, 1031, 1032, 1033, 1034)
_F_SETFL, _O_ASYNC = 4, 0x2000
_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_LOW_32 = 0xFFFFFFFF

_FILES = """
access chdir close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate
fchdir fdatasync flock fstat fstatfs fsync ftruncate getcwd getdents getdents64 lgetxattr getxattr
fgetxattr listxattr llistxattr flistxattr link linkat lseek lstat mkdir mkdirat mknod mknodat newfstatat open
openat openat2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
rename renameat renameat2 rmdir sendfile splice stat statfs statx symlink symlinkat sync_file_range tee
truncate umask unlink unlinkat write writev
"""
# Landlock does not cover these calls, so on tier 2 they would reach files outside. There they do nothing and
# return 0.
_METADATA = """
chmod fchmod fchmodat fchmodat2 chown fchown fchownat lchown utime utimes utimensat futimesat setxattr
lsetxattr fsetxattr removexattr lremovexattr fremovexattr
"""
_MEMORY = """
brk madvise membarrier mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock munlockall munmap
pkey_alloc pkey_free pkey_mprotect get_mempolicy
"""
_PROCESSES = """
arch_prctl capget capset execve execveat exit exit_group fork futex futex_waitv get_robust_list getcpu getegid
geteuid getgid getgroups getpgid getpgrp getpid getppid getresgid getresuid getrlimit getrusage getsid gettid
getuid prctl restart_syscall rseq sched_get_priority_max sched_get_priority_min
sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval sched_yield
set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setregid
setresgid setresuid setreuid setrlimit setuid uname vfork wait4 waitid landlock_create_ruleset
landlock_add_rule landlock_restrict_self getpriority ioprio_get sysinfo times getrandom
"""
_SIGNALS = """
pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait sigaltstack
signalfd signalfd4
"""
_TIME = """
alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time timer_create
timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime
"""
_EVENTS = """
epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd
eventfd2 pipe pipe2 poll ppoll pselect6 select
"""
_SOCKETS = """
accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg
sendmsg sendto setsockopt shutdown
"""
# These calls take another process's id. They are harmless on tier 1, whose PID namespace hides the host's
# processes.
_OTHERS = """
kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_send_signal prlimit64 sched_setaffinity
sched_setattr sched_setparam sched_setscheduler setpriority ioprio_set
"""
# For these of them, a first argument of 0 means the caller itself, and tier 2 allows nothing else.
_SELF_BY_ZERO = ("prlimit64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler")


@functools.cache
def program(tier: int, *, scoped_signals: bool = True) -> bytes:
    """Return the BPF program of a tier: an array of `struct sock_filter` for this machine's architecture.

    Args:
        tier: 1 (inside namespaces) or 2 (Landlock alone stands between the program and the host).
        scoped_signals: Landlock keeps signals inside (ABI 6). If False, a program on tier 2 may signal only
            itself and its own process group.

    Raises:
        SandboxUnavailable: pyseccomp or libseccomp is missing.
    """
    sc = _library()
    made = sc.SyscallFilter(sc.ERRNO(38))  # ENOSYS
    allow = _FilterRules(sc, made)
    for block in (_FILES, _MEMORY, _PROCESSES, _SIGNALS, _TIME, _EVENTS):
        allow.all(block)
    allow.when("clone", (0, sc.MASKED_EQ, _CLONE_NEW, 0))
    for request in _IOCTLS:
        allow.when("ioctl", (1, sc.MASKED_EQ, _LOW_32, request))
    (_tier_one if tier == 1 else _tier_two)(sc, allow, scoped_signals)
    with tempfile.TemporaryFile() as out:
        made.export_bpf(out)
        out.seek(0)
        return out.read()


def _tier_one(sc: Any, allow: _FilterRules, _scoped: bool) -> None:
    """Add the rules for a program inside namespaces, where sockets, process ids and files are its own."""
    for block in (_METADATA, _SOCKETS, _OTHERS, "fcntl setsid setpgid"):
        allow.all(block)
    allow.when("ioctl", (1, sc.MASKED_EQ, _LOW_32, _FIOASYNC))
    for family in (_AF_UNIX, _AF_INET, _AF_INET6):
        allow.when("socket", (0, sc.EQ, family, 0))
    allow.when("socketpair", (0, sc.EQ, _AF_UNIX, 0))


def _tier_two(sc: Any, allow: _FilterRules, scoped: bool) -> None:
    """Add the rules for a program confined by Landlock alone.

    It gets no sockets except pairs, metadata calls do nothing, and signals stay inside. Nothing may leave its
    process group, since killing the group is how the whole tree is ended at once.
    """
    allow.pretend(_METADATA)
    for command in _FCNTL:
        allow.when("fcntl", (1, sc.MASKED_EQ, _LOW_32, command))
    allow.when("fcntl", (1, sc.MASKED_EQ, _LOW_32, _F_SETFL), (2, sc.MASKED_EQ, _O_ASYNC, 0))
    allow.all("getpeername getsockname getsockopt recvmsg recvfrom recvmmsg shutdown setsockopt")
    # A connected pair needs no address, and sendto with an address could reach a socket file outside.
    allow.when("sendto", (4, sc.EQ, 0, 0))
    allow.when("socketpair", (0, sc.EQ, _AF_UNIX, 0))
    for name in _SELF_BY_ZERO:
        allow.when(name, (0, sc.EQ, 0, 0))
    if scoped:
        allow.all("kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open pidfd_send_signal")
        return
    for name in ("kill", "tgkill"):
        allow.when(name, (0, sc.EQ, SELF_PID, 0))
    allow.when("kill", (0, sc.EQ, 0, 0))


class _FilterRules:
    """Adds rules by name and skips names that this libseccomp or this architecture does not have."""

    def __init__(self, sc: Any, made: Any) -> None:
        self._sc, self._filter = sc, made

    def all(self, names: str) -> None:
        for name in names.split():
            self._add(self._sc.ALLOW, name)

    def pretend(self, names: str) -> None:
        for name in names.split():
            self._add(self._sc.ERRNO(0), name)

    def when(self, name: str, *conditions: tuple[int, Any, int, int]) -> None:
        self._add(self._sc.ALLOW, name, *conditions)

    def _add(self, action: Any, name: str, *conditions: tuple[int, Any, int, int]) -> None:
        if self._sc.resolve_syscall(self._sc.system_arch(), name) < 0:
            return
        self._filter.add_rule(action, name, *(self._sc.Arg(*one) for one in conditions))


def _library() -> Any:
    try:
        import pyseccomp
    except (ImportError, RuntimeError, OSError) as error:
        raise SandboxUnavailable(
            f"The sandbox needs a seccomp filter, and libseccomp did not load: {error}. "
            "Install it (Debian, Ubuntu: apt install libseccomp2; Fedora: dnf install libseccomp)."
        ) from error
    return pyseccomp


def as_file(bpf: bytes) -> int:
    """Return an inheritable descriptor positioned at the start of the program, for `bwrap --seccomp`."""
    descriptor = os.memfd_create("filter", 0)
    os.write(descriptor, bpf)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
