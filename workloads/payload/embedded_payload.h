// The program inside Quire's own KVM guests (main.cc), built freestanding and carried in this one.
#ifndef QUIRE_WORKLOADS_PAYLOAD_EMBEDDED_PAYLOAD_H_
#define QUIRE_WORKLOADS_PAYLOAD_EMBEDDED_PAYLOAD_H_

#include <cstddef>

#include "absl/types/span.h"

namespace quire {

// An ELF64 executable as guest_abi.h wants it. Lives as long as the program.
absl::Span<const std::byte> WorkloadPayload();

}  // namespace quire

#endif  // QUIRE_WORKLOADS_PAYLOAD_EMBEDDED_PAYLOAD_H_
