"""Fetches Debian's kernels and busybox through apt, with a configuration and state of its own, into a cache.

/etc/apt is read, for the address of the machine's Debian mirror, and never changed. Needs no root.
"""

import collections
import fcntl
import glob
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib

from failure import Failure

KERNELS = {
    "6.12": r"linux-image-6\.12\.[^ ]*-cloud-amd64-unsigned",
    "6.1": r"linux-image-6\.1\.[^ ]*-cloud-amd64-unsigned",
}
# Everything the machine may load; what these depend on is found in the modules themselves.
MODULES = ["kvm-amd", "virtio_pci", "virtio_console", "virtio_blk", "zram", "lz4", "loop", "nbd"]
# What a guest of Quire may load.
GUEST_MODULES = ["virtio_mmio", "virtio_balloon", "virtio_blk", "virtio_console", "virtio-rng"]
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

# image: a file for qemu -kernel. vmlinuz: the bzImage as packaged. busybox: a static program. modules and guest_modules:
# folders of *.ko. release: as uname -r says.
PARTS = ["image", "vmlinuz", "busybox", "modules", "guest_modules"]
Kernel = collections.namedtuple("Kernel", PARTS + ["release"])


def cache_root():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "quire", "lab")


def kernel(series, update=False):
    """The files of a kernel series ("6.12"), fetched if they are not in the cache or an update is asked for."""
    root = cache_root()
    os.makedirs(root, exist_ok=True)
    with open(os.path.join(root, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        contents = " ".join(PARTS + MODULES + GUEST_MODULES)
        folder = os.path.join(root, f"kernel-{series}-{zlib.crc32(contents.encode()):08x}")
        if update or not os.path.isdir(folder):
            fetch(series, folder)
    with open(os.path.join(folder, "release")) as file:
        release = file.read().strip()
    return Kernel(*(os.path.join(folder, part) for part in PARTS), release)


def fetch(series, folder):
    print(f"lab: fetching a {series} kernel and busybox (once; kept in {cache_root()})", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=cache_root(), prefix="fetch-") as work:
        apt = private_apt(work)
        call(apt("apt-get") + ["-q", "update"], "read the package lists")
        names = [newest(apt, series), "busybox-static"]
        call(apt("apt-get") + ["-q", "download"] + names, "download " + " and ".join(names), cwd=work)
        files = os.path.join(work, "files")
        for package in glob.glob(os.path.join(work, "*.deb")):
            call(["dpkg", "-x", package, files], f"unpack {os.path.basename(package)}")
        prepared = os.path.join(work, "prepared")
        prepare(files, prepared)
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(prepared, folder)


def call(command, purpose, cwd=None):
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise Failure(f"could not {purpose}: '{' '.join(command[:1] + command[-2:])}' said: {done.stderr.strip()}")
    return done.stdout


def private_apt(work):
    """Returns a function from a tool's name to a command line that leaves the machine's apt state alone."""
    sources = os.path.join(work, "sources.list")
    with open(sources, "w") as file:
        file.write("".join(line + "\n" for line in source_lines()))
    for folder in ("state/lists/partial", "cache/archives/partial"):
        os.makedirs(os.path.join(work, folder))
    settings = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State": os.path.join(work, "state"),
        "Dir::State::status": "/var/lib/dpkg/status",
        "Dir::Cache": os.path.join(work, "cache"),
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "",
    }
    return lambda tool: [tool] + [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def source_lines():
    """The machine's own Debian mirror, with the suites that hold the kernels."""
    codename = debian_codename()
    listed = call(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"], "read apt's sources")
    mirrors = {}
    for uri, release, component in (line.split() for line in listed.splitlines() if len(line.split()) == 3):
        if component == "main":
            mirrors.setdefault(release, uri)
    if codename not in mirrors:
        raise Failure(f"apt has no source for Debian '{codename}' main; add one to /etc/apt/sources.list.d")
    suites = {codename: mirrors[codename], codename + "-backports": mirrors[codename]}
    if codename + "-security" in mirrors:
        suites[codename + "-security"] = mirrors[codename + "-security"]
    signed = f"[signed-by={KEYRING}] " if os.path.exists(KEYRING) else ""
    return [f"deb {signed}{uri} {suite} main" for suite, uri in suites.items()]


def debian_codename():
    with open("/etc/os-release") as file:
        found = re.search(r"^VERSION_CODENAME=(\w+)", file.read(), re.MULTILINE)
    if not found:
        raise Failure("/etc/os-release names no VERSION_CODENAME; the laboratory fetches its kernels from Debian")
    return found.group(1)


def newest(apt, series):
    listed = call(apt("apt-cache") + ["pkgnames", "linux-image-"], "search the package lists").split()
    names = [name for name in listed if re.fullmatch(KERNELS[series], name)]
    if not names:
        raise Failure(f"Debian has no package like {KERNELS[series]} for this release; try another --kernel")
    return max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def prepare(files, prepared):
    """Lays out what an unpacked kernel package holds as kernel() returns it."""
    os.makedirs(prepared)
    (image,) = glob.glob(os.path.join(files, "boot", "vmlinuz-*"))
    release = os.path.basename(image).partition("-")[2]
    modules = os.path.join(files, "lib", "modules", release)
    copy_modules(modules, os.path.join(prepared, "modules"), MODULES)
    copy_modules(modules, os.path.join(prepared, "guest_modules"), GUEST_MODULES)
    shutil.copy(image, os.path.join(prepared, "vmlinuz"))
    shutil.copy(os.path.join(files, "bin", "busybox"), prepared)
    with open(image, "rb") as source, open(os.path.join(prepared, "image"), "wb") as destination:
        destination.write(unpacked_image(source.read()))
    with open(os.path.join(prepared, "release"), "w") as file:
        file.write(release + "\n")


def copy_modules(source, destination, names):
    """Copies modules by their names, unpacked, and all that they depend on."""
    os.makedirs(destination)
    files = {}
    for path in glob.glob(os.path.join(source, "**", "*.ko*"), recursive=True):
        files[os.path.basename(path).partition(".")[0].replace("-", "_")] = path
    wanted = [name.replace("-", "_") for name in names]
    while wanted:
        name = wanted.pop()
        target = os.path.join(destination, name + ".ko")
        if name in files and not os.path.exists(target):  # what is not there is built in
            content = module_content(files[name])
            with open(target, "wb") as file:
                file.write(content)
            wanted += module_dependencies(content)


def module_content(path):
    with open(path, "rb") as file:
        content = file.read()
    return lzma.decompress(content) if path.endswith(".xz") else content


def module_dependencies(content):
    found = re.search(rb"\0depends=([^\0]*)\0", content)
    return [name.replace("-", "_") for name in found.group(1).decode().split(",") if name] if found else []


def unpacked_image(image):
    """The ELF file inside a bzImage, which QEMU starts by its PVH entry some seconds sooner, or the bzImage as it is.

    The offsets are those of Documentation/arch/x86/boot.rst: setup_sects, payload_offset and payload_length.
    """
    start = (image[0x1F1] + 1) * 512 + struct.unpack_from("<I", image, 0x248)[0]
    payload = image[start : start + struct.unpack_from("<I", image, 0x24C)[0]]
    tools = {b"\x28\xb5\x2f\xfd": "zstd", b"\x02\x21\x4c\x18": "lz4", b"\xfd7zX": "xz", b"\x1f\x8b\x08\x00": "gzip"}
    tool = shutil.which(tools.get(payload[:4], "unknown"))
    if not tool:
        return image
    # The last four bytes are the unpacked length, which is no part of the compressed stream.
    elf = subprocess.run([tool, "-dc"], input=payload[:-4], capture_output=True).stdout
    return elf if elf[:4] == b"\x7fELF" else image
