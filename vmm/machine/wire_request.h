// A guest's request to have a part of its memory wired, or not any more (QUIRE_WIRE_PORT), as it arrives: anything may
// stand there.
#ifndef QUIRE_VMM_MACHINE_WIRE_REQUEST_H_
#define QUIRE_VMM_MACHINE_WIRE_REQUEST_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "base/units.h"
#include "vmm/kvm/wired_memory.h"

namespace quire {

struct WireRequest {
  GfnRange range;  // all pages of which the guest named a byte; may be empty
  bool wire = false;
};

// `value` is what the guest wrote to the port, `part` what stands in its boot info, `memory` the size of its memory.
// Error: InvalidArgument, why that guest cannot go on.
absl::StatusOr<WireRequest> CheckWireRequest(uint32_t value, const AdvisedPart& part, ByteCount memory);

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_WIRE_REQUEST_H_
