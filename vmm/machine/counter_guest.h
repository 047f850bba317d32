// A guest program for tests of its memory: increments counters, one in each page of its memory, until it is told to
// stop; then adds them up. Exits with 0 if no increment was lost.
#ifndef QUIRE_VMM_MACHINE_COUNTER_GUEST_H_
#define QUIRE_VMM_MACHINE_COUNTER_GUEST_H_

#include <cstddef>

#include "absl/types/span.h"

namespace quire {

// The program, an ELF64 executable. Lives as long as the test.
absl::Span<const std::byte> CounterGuestProgram();

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_COUNTER_GUEST_H_
