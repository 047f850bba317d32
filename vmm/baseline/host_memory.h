// A host that is a virtual machine itself gets its memory from its own host, a page when it is first touched, at ten
// times the price of all later touches; and gives free memory back after some seconds (free page reporting). That is no
// part of what is measured here.
#ifndef QUIRE_VMM_BASELINE_HOST_MEMORY_H_
#define QUIRE_VMM_BASELINE_HOST_MEMORY_H_

#include "absl/status/status.h"
#include "base/units.h"

namespace quire {

// Sees to it that so much free memory, or all that there is, is backed, and not zero: what is allocated in the next
// moments is recycled memory. What is in use is backed already. Errors: what mmap reports.
absl::Status TouchHostMemory(ByteCount size);

}  // namespace quire

#endif  // QUIRE_VMM_BASELINE_HOST_MEMORY_H_
