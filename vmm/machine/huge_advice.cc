#include "vmm/machine/huge_advice.h"

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "workloads/guest_abi.h"

namespace quire {

absl::StatusOr<HugeAdvice> CheckHugeAdvice(uint32_t value, const AdvisedPart& part, ByteCount memory) {
  if (value != QUIRE_ADVISE_HUGE && value != QUIRE_ADVISE_NO_HUGE) {
    return absl::InvalidArgumentError(
        absl::StrFormat("it wrote %u to port 0x%x: there is no such advice", value, QUIRE_ADVISE_PORT));
  }
  if (!part.LiesIn(memory)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("it gave advice on 0x%x bytes from offset 0x%x of its memory, which has 0x%x bytes",
                        part.size.in_bytes(), part.begin.in_bytes(), memory.in_bytes()));
  }
  const Gfn begin(PageCount::Ceil(part.begin).in_pages());
  const Gfn end = Gpa((part.begin + part.size).in_bytes()).gfn();
  return HugeAdvice{.range = GfnRange(begin, end), .huge = value == QUIRE_ADVISE_HUGE};
}

}  // namespace quire
