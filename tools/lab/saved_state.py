"""Keeps the state of machines that have booted and wait for a command, so that a run need not boot one.

A state is QEMU's migration stream in a file of the cache, named after a hash of all that it depends on.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import tempfile
import time

import initramfs
import machine
import packages
from failure import Failure

STARTS = 3
# Enough for a boot under a heavily loaded host; it takes about 8 s on an idle one.
BOOT_SECONDS = 240
# States are about 130 MB each; the least recently used go.
STATES_KEPT = 6


def path_for(qemu, kernel, options):
    """Returns the file of a saved state, made now if there is none."""
    initrd = initramfs.build(kernel)
    base = machine.base_command(qemu, options)
    stamps = [(os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in (qemu, kernel.image)]
    parts = [base, machine.kernel_words(options), kernel.release, stamps]
    key = hashlib.sha256(json.dumps(parts).encode() + initrd).hexdigest()[:16]
    folder = os.path.join(packages.cache_root(), "states")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{options.kernel}-{key}")
    with open(os.path.join(folder, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(path):
            make(path, base, kernel, initrd, options)
            forget_old(folder)
        os.utime(path)
    return path


def forget_old(folder):
    states = sorted(glob.glob(os.path.join(folder, "*-*")), key=os.path.getmtime)
    for path in states[:-STATES_KEPT]:
        forget(path)


def forget(path):
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def make(path, base, kernel, initrd, options):
    with tempfile.TemporaryDirectory(dir=os.path.dirname(path)) as folder:
        initrd_path, disk, state = (os.path.join(folder, name) for name in ("initrd", "disk", "state"))
        with open(initrd_path, "wb") as file:
            file.write(initrd)
        with open(disk, "wb") as file:
            file.truncate(1 << 20)
        boot = ["-kernel", kernel.image, "-initrd", initrd_path, "-append", machine.kernel_words(options)]
        for attempt in range(1, STARTS + 1):
            begin = time.monotonic()
            with machine.Machine(base, disk, os.devnull, options.verbose) as booted:
                booted.start(boot)
                if is_ready(booted, begin + BOOT_SECONDS):
                    save(booted, state)
                    os.rename(state, path)
                    if not options.quiet:
                        machine.note(f"booted in {time.monotonic() - begin:.1f} s (once; kept for later runs)")
                    return
            machine.note(f"the machine did not come up (start {attempt} of {STARTS})")
        raise Failure("no machine came up; the last one's console ended with:\n" + booted.console_tail())


def is_ready(booted, deadline):
    try:
        return booted.wait_for("ready", deadline) is not None
    except TimeoutError:
        return False


def save(booted, path):
    """Writes the running machine's state, through QEMU's monitor protocol (QMP)."""
    with booted.monitor.makefile("rw") as monitor:

        def ask(command, **arguments):
            monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
            monitor.flush()
            for line in monitor:
                answer = json.loads(line)
                if "error" in answer:
                    raise Failure(f"QEMU could not {command}: {answer['error']['desc']}")
                if "return" in answer:
                    return answer["return"]
            raise Failure(f"QEMU ended when told to {command}")

        ask("qmp_capabilities")
        ask("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        ask("migrate", uri=f"exec:cat >'{path}'")
        while (status := ask("query-migrate").get("status")) != "completed":
            if status in ("failed", "cancelled"):
                raise Failure("QEMU could not save the machine's state")
            time.sleep(0.05)
