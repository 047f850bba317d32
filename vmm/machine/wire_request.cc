#include "vmm/machine/wire_request.h"

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "workloads/guest_abi.h"

namespace quire {

absl::StatusOr<WireRequest> CheckWireRequest(uint32_t value, const AdvisedPart& part, ByteCount memory) {
  if (value != QUIRE_WIRE && value != QUIRE_UNWIRE) {
    return absl::InvalidArgumentError(
        absl::StrFormat("it wrote %u to port 0x%x: there is no such request", value, QUIRE_WIRE_PORT));
  }
  if (!part.LiesIn(memory)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("it asked to wire 0x%x bytes from offset 0x%x of its memory, which has 0x%x bytes",
                        part.size.in_bytes(), part.begin.in_bytes(), memory.in_bytes()));
  }
  const Gfn begin = Gpa(part.begin.in_bytes()).gfn();
  const Gfn end = part.size == ByteCount() ? begin : Gfn(PageCount::Ceil(part.begin + part.size).in_pages());
  return WireRequest{.range = GfnRange(begin, end), .wire = value == QUIRE_WIRE};
}

}  // namespace quire
