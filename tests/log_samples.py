"""Logs as twenty common tools write them when something fails, each with the words that an answer must hold."""

# ruff: noqa: E501 - lines of logs.

from __future__ import annotations

import random
from collections.abc import Callable

Sample = tuple[str, tuple[str, ...]]
"""A log, and the pieces of it that say what went wrong."""


def _noise(lines: int, make: Callable[[int], str]) -> str:
    return "".join(f"{make(i)}\n" for i in range(lines))


def _time(i: int) -> str:
    return f"2026-11-30 {12 + i // 3600 % 12:02}:{i // 60 % 60:02}:{i % 60:02}"


def make() -> Sample:
    text = _noise(60, lambda i: f"gcc -O2 -Wall -Werror -c src/unit{i}.c -o build/unit{i}.o")
    text += "src/pump.c: In function 'pump_start':\nsrc/pump.c:118:12: error: 'struct pump' has no member named 'rate'\n"
    text += "  118 |     if (p->rate > LIMIT)\n      |          ^~\nmake[1]: *** [src/Makefile:31: build/pump.o] Error 1\n"
    return text + "make[1]: Leaving directory '/home/a/pump'\nmake: *** [Makefile:12: all] Error 2\n", (
        "no member named 'rate'",
    )


def pytest_run() -> Sample:
    text = "============ test session starts ============\nplatform linux -- Python 3.11.9, pytest-8.3.3\ncollected 214 items\n\n"
    text += _noise(20, lambda i: f"tests/test_{i}.py ..........                               [ {i * 5:2}%]")
    text += "\n================ FAILURES ================\n________ test_refund_is_rounded ________\n\n    def test_refund_is_rounded():\n"
    text += ">       assert refund(10.005) == 10.01\nE       assert 10.0 == 10.01\nE        +  where 10.0 = refund(10.005)\n\n"
    text += "tests/test_money.py:41: AssertionError\n========== short test summary info ==========\n"
    text += "FAILED tests/test_money.py::test_refund_is_rounded - assert 10.0 == 10.01\n"
    return text + "======= 1 failed, 213 passed in 8.12s =======\n", (
        "test_refund_is_rounded",
        "assert 10.0 == 10.01",
    )


def gcc_link() -> Sample:
    text = _noise(30, lambda i: f"[{i + 1}/31] Building CXX object CMakeFiles/app.dir/src/m{i}.cpp.o")
    text += "/usr/bin/ld: CMakeFiles/app.dir/src/m7.cpp.o: in function `Store::open()':\n"
    text += "m7.cpp:(.text+0x2c): undefined reference to `sqlite3_open_v2'\ncollect2: error: ld returned 1 exit status\n"
    return text + "ninja: build stopped: subcommand failed.\n", ("undefined reference to `sqlite3_open_v2'",)


def cargo() -> Sample:
    text = _noise(40, lambda i: f"   Compiling crate-{i} v0.{i}.1")
    text += "error[E0502]: cannot borrow `self.queue` as mutable because it is also borrowed as immutable\n  --> src/worker.rs:77:9\n"
    text += "   |\n76 |         let head = self.queue.front();\n   |                    ---------- immutable borrow occurs here\n"
    text += "77 |         self.queue.pop_front();\n   |         ^^^^^^^^^^^^^^^^^^^^^^ mutable borrow occurs here\n\n"
    text += "For more information about this error, try `rustc --explain E0502`.\nerror: could not compile `pond` (lib) due to 1 previous error\n"
    return text, ("cannot borrow `self.queue`", "src/worker.rs:77:9")


def npm() -> Sample:
    text = _noise(30, lambda i: f"npm warn deprecated left-pad{i}@1.0.{i}: use String.prototype.padStart")
    text += "npm error code ERESOLVE\nnpm error ERESOLVE unable to resolve dependency tree\nnpm error\nnpm error While resolving: shop@2.1.0\n"
    text += 'npm error Found: react@19.0.0\nnpm error Could not resolve dependency:\nnpm error peer react@"^17.0.0" from carousel@4.2.1\n'
    return text + "npm error A complete log of this run can be found in: /root/.npm/_logs/x.log\n", (
        "ERESOLVE",
        "carousel@4.2.1",
    )


def syslog() -> Sample:
    def line(i: int) -> str:
        jobs = (
            "CRON[{}]: (root) CMD (run-parts /etc/cron.hourly)",
            "dhclient[{}]: bound to 10.0.0.7 -- renewal in 1800 seconds.",
        )
        return f"Nov 30 {i // 60 % 24:02}:{i % 60:02}:01 host7 {jobs[i % 2].format(900 + i)}"

    text = (
        _noise(700, line)
        + "Nov 30 12:31:07 host7 kernel: [81234.1] EXT4-fs error (device sdb1): ext4_find_entry:1455: reading directory lblock 0\n"
    )
    text += "Nov 30 12:31:07 host7 kernel: [81234.2] Buffer I/O error on dev sdb1, logical block 0, lost sync page write\n"
    return text + _noise(300, line), ("EXT4-fs error (device sdb1)",)


def nginx() -> Sample:
    paths = ("/", "/cart", "/api/items", "/static/app.js")

    def line(i: int) -> str:
        return f'10.0.0.{i % 250} - - [30/Nov/2026:12:{i // 60 % 60:02}:{i % 60:02} +0000] "GET {paths[i % 4]} HTTP/1.1" 200 {i * 7 % 9000} "-" "curl/8.5"'

    text = _noise(900, line)
    text += '10.0.0.9 - - [30/Nov/2026:12:44:10 +0000] "POST /api/checkout HTTP/1.1" 502 157 "-" "curl/8.5"\n'
    text += "2026/11/30 12:44:10 [error] 31#31: *77 connect() failed (111: Connection refused) while connecting to upstream, "
    text += 'client: 10.0.0.9, server: shop, upstream: "http://127.0.0.1:9100/api/checkout"\n'
    return text + _noise(200, line), ("Connection refused", "127.0.0.1:9100")


def kubectl() -> Sample:
    text = "NAME                       READY   STATUS    RESTARTS   AGE\nweb-6d5f7c9b8-x2x7k        1/1     Running   0          3d\n"
    text += "worker-7c9d6b5f4-q8m2p     0/1     CrashLoopBackOff   17 (2m ago)   64m\n\nEvents:\n  Type     Reason     Age    From      Message\n"
    text += '  Normal   Pulled     64m    kubelet   Container image "worker:1.9" already present on machine\n'
    text += "  Normal   Created    64m    kubelet   Created container worker\n"
    text += '  Warning  Failed     64m    kubelet   Error: secret "queue-credentials" not found\n'
    return text + "  Warning  BackOff    2m     kubelet   Back-off restarting failed container\n", (
        'secret "queue-credentials" not found',
    )


def systemd() -> Sample:
    text = _noise(
        50,
        lambda i: (
            f"Nov 30 12:00:{i:02} host7 systemd[1]: Started session-{i}.scope - Session {i} of User ada."
        ),
    )
    text += "Nov 30 12:01:02 host7 systemd[1]: Starting relay.service - Mail relay...\n"
    text += "Nov 30 12:01:02 host7 relayd[4411]: bind: Address already in use (port 25)\n"
    text += (
        "Nov 30 12:01:02 host7 systemd[1]: relay.service: Main process exited, code=exited, status=98/n/a\n"
    )
    text += "Nov 30 12:01:02 host7 systemd[1]: relay.service: Failed with result 'exit-code'.\n"
    return text + "Nov 30 12:01:02 host7 systemd[1]: Failed to start relay.service - Mail relay.\n", (
        "Address already in use",
    )


def docker_build() -> Sample:
    text = "#1 [internal] load build definition from Dockerfile\n#1 DONE 0.0s\n#5 [2/6] RUN apt-get update\n"
    text += _noise(
        60,
        lambda i: (
            f"#5 {i / 10:.3f} Get:{i} http://deb.example/debian bookworm/main amd64 pkg{i} [1,{i:03} kB]"
        ),
    )
    text += "#9 [5/6] RUN pip install -r requirements.txt\n#9 2.114 Collecting numpi==1.26\n"
    text += "#9 2.201 ERROR: Could not find a version that satisfies the requirement numpi==1.26 (from versions: none)\n"
    text += '#9 2.202 ERROR: No matching distribution found for numpi==1.26\n#9 ERROR: process "/bin/sh -c pip install -r requirements.txt" did not complete successfully: exit code: 1\n'
    return (
        text
        + "------\n > [5/6] RUN pip install -r requirements.txt:\n------\nERROR: failed to solve: process did not complete successfully: exit code: 1\n",
        ("requirement numpi==1.26",),
    )


def java() -> Sample:
    text = _noise(
        400,
        lambda i: (
            f"{_time(i)}.{i % 1000:03}  INFO 1 --- [nio-8080-exec-{i % 9}] c.e.shop.OrderController : order {i} stored"
        ),
    )
    text += f"{_time(400)}.120 ERROR 1 --- [nio-8080-exec-3] c.e.shop.OrderController : order 400 failed\n"
    text += "java.lang.IllegalStateException: no price for item 88\n" + _noise(
        50, lambda i: f"\tat com.example.shop.Layer{i}.call(Layer{i}.java:{i + 10})"
    )
    text += "Caused by: java.sql.SQLTransientConnectionException: HikariPool-1 - Connection is not available, request timed out after 30000ms.\n"
    text += (
        _noise(8, lambda i: f"\tat com.zaxxer.hikari.pool.HikariPool.get{i}(HikariPool.java:{i + 600})")
        + "\t... 41 more\n"
    )
    text += _noise(
        100,
        lambda i: (
            f"{_time(500 + i)}.{i:03}  INFO 1 --- [nio-8080-exec-1] c.e.shop.OrderController : order {i} stored"
        ),
    )
    return text, ("no price for item 88", "HikariPool-1 - Connection is not available")


def go_panic() -> Sample:
    text = _noise(100, lambda i: f"2026/11/30 12:00:{i % 60:02} served /item/{i} in {i % 9}ms")
    text += "panic: runtime error: index out of range [5] with length 5\n\ngoroutine 34 [running]:\nmain.(*Ring).next(...)\n"
    return text + "\t/src/ring.go:52\nmain.worker(0xc0000b2000)\n\t/src/main.go:88 +0x1a5\nexit status 2\n", (
        "index out of range [5] with length 5",
    )


def terraform() -> Sample:
    text = _noise(40, lambda i: f"aws_route53_record.r[{i}]: Refreshing state... [id=Z1_{i}]")
    text += '╷\n│ Error: creating S3 Bucket (pond-archive): BucketAlreadyExists\n│ \n│   with aws_s3_bucket.archive,\n│   on storage.tf line 14, in resource "aws_s3_bucket" "archive":\n'
    return text + '│   14: resource "aws_s3_bucket" "archive" {\n│ \n╵\n', (
        "BucketAlreadyExists",
        "storage.tf line 14",
    )


def ansible() -> Sample:
    text = "PLAY [web] ******************\n\nTASK [Gathering Facts] ******\n" + _noise(
        9, lambda i: f"ok: [web{i}]"
    )
    text += "\nTASK [install nginx] ********\n" + _noise(8, lambda i: f"changed: [web{i}]")
    text += 'fatal: [web8]: FAILED! => {"changed": false, "msg": "No package matching \'ngnix\' is available"}\n\nPLAY RECAP ******\n'
    text += _noise(
        8, lambda i: f"web{i} : ok=2 changed=1 unreachable=0 failed=0 skipped=0 rescued=0 ignored=0"
    )
    return text + "web8 : ok=1 changed=0 unreachable=0 failed=1 skipped=0 rescued=0 ignored=0\n", (
        "No package matching 'ngnix'",
    )


def github_actions() -> Sample:
    stamp = "2026-11-30T12:00:{:02}.1234567Z "
    text = _noise(50, lambda i: f"{stamp.format(i)}Downloading action {i}")
    text += stamp.format(51) + "##[group]Run ruff check .\n" + stamp.format(51) + "##[endgroup]\n"
    text += (
        stamp.format(52)
        + "pond/api.py:3:8: F401 `os` imported but unused\n"
        + stamp.format(52)
        + "Found 1 error.\n"
    )
    text += stamp.format(53) + "##[error]Process completed with exit code 1.\n"
    return text + stamp.format(54) + "Cleaning up orphan processes\n", ("F401 `os` imported but unused",)


def gradle() -> Sample:
    text = _noise(30, lambda i: f"> Task :lib{i}:compileJava UP-TO-DATE")
    text += "\n> Task :app:compileJava FAILED\n/home/a/app/src/main/java/Boat.java:19: error: cannot find symbol\n        sail.hoist();\n            ^\n  symbol:   method hoist()\n"
    text += "1 error\n\nFAILURE: Build failed with an exception.\n\n* What went wrong:\nExecution failed for task ':app:compileJava'.\n> Compilation failed; see the compiler error output for details.\n"
    return text + "\nBUILD FAILED in 4s\n31 actionable tasks: 1 executed, 30 up-to-date\n", (
        "Boat.java:19: error: cannot find symbol",
    )


def cmake() -> Sample:
    text = _noise(25, lambda i: f"-- Looking for function_{i} - found")
    text += 'CMake Error at CMakeLists.txt:31 (find_package):\n  Could not find a package configuration file provided by "Eigen3" with any of\n  the following names:\n\n    Eigen3Config.cmake\n    eigen3-config.cmake\n\n'
    return text + "\n-- Configuring incomplete, errors occurred!\n", (
        "CMakeLists.txt:31",
        'provided by "Eigen3"',
    )


def apt() -> Sample:
    text = _noise(40, lambda i: f"Hit:{i} http://deb.example/debian bookworm InRelease")
    text += "Reading package lists... Done\nBuilding dependency tree... Done\nSome packages could not be installed. This may mean that you have\nrequested an impossible situation.\n"
    text += "The following packages have unmet dependencies:\n libgtk-dev : Depends: libgtk (= 3.24.38) but 3.24.41 is to be installed\n"
    return text + "E: Unable to correct problems, you have held broken packages.\n", (
        "Depends: libgtk (= 3.24.38)",
        "held broken packages",
    )


def kernel_oops() -> Sample:
    text = _noise(
        300, lambda i: f"[ {i}.{i:06}] usb 1-{i % 4}: new high-speed USB device number {i} using xhci_hcd"
    )
    text += "[  412.000001] BUG: kernel NULL pointer dereference, address: 0000000000000018\n[  412.000002] #PF: supervisor read access in kernel mode\n"
    text += "[  412.000003] Oops: 0000 [#1] PREEMPT SMP NOPTI\n[  412.000004] CPU: 2 PID: 911 Comm: pondfs Not tainted 6.8.0\n[  412.000005] RIP: 0010:pond_lookup+0x24/0xb0 [pondfs]\n"
    text += "[  412.000006] Call Trace:\n[  412.000007]  <TASK>\n[  412.000008]  ? __die+0x20/0x70\n[  412.000009]  pond_open+0x55/0x90 [pondfs]\n[  412.000010] ---[ end trace 0000000000000000 ]---\n"
    return text, ("kernel NULL pointer dereference", "pond_lookup+0x24/0xb0")


def traceback_in_noise() -> Sample:
    chance = random.Random(7)
    words = (
        "request",
        "cache",
        "session",
        "worker",
        "queue",
        "error budget",
        "retry policy",
        "failover node",
    )

    def line(i: int) -> str:
        return f"{_time(i)} {('INFO', 'DEBUG', 'INFO', 'WARNING')[i % 4]} {chance.choice(words)} {chance.randrange(10**9)} handled in {i % 97} ms"

    text = _noise(14_000, line)
    text += f'{_time(14_000)} ERROR job 9931 failed\nTraceback (most recent call last):\n  File "/srv/jobs.py", line 212, in run\n    rate = table[currency]\n           ~~~~~^^^^^^^^^^\n'
    text += "KeyError: 'XAF'\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"/srv/jobs.py\", line 219, in run\n    raise RateMissing(currency)\n"
    return text + "jobs.RateMissing: no rate for XAF\n" + _noise(14_000, line), (
        "KeyError: 'XAF'",
        "no rate for XAF",
    )


SAMPLES: dict[str, Callable[[], Sample]] = {
    one.__name__: one
    for one in (
        *(
            make,
            pytest_run,
            gcc_link,
            cargo,
            npm,
            syslog,
            nginx,
            kubectl,
            systemd,
            docker_build,
            java,
            go_panic,
        ),
        *(terraform, ansible, github_actions, gradle, cmake, apt, kernel_oops, traceback_in_noise),
    )
}
