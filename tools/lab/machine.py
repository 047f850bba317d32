"""Starts QEMU, carries the command's output, errors, status and files, and ends QEMU, whatever happens."""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

from failure import Failure

# Console lines shown when the machine did not do what it should.
CONSOLE_TAIL = 40

# Without the "fast" string instructions, which QEMU carries out a byte at a time: clearing memory is 5 times faster.
# Without XSAVE and what needs it, since QEMU 7.2 does not take a guest's XSETBV to the hypervisor: KVM would run the guest
# on with the register XCR0 as it was at reset, and the guest's kernel would no longer keep its processes' SSE registers.
CPU = "max,-erms,-fsrm,-xsave,-avx,-avx2,-f16c,-fma,-pku,-mpx"

# How often the machine gets a key press that means nothing. QEMU 7.2 clears a bit of its vCPU's pending interrupts at each
# VMRUN and VMEXIT without its lock, and may lose that another thread has set one. A machine that only waits for its timer,
# which fires once, would then halt for ever, its interrupt pending; the next interrupt makes it look.
WAKE_SECONDS = 2

# Left out is what costs time under emulation and nothing here uses: KASLR, clearing of freshly allocated pages,
# five-level paging, self tests of random number generators and tables of BPF types.
KERNEL_WORDS = (
    "console=ttyS0 quiet panic=-1 mitigations=off nokaslr no5lvl init_on_alloc=0 tsc=reliable no_timer_check "
    "rcupdate.rcu_expedited=1 audit=0 random.trust_cpu=on "
    "initcall_blacklist=jent_mod_init,load_system_certificate_list,bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init"
)


def note(sentence):
    print(f"lab: {sentence}", file=sys.stderr, flush=True)


def find_qemu():
    qemu = shutil.which("qemu-system-x86_64")
    if not qemu:
        install = "apt-get install --no-install-recommends qemu-system-x86"
        raise Failure(f"qemu-system-x86_64 is missing: run '{install}' as root")
    return qemu


def base_command(qemu, options):
    """The part of the command line that a saved state depends on. Devices are added by the Machine."""
    command = [qemu, "-M", "pc", "-accel", "tcg,thread=single", "-cpu", CPU, "-smp", str(options.cpus)]
    return command + ["-m", options.memory, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]


def kernel_words(options):
    return f"{KERNEL_WORDS} {options.append}".strip()


def die_with_parent():
    """Has the kernel end this process when its parent is gone, even if that was killed."""
    set_parent_death_signal = 1
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


class Machine:
    """One QEMU process. What it writes to a channel is read by a thread here, so that it never waits for long.

    With interactive set, the console is the caller's terminal. output_refused says that nobody reads the command's
    output any more, on which QEMU is ended. lines are those of the control port, None being its end.
    """

    def __init__(self, base, disk, out, verbose=False, interactive=False):
        self.lines = []
        self.output_refused = False
        self._base = base
        self._disk = disk
        self._out = out
        self._verbose = verbose
        self._interactive = interactive
        self._console = bytearray()
        self._changed = threading.Condition()
        self._process = None
        self._threads = []
        self._passed = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._process:
            if self._interactive:
                self._process.terminate()  # QEMU puts the terminal back as it was
            else:
                self._process.kill()
            self.wait_for_end()

    def start(self, arguments):
        """Starts QEMU with more arguments."""
        takers = (self._on_console, forward(1, self), forward(2, self))
        console, output, errors = (self._pipe_to(take) for take in takers)
        self.control, control = self._socket_pair()
        self.monitor, monitor = self._socket_pair()
        out = os.open(self._out, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self._passed.append(out)
        terminal = "stdio,signal=off" if self._interactive else f"file,path=/dev/fd/{console}"
        ports = {
            "output": f"file,path=/dev/fd/{output}",
            "errors": f"file,path=/dev/fd/{errors}",
            "control": f"socket,fd={control}",
            "out": f"file,path=/dev/fd/{out}",
        }
        command = self._base + ["-chardev", f"{terminal},id=console", "-serial", "chardev:console"]
        command += ["-chardev", f"socket,fd={monitor},id=monitor", "-mon", "chardev=monitor,mode=control"]
        command += ["-drive", f"file={self._disk},if=virtio,format=raw,readonly=on", "-device", "virtio-serial-pci"]
        for number, (name, backend) in enumerate(ports.items(), start=1):
            command += ["-chardev", f"{backend},id={name}", "-device", f"virtserialport,chardev={name},nr={number}"]
        self._spawn(command + arguments, console)
        self._in_thread(self._read_control)

    def _pipe_to(self, take):
        """Returns the write end of a pipe for QEMU; what comes through it is given to take."""
        read_end, write_end = os.pipe()
        self._passed.append(write_end)
        self._in_thread(lambda: pump(read_end, take))
        return write_end

    def _socket_pair(self):
        ours, theirs = socket.socketpair()
        self._passed.append(theirs.detach())
        return ours, self._passed[-1]

    def _spawn(self, command, console):
        own = {} if self._interactive else {"stdin": subprocess.DEVNULL, "stdout": console, "stderr": console}
        self._process = subprocess.Popen(
            command,
            pass_fds=self._passed,
            preexec_fn=die_with_parent,
            start_new_session=not self._interactive,
            **own,
        )
        for descriptor in self._passed:
            os.close(descriptor)

    def _in_thread(self, function):
        self._threads.append(threading.Thread(target=function, daemon=True))
        self._threads[-1].start()

    def _on_console(self, data):
        self._console += data
        if self._verbose:
            os.write(2, data)

    def refuse_output(self):
        self.output_refused = True
        self._process.kill()

    def _read_control(self):
        try:
            with self.control.makefile("r", errors="replace") as lines:
                for line in lines:
                    self._note_line(line.strip())
        except ConnectionResetError:
            pass  # QEMU was ended before it read all that was sent
        self._note_line(None)

    def _note_line(self, line):
        with self._changed:
            self.lines.append(line)
            self._changed.notify_all()

    def wait_for(self, word, deadline):
        """Waits for a line on the control port that starts with word, and returns it, or None if QEMU ended first.

        Raises TimeoutError at the deadline, which is in seconds of time.monotonic().
        """
        position = 0
        with self._changed:
            while True:
                for line in self.lines[position:]:
                    if line is None or line.startswith(word):
                        return line
                position = len(self.lines)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._changed.wait(left)

    def send(self, line):
        self.control.sendall(line.encode() + b"\n")

    def keep_awake(self):
        """Has the running machine interrupted every now and then, until it ends. Nobody else talks to its monitor."""
        threading.Thread(target=self._wake, daemon=True).start()  # whose last pause nobody waits for

    def _wake(self):
        key = {"execute": "send-key", "arguments": {"keys": [{"type": "qcode", "data": "shift"}]}}
        try:
            self.monitor.sendall(b'{"execute": "qmp_capabilities"}\n')
            while self._process.poll() is None:
                self.monitor.sendall(json.dumps(key).encode() + b"\n")
                self.monitor.recv(1 << 16)
                time.sleep(WAKE_SECONDS)
        except OSError:
            pass  # QEMU has ended

    def wait_for_end(self):
        """Waits until the machine has powered off and all that it said was passed on."""
        self._process.wait()
        for thread in self._threads:
            thread.join()

    def console_tail(self):
        return "\n".join(self._console.decode(errors="replace").splitlines()[-CONSOLE_TAIL:])


def pump(descriptor, take):
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        while data := pipe.read(65536):
            take(data)


def forward(descriptor, machine):
    def take(data):
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except BrokenPipeError:
            machine.refuse_output()

    return take
