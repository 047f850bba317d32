"""Checks that the laboratory has KVM with nested paging and that outputs, statuses and files come back exactly."""

import os
import subprocess
import sys
import tempfile

CHECKS = r"""
test -c /dev/kvm && exec 4<>/dev/kvm || { echo "/dev/kvm does not open"; exit 1; }
test "$(cat /sys/module/kvm_amd/parameters/npt)" = Y || { echo "nested paging is off"; exit 1; }
test -d /sys/kernel/tracing/events/kvm || { echo "there is no tracefs"; exit 1; }
grep -q ' /sys/kernel/debug debugfs ' /proc/mounts || { echo "there is no debugfs"; exit 1; }
test "$(cat)" = "" || { echo "standard input is not empty"; exit 1; }
test "$NAME" = "some value" || { echo "the environment did not arrive"; exit 1; }
cmp brought expected || { echo "the file did not arrive as it was"; exit 1; }
cat brought
echo to standard error >/dev/stderr
cp brought /out/returned
exit 42
"""


def run(lab, options):
    with tempfile.TemporaryDirectory(prefix="quire-lab-test-") as folder:
        content = bytes(range(256)) * 4096 + b"no newline at the end"
        path = os.path.join(folder, "content")
        with open(path, "wb") as file:
            file.write(content)
        command = [sys.executable, lab, f"--kernel={options.kernel}", "--quiet"]
        subprocess.call(command + ["--", "true"])  # so that nothing has to be fetched or booted below
        full = ["--env=NAME=some value", f"--add={path}:brought", f"--add={path}:expected", f"--out={folder}/out"]
        checked = subprocess.run(command + full + ["--", "sh", "-c", CHECKS], capture_output=True)
        killed = subprocess.run(command + ["--", "sh", "-c", "kill -KILL $$"], capture_output=True)
        late = subprocess.run(command + ["--timeout=25", "--", "sleep", "1000"], capture_output=True)
        results = [
            ("/dev/kvm, nested paging and the machine's set-up; exit status 42", checked.returncode == 42),
            ("a megabyte of standard output comes back exactly", checked.stdout == content),
            ("standard error comes back separately", checked.stderr == b"to standard error\n"),
            ("a file left in /out comes back exactly", same(os.path.join(folder, "out", "returned"), content)),
            ("a killed command's exit status is 137", killed.returncode == 137),
            ("a command out of time ends with 124", late.returncode == 124),
        ]
    for name, passed in results:
        print(("passed: " if passed else "FAILED: ") + name)
    if all(passed for _, passed in results):
        return 0
    print(f"first machine: status {checked.returncode}, {checked.stdout[:500]!r}, {checked.stderr[-2000:]!r}")
    print(f"second: {killed.returncode}, {killed.stderr[-500:]!r}; third: {late.returncode}, {late.stderr[-500:]!r}")
    return 1


def same(path, content):
    if not os.path.exists(path):
        return False
    with open(path, "rb") as file:
        return file.read() == content
