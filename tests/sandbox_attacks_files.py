"""Attacks on files outside, secrets and memory. Data for tests/test_sandbox_attacks.py."""

from __future__ import annotations

from sandbox_attacks_host import Attack

from sandbox import RunResult


def _no_links(result: RunResult) -> str | None:
    return f"links came back as files: {list(result.files)}" if "link" in result.files else None


FILES = [
    Attack(name="read a file outside", body="reached(open(H['secret_file']).read())"),
    Attack(
        name="read by a path that climbs",
        body="reached(open('../' * 40 + H['secret_file'].lstrip('/')).read())",
    ),
    Attack(
        name="list a folder outside",
        body="if 'secret.txt' in os.listdir(H['folder']): reached()",
    ),
    Attack(name="append to a file outside", body="open(H['secret_file'], 'a').write('x')"),
    Attack(name="make a file outside", body="open(H['folder'] + '/new', 'w').write('x')"),
    Attack(name="make a folder outside", body="os.mkdir(H['folder'] + '/new')"),
    Attack(name="make a fifo outside", body="os.mkfifo(H['folder'] + '/new')"),
    Attack(name="delete a file outside", body="os.unlink(H['secret_file'])"),
    Attack(name="rename a file outside", body="os.rename(H['secret_file'], H['folder'] + '/other')"),
    Attack(name="truncate a file outside", body="os.truncate(H['secret_file'], 3)"),
    Attack(name="change the mode of a file outside", body="os.chmod(H['secret_file'], 0o600)"),
    Attack(
        name="change the mode by the raw system call",
        body="syscall(90, H['secret_file'].encode(), 0o600)",
    ),
    Attack(name="change the owner of a file outside", body="os.chown(H['secret_file'], 12, 12)", real=False),
    Attack(name="change the times of a file outside", body="os.utime(H['secret_file'], (1, 1))"),
    Attack(name="set an attribute on a file outside", body="os.setxattr(H['secret_file'], 'user.x', b'1')"),
    Attack(
        name="see that a file outside exists",
        body="reached(os.stat(H['secret_file']).st_size)",
        tiers=(1,),
    ),
    Attack(name="link a file outside into the folder", body="os.link(H['secret_file'], 'mine'); reached()"),
    Attack(
        name="read through a symbolic link",
        body="os.symlink(H['secret_file'], 'mine'); reached(open('mine').read())",
    ),
    Attack(
        name="hand back a symbolic link as a result",
        body="os.symlink(H['secret_file'], 'link'); os.symlink('/usr/bin/env', 'link2')",
        real=False,
        check=_no_links,
    ),
    Attack(
        name="read through the root of another process",
        body="""
for pid in [name for name in os.listdir('/proc') if name.isdigit()]:
    try:
        reached(open(f'/proc/{pid}/root' + H['secret_file']).read())
    except OSError:
        pass
""",
    ),
    Attack(
        name="read through the folder of another process",
        body="""
for pid in [name for name in os.listdir('/proc') if name.isdigit()] + [str(H['parent'])]:
    try:
        if 'pyproject.toml' in os.listdir(f'/proc/{pid}/cwd'): reached(pid)
    except OSError:
        pass
""",
        real=False,
    ),
    Attack(
        name="read through the descriptors of another process",
        body="""
for pid in os.listdir('/proc'):
    for fd in range(64):
        try:
            fh = os.open(f'/proc/{int(pid)}/fd/{fd}', os.O_RDONLY | os.O_NONBLOCK)
            text = os.read(fh, 100)
            if len(text) == 32: reached(text)
        except (OSError, ValueError):
            pass
""",
    ),
    Attack(name="read the shared memory of the machine", body="reached(open(H['shared_file']).read())"),
    Attack(
        name="look into /sys",
        body="if os.listdir('/sys'): reached()",
    ),
    Attack(
        name="write a kernel setting under /proc/sys",
        body="""
for name in ('kernel/core_pattern', 'kernel/modprobe', 'kernel/hostname', 'vm/overcommit_memory'):
    try:
        open(f'/proc/sys/{name}', 'r+').close()
        reached(name)
    except OSError:
        pass
""",
        real=False,
    ),
    Attack(
        name="trigger sysrq",
        body="fd = os.open('/proc/sysrq-trigger', os.O_WRONLY); reached()",
        real=False,
    ),
    Attack(
        name="open a block device or the kernel's memory",
        body="""
import stat
for name in os.listdir('/dev') + ['mem', 'kmem', 'kmsg', 'vda', 'sda', 'port', 'fuse', 'kvm', 'net/tun']:
    try:
        fd = os.open('/dev/' + name, os.O_RDONLY | os.O_NONBLOCK)
        if stat.S_ISBLK(os.fstat(fd).st_mode) or name in ('mem', 'kmsg', 'fuse', 'kvm'): reached(name)
    except OSError:
        pass
""",
        real=False,
    ),
    Attack(
        name="make a device node",
        body="os.mknod('node', 0o20666, os.makedev(1, 1)); os.open('node', os.O_RDONLY); reached()",
        real=False,
    ),
    Attack(
        name="break out of a chroot",
        body="""
os.mkdir('jail')
os.chroot('jail')
for _ in range(40): os.chdir('..')
os.chroot('.')
reached(open(H['secret_file']).read())
""",
        real=False,
    ),
    Attack(
        name="open a file by its handle",
        body="""
size = ctypes.create_string_buffer(struct.pack('Ii', 128, 0), 136)
mount = ctypes.c_int()
syscall(303, -100, H['folder'].encode(), size, ctypes.byref(mount), 0)
syscall(304, os.open('/', os.O_RDONLY), size, 0)
reached()
""",
        real=False,
    ),
    Attack(
        name="write into the interpreter's packages",
        body="""
import site
for folder in site.getsitepackages() + [os.path.dirname(os.__file__)]:
    try:
        path = folder + '/' + H['token'] + '.pth'
        open(path, 'w').write('import os')
        os.unlink(path)
        reached(folder)
    except OSError:
        pass
""",
        real=False,
    ),
    Attack(
        name="read the project's checkout",
        body="reached(os.listdir(H['project']))\nreached(open(H['project'] + '/pyproject.toml').read(9))",
    ),
    Attack(
        name="write to the root folder",
        body="""
for place in ('/x', '/usr/x', '/opt/x', '/etc/x', '/root/x', '/home/x', '/run/x', '/var/x', '/dev/x',
'/proc/x'):
    try:
        open(place, 'w').close()
        os.unlink(place)
        reached(place)
    except OSError:
        pass
""",
        real=False,
    ),
    Attack(
        name="watch files outside",
        body="fd = syscall(253); reached(syscall(254, fd, H['folder'].encode(), 0xfff))",
    ),
]

SECRETS = [
    Attack(
        name="read the environment",
        body="reached(os.environ['CANARY_SECRET']) if 'CANARY_SECRET' in os.environ else None",
    ),
    Attack(
        name="read the environment of other processes",
        body="""
for pid in os.listdir('/proc'):
    try:
        if b'CANARY_SECRET' in open(f'/proc/{int(pid)}/environ', 'rb').read(): reached(pid)
    except (OSError, ValueError):
        pass
""",
    ),
    Attack(
        name="see the command lines of other processes",
        body="""
for pid in os.listdir('/proc'):
    try:
        if b'pytest' in open(f'/proc/{int(pid)}/cmdline', 'rb').read(): reached(pid)
    except (OSError, ValueError):
        pass
""",
        real=False,
    ),
    Attack(
        name="read the parent's memory file",
        body="""
for pid in (H['parent'], H['victim']):
    try:
        with open(f'/proc/{pid}/mem', 'rb', buffering=0): reached(pid)
    except OSError:
        pass
""",
        real=False,
    ),
    Attack(
        name="read another process's memory by a system call",
        body="""
here = ctypes.create_string_buffer(8)
local = struct.pack('QQ', ctypes.addressof(here), 8)
code = [H['victim'], local, 1, struct.pack('QQ', 0x400000, 8), 1, 0]
try:
    syscall(310, *code)
    reached()
except OSError as error:
    if error.errno == errno.EFAULT: reached('allowed, only the address was wrong')
    raise
""",
    ),
    Attack(name="trace another process", body="syscall(101, 0x4206, H['victim'], 0, 0); reached()"),
    Attack(name="trace the parent", body="syscall(101, 0x4206, os.getppid(), 0, 0); reached()", real=False),
    Attack(
        name="take a descriptor from another process",
        body="fd = syscall(434, H['victim'], 0); syscall(438, fd, 1, 0); reached()",
    ),
    Attack(
        name="read inherited descriptors",
        body="""
for fd in range(3, 512):
    try:
        text = os.pread(fd, 100, 0)
        if len(text) == 32: reached(text)
    except OSError:
        pass
""",
    ),
    Attack(
        name="read the kernel's log", body="syscall(103, 3, ctypes.create_string_buffer(64), 64); reached()"
    ),
    Attack(
        name="use the kernel's key rings",
        body="syscall(248, b'user', b'canary', b'x', 1, -3); reached()",
        real=False,
    ),
    Attack(
        name="load kernel symbols",
        body="if open('/proc/kallsyms').read(10): reached()",
    ),
]
