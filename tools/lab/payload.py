"""Collects what is brought along into the machine: the command, files, and the libraries that programs need."""

import io
import os
import re
import shlex
import subprocess
import tarfile

import initramfs
from failure import Failure

# Named in LD_LIBRARY_PATH by /init.
LIBRARY_FOLDER = "lib/lab"


def write(path, options, guest_kernels):
    """Writes a tar archive to be unpacked over the machine's root folder. guest_kernels are packages.Kernel by series."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        payload = Payload(archive)
        for addition in options.add:
            source, _, destination = addition.partition(":")
            payload.add(source, destination or os.path.basename(os.path.abspath(source)))
        for series, kernel in guest_kernels.items():
            payload.add_guest_kernel(series, kernel, options.guest_program)
            if series == options.kernel:
                payload.add_link(f"boot/vmlinuz-{kernel.release}", f"/lab/guest/{series}/vmlinuz")
        command = list(options.command)
        if command and is_program_from_here(command[0]):
            name = os.path.basename(command[0])
            payload.add(command[0], name)
            command[0] = "./" + name
        payload.add_libraries()
        payload.add_settings(command, options.env)


def is_program_from_here(word):
    """Whether a command's first word names a program to bring along, and not one of the machine's own."""
    path = os.path.abspath(word)
    system = path.startswith(("/bin/", "/sbin/", "/usr/"))
    return "/" in word and not system and os.path.isfile(path) and os.access(path, os.X_OK)


class Payload:
    """Adds to an open tar archive."""

    def __init__(self, archive):
        self._archive = archive
        self._libraries = {}

    def add(self, source, destination):
        """Adds a file, or a folder with all in it, following symbolic links. destination is below /lab, or absolute."""
        if os.path.isfile(source):
            self._note_libraries(source)
            self._add_file(source, os.path.join("/lab", destination))
        elif os.path.isdir(source):
            self._add_folder(os.path.join("/lab", destination))
            for name in sorted(os.listdir(source)):
                self.add(os.path.join(source, name), os.path.join(destination, name))
        else:
            raise Failure(f"there is no file or folder '{source}' to bring along")

    def add_guest_kernel(self, series, kernel, programs):
        """Adds what a Linux guest boots from: the kernel as packaged, unpacked too if it could be, modules, initrd."""
        folder = f"guest/{series}/"
        self.add(kernel.vmlinuz, folder + "vmlinuz")
        self.add(kernel.guest_modules, folder + "modules")
        with open(kernel.image, "rb") as image:
            if image.read(4) == b"\x7fELF":
                self.add(kernel.image, folder + "vmlinux")
        self._add_content(f"lab/{folder}initrd", initramfs.build_for_guest(kernel, programs))

    def add_link(self, path, target):
        entry = tarfile.TarInfo(path)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._archive.addfile(entry)

    def _add_file(self, source, path):
        with open(source, "rb") as file:
            entry = self._archive.gettarinfo(arcname=path.lstrip("/"), fileobj=file)
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", os.fstat(file.fileno()).st_size
            self._archive.addfile(entry, file)

    def _add_folder(self, path):
        entry = tarfile.TarInfo(path.lstrip("/"))
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        self._archive.addfile(entry)

    def _note_libraries(self, program):
        with open(program, "rb") as file:
            if file.read(4) != b"\x7fELF":
                return
        listed = subprocess.run(["ldd", os.path.realpath(program)], capture_output=True, text=True).stdout
        missing = re.findall(r"^\s*(\S+) => not found", listed, re.MULTILINE)
        if missing:
            raise Failure(f"'{program}' needs libraries that are not installed here: {', '.join(missing)}")
        for name, path in re.findall(r"^\s*(\S+) => (/\S+)", listed, re.MULTILINE):
            self._libraries[os.path.join(LIBRARY_FOLDER, name)] = path
        for path in re.findall(r"^\s*(/\S+) \(0x", listed, re.MULTILINE):
            self._libraries[path] = path

    def add_libraries(self):
        for path, source in self._libraries.items():
            self._add_file(source, path)

    def add_settings(self, command, environment):
        """What /init reads: the command, its environment, and whether there is one."""
        self._add_setting("environment", "".join(f"export {shlex.quote(setting)}\n" for setting in environment))
        self._add_setting("command", "exec " + " ".join(shlex.quote(word) for word in command) + "\n")
        self._add_setting("mode", "command\n" if command else "shell\n")

    def _add_setting(self, name, text):
        self._add_content("etc/lab/" + name, text.encode())

    def _add_content(self, path, content):
        entry = tarfile.TarInfo(path)
        entry.size = len(content)
        self._archive.addfile(entry, io.BytesIO(content))
