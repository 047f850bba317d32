// A guest's advice on where it wants whole blocks (QUIRE_ADVISE_PORT), as it arrives: anything may stand there.
#ifndef QUIRE_VMM_MACHINE_HUGE_ADVICE_H_
#define QUIRE_VMM_MACHINE_HUGE_ADVICE_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "base/units.h"
#include "vmm/kvm/wired_memory.h"

namespace quire {

struct HugeAdvice {
  GfnRange range;  // the whole pages among what the guest named; may be empty
  bool huge = false;
};

// `value` is what the guest wrote to the port, `part` what stands in its boot info, `memory` the size of its memory.
// Error: InvalidArgument, why that guest cannot go on.
absl::StatusOr<HugeAdvice> CheckHugeAdvice(uint32_t value, const AdvisedPart& part, ByteCount memory);

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_HUGE_ADVICE_H_
