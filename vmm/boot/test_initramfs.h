// A first file system for Linux guests of tests: one program, /init, that says what it finds and does what it is asked.
#ifndef QUIRE_VMM_BOOT_TEST_INITRAMFS_H_
#define QUIRE_VMM_BOOT_TEST_INITRAMFS_H_

#include <cstddef>

#include "absl/types/span.h"

namespace quire {

// A cpio archive to be given to a kernel as its initrd; what /init does is told in test_init.c. Lives for ever.
// Thread safe.
absl::Span<const std::byte> TestInitramfs();

}  // namespace quire

#endif  // QUIRE_VMM_BOOT_TEST_INITRAMFS_H_
