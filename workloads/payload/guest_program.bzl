"""Programs for guests (docs/guest_abi.md), and how to put their bytes into a program or test of the host.

    guest_program(name, src)                   builds NAME.elf from one C or C++ file and its headers
    guest_kernel(name, src)                    the same of a 32-bit kernel for `quire run --kernel`, in C
    embedded_guest_program(name, program, hdr, function)
                                               a library that defines `absl::Span<const std::byte> quire::FUNCTION()`,
                                               declared in `hdr`
"""

load("//tools/bazel:embedded_files.bzl", "embedded_files")

# A rule of its own, not cc_binary: what runs in a guest must not get the host's options and sanitizers.
_FLAGS = [
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-ffreestanding",
    "-fno-pic",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
    "-nostdlib",
    "-static",  # implies -no-pie, which clang then calls unused
    "-Wl,--build-id=none",
]

_PROGRAM_FLAGS = ["-Wl,-Ttext-segment=0x400000"]  # QUIRE_IMAGE_BEGIN

# From 1 MiB on; the Multiboot header is to be near the beginning of the file.
_KERNEL_FLAGS = [
    "-m32",
    "-mno-sse",
    "-Wl,-Ttext-segment=0x100000",
    "-Wl,-z,noseparate-code",
    "-Wl,-z,noexecstack",
]

_CXX_FLAGS = [
    "-std=c++20",
    "-fno-exceptions",
    "-fno-rtti",
]

def guest_program(name, src, hdrs = [], visibility = None):
    _build(name, src, hdrs, _FLAGS + _PROGRAM_FLAGS + (_CXX_FLAGS if src.endswith(".cc") else []), visibility)

def guest_kernel(name, src, visibility = None):
    _build(name, src, [], _FLAGS + _KERNEL_FLAGS, visibility)

def _build(name, src, hdrs, flags, visibility):
    native.genrule(
        name = name,
        srcs = [
            src,
            "//workloads:freestanding_headers",
        ] + hdrs,
        outs = [name + ".elf"],
        cmd = "$(CC) " + " ".join(flags) + " -I. $(location " + src + ") -o $@",
        toolchains = ["@bazel_tools//tools/cpp:current_cc_toolchain"],
        visibility = visibility,
    )

def embedded_guest_program(name, program, hdr, function, **kwargs):
    embedded_files(name = name, hdr = hdr, functions = {function: program}, **kwargs)
