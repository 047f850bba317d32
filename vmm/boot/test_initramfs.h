// A first file system for Linux guests of tests: one program, /init, that says what it finds and does what it is asked.
#ifndef QUIRE_VMM_BOOT_TEST_INITRAMFS_H_
#define QUIRE_VMM_BOOT_TEST_INITRAMFS_H_

#include <cstddef>

#include "absl/types/span.h"

namespace quire {

// A cpio archive to be given to a kernel as its initrd; what /init does is told in test_init.c. Lives for ever.
// Thread safe.
//
// A kernel unpacks archives that follow one another into one file system: what else a test wants there, it appends as
// an archive of its own (cpio.h). Kernel modules go into a folder `modules`, named so that their order is that of
// loading
// ("10-virtio.ko", "20-virtio_mmio.ko").
absl::Span<const std::byte> TestInitramfs();

}  // namespace quire

#endif  // QUIRE_VMM_BOOT_TEST_INITRAMFS_H_
