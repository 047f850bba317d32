"""The rules for this project's own C++ code.

    load("//tools/bazel:quire.bzl", "quire_cc_library", "quire_cc_test", "quire_cc_binary", "quire_cc_benchmark")

Each is the native rule of that name plus the project's warnings (as errors) and layering_check (clang only).
  quire_cc_library    visibility is private unless given; ["//:users_of_<folder>"] opens it as far as the arrows allow
  quire_cc_test       adds GoogleTest and its main. Tags: none   unprivileged, runs in Bazel's sandbox
                                                      "host"  needs userfaultfd, mounts or a browser: outside the
                                                              sandbox
                                                      "kvm"   needs /dev/kvm: outside the sandbox, one at a time
                                                      "lab"   needs the laboratory and what `tools/dev test lab` brings
                                                              there (Linux guests); skips itself elsewhere
                                                      "threads" has several, of its own or of what it tests: run under
                                                              ThreadSanitizer as well
  quire_cc_benchmark  adds Google Benchmark and its main; named *_benchmark, run by `tools/dev bench`
  quire_cc_fuzz_test  a file with LLVMFuzzerTestOneInput; named *_fuzz, run by `tools/dev fuzz`
  quire_cc_binary     linkopts get the C++ runtime linked in, so the program needs only the C library
Third-party code: @com_google_absl//absl/..., //third_party:{liburing,lz4,zstd,xxhash,json,libnbd,libvirt,httplib,prometheus,pugixml}.
"""

_COPTS = [
    "-Wall",
    "-Wextra",
    "-Werror",
]

_FEATURES = ["layering_check"]

# Links the C++ runtime statically. Bazel names -lstdc++ itself, later, so that -static-libstdc++ has no effect.
_CXX_RUNTIME = select({
    "//tools/bazel:sanitizer": [],
    "//conditions:default": [
        "-static-libgcc",
        "-l:libstdc++.a",
        "-Wl,--as-needed",
    ],
})

def quire_cc_library(name, copts = [], features = [], **kwargs):
    # Nobody wants a shared library of it, which `bazel build //...` would link.
    native.cc_library(name = name, copts = _COPTS + copts, features = _FEATURES + features, linkstatic = True, **kwargs)

def quire_cc_test(name, copts = [], deps = [], features = [], tags = [], size = "small", **kwargs):
    # In the sandbox the userfaultfd system call fails. What such a test finds depends on the host, so that its result is
    # not kept (`external`).
    if "kvm" in tags or "lab" in tags:
        tags = tags + ["exclusive", "external", "local"]
    elif "host" in tags:
        tags = tags + ["external", "local"]
    native.cc_test(
        name = name,
        copts = _COPTS + copts,
        deps = deps + ["//third_party:googletest", "//tools/bazel:sanitizer_options"],
        features = _FEATURES + features,
        tags = tags,
        size = size,
        **kwargs
    )

def quire_cc_benchmark(name, copts = [], deps = [], features = [], tags = [], **kwargs):
    native.cc_binary(
        name = name,
        testonly = True,
        copts = _COPTS + copts,
        deps = deps + ["//third_party:benchmark"],
        features = _FEATURES + features,
        tags = tags + ["benchmark"],
        **kwargs
    )

def quire_cc_fuzz_test(name, copts = [], features = [], linkopts = [], tags = [], **kwargs):
    native.cc_binary(
        name = name,
        testonly = True,
        copts = _COPTS + copts,
        features = _FEATURES + features,
        linkopts = linkopts + ["-fsanitize=fuzzer"],
        # Only clang has libFuzzer: `manual` keeps it out of //...
        tags = tags + ["fuzz", "manual"],
        **kwargs
    )

def quire_cc_binary(name, copts = [], deps = [], features = [], linkopts = [], **kwargs):
    native.cc_binary(
        name = name,
        copts = _COPTS + copts,
        deps = deps + select({
            "//tools/bazel:sanitizer": ["//tools/bazel:sanitizer_options"],
            "//conditions:default": [],
        }),
        features = _FEATURES + features,
        linkopts = linkopts + _CXX_RUNTIME,
        **kwargs
    )
