// A guest program for tests that want their guest to stand still at points known to them: it writes to each page of its
// memory in order, stops at a freeze point, and begins again when its vCPU runs on. It never exits.
#ifndef QUIRE_VMM_MACHINE_TOUCH_GUEST_H_
#define QUIRE_VMM_MACHINE_TOUCH_GUEST_H_

#include <cstddef>

#include "absl/types/span.h"

namespace quire {

// The program, an ELF64 executable. Lives as long as the test.
absl::Span<const std::byte> TouchGuestProgram();

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_TOUCH_GUEST_H_
