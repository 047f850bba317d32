"""Builds initial file systems, the machine's and its guests': cpio archives ("newc") that kernels unpack into memory."""

import glob
import os
import stat

from packages import module_dependencies

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDERS = "/proc /sys /dev /tmp /run /mnt /out /root /lab /sbin /usr/bin /usr/sbin".split()
GUEST_FOLDERS = "/proc /sys /dev /tmp /run /root /sbin /usr/bin /usr/sbin".split()

# What a command may call to have /out sent at once, so that no later accident loses it; /init calls it at the end.
SEND_OUT = b"#!/bin/sh\ntar -C /out -cf /dev/vport0p4 . && rm -rf /out/*\n"


class Archive:
    """A cpio archive in memory. Folders that lead to an entry are added by themselves."""

    def __init__(self):
        self._parts = []
        self._folders = set()
        self._count = 0

    def _add(self, path, mode, content):
        name = path.strip("/").encode() + b"\0"
        self._count += 1
        numbers = [self._count, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0]
        head = b"070701" + b"".join(b"%08X" % number for number in numbers) + name
        self._parts += [head, bytes(-len(head) % 4), content, bytes(-len(content) % 4)]

    def add_folder(self, path):
        if path != "/" and path not in self._folders:
            self.add_folder(os.path.dirname(path))
            self._folders.add(path)
            self._add(path, stat.S_IFDIR | 0o755, b"")

    def add_content(self, path, content, mode=0o644):
        self.add_folder(os.path.dirname(path))
        self._add(path, stat.S_IFREG | mode, content)

    def add_file(self, source, path):
        with open(source, "rb") as file:
            self.add_content(path, file.read(), stat.S_IMODE(os.stat(source).st_mode))

    def finish(self):
        """The whole archive. Nothing may be added afterwards."""
        self._add("TRAILER!!!", 0, b"")
        return b"".join(self._parts)


def build(kernel):
    """/init, busybox, and the kernel's modules with their list of dependencies."""
    archive = Archive()
    for folder in FOLDERS:
        archive.add_folder(folder)
    archive.add_file(kernel.busybox, "/bin/busybox")
    archive.add_file(os.path.join(HERE, "init"), "/init")
    archive.add_content("/etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n")
    archive.add_content("/etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    archive.add_content("/bin/send_out", SEND_OUT, mode=0o755)
    add_modules(archive, kernel.modules, kernel.release)
    return archive.finish()


def build_for_guest(kernel, programs):
    """What a Linux guest of Quire boots with: guest/init, busybox, its modules, and static programs of the host's."""
    archive = Archive()
    for folder in GUEST_FOLDERS:
        archive.add_folder(folder)
    archive.add_file(kernel.busybox, "/bin/busybox")
    archive.add_file(os.path.join(HERE, "guest", "init"), "/init")
    for program in programs:
        archive.add_file(program, "/bin/" + os.path.basename(program))
    add_modules(archive, kernel.guest_modules, kernel.release)
    return archive.finish()


def add_modules(archive, modules, release):
    """Adds the modules and, for modprobe, each one's dependencies in the order from the nearest to the farthest."""
    contents = {}
    for path in glob.glob(os.path.join(modules, "*.ko")):
        with open(path, "rb") as file:
            contents[os.path.basename(path)[:-3]] = file.read()
    folder = "/lib/modules/" + release
    lines = []
    for name, content in sorted(contents.items()):
        archive.add_content(f"{folder}/{name}.ko", content)
        needed = [name]
        for module in needed:  # grows as it goes
            needed += [need for need in module_dependencies(contents[module]) if need in contents]
        lines.append(f"{name}.ko: " + " ".join(need + ".ko" for need in needed[1:]))
    archive.add_content(folder + "/modules.dep", ("\n".join(lines) + "\n").encode())
