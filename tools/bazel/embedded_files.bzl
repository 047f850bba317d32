"""Files as part of a program or test of the host.

    embedded_files(name, hdr, functions)   a library that defines for each key of `functions` an
                                           `absl::Span<const std::byte> quire::KEY()` with the bytes of the file that is
                                           its value (a label), declared in `hdr`
"""

load("//tools/bazel:quire.bzl", "quire_cc_library")

def embedded_files(name, hdr, functions, **kwargs):
    for function, file in functions.items():
        native.genrule(
            name = "%s_%s" % (name, function),
            srcs = [file],
            outs = ["%s_%s.cc" % (name, function)],
            cmd = """{
                echo '#include "%s/%s"'
                echo 'namespace {'
                echo 'alignas(16) constexpr unsigned char kBytes[] = {'
                od -An -v -tx1 $(location %s) | sed 's/ \\(..\\)/0x\\1,/g'
                echo '};'
                echo '}  // namespace'
                echo 'absl::Span<const std::byte> quire::%s() { return {reinterpret_cast<const std::byte*>(kBytes), sizeof kBytes}; }'
            } >$@""" % (native.package_name(), hdr, file, function),
        )
    quire_cc_library(
        name = name,
        srcs = ["%s_%s.cc" % (name, function) for function in functions],
        hdrs = [hdr],
        deps = ["@com_google_absl//absl/types:span"],
        **kwargs
    )
