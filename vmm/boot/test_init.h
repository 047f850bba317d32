// The program /init of the test initramfs.
#ifndef QUIRE_VMM_BOOT_TEST_INIT_H_
#define QUIRE_VMM_BOOT_TEST_INIT_H_

#include <cstddef>

#include "absl/types/span.h"

namespace quire {

// test_init.c, built as a static ELF64 executable.
absl::Span<const std::byte> TestInitProgram();

}  // namespace quire

#endif  // QUIRE_VMM_BOOT_TEST_INIT_H_
