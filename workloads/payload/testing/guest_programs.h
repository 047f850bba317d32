// Small guest programs for tests: ELF64 executables as guest_abi.h wants them. They live as long as the program.
#ifndef QUIRE_WORKLOADS_PAYLOAD_TESTING_GUEST_PROGRAMS_H_
#define QUIRE_WORKLOADS_PAYLOAD_TESTING_GUEST_PROGRAMS_H_

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace quire {

// The example of docs/guest_abi.md: says "hello from a guest", writes one word of each page and reads it back.
absl::Span<const std::byte> HelloProgram();

// Gives advice on memory that it does not have, or none that there is; its seed, below kBadAdviceCases, says which.
absl::Span<const std::byte> BadAdviceProgram();
inline constexpr uint64_t kBadAdviceCases = 6;

// Wires and unwires parts of its memory, and ends with the number of answers that are not what they should be; or, with
// a seed from 1 to kWireCases - 1, asks for something that ends it.
absl::Span<const std::byte> WireProgram();
inline constexpr uint64_t kWireCases = 4;

absl::Span<const std::byte> Exit3Program();               // exits with status 3
absl::Span<const std::byte> InfiniteLoopProgram();        // ignores boot_info->stop
absl::Span<const std::byte> InvalidInstructionProgram();  // ud2
absl::Span<const std::byte> ReadBeyondMemoryProgram();    // reads the byte after its memory: a page fault
absl::Span<const std::byte> UnknownPortProgram();         // writes to port 0x1234

}  // namespace quire

#endif  // QUIRE_WORKLOADS_PAYLOAD_TESTING_GUEST_PROGRAMS_H_
