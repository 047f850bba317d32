// Guests whose equal pages are to be merged, by Quire or by the host kernel's ksmd: what the benchmark merge-scan needs
// of both. On either side all memory is of 4 KiB pages, so that nobody has to take 2 MiB pages apart.
#ifndef QUIRE_VMM_BENCH_MERGING_SIDE_H_
#define QUIRE_VMM_BENCH_MERGING_SIDE_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "guest/fault_handler.h"

namespace quire {

struct MergingOptions {
  int guests = 4;
  PageCount memory;  // of each
  PageCount pool;    // of all, on Quire's side: so large that it is never short
};

// What the scanner has done since it was let loose.
struct ScanProgress {
  PageCount saved;     // frames that have gone
  absl::Duration cpu;  // of its thread
  uint64_t scanned = 0;
  uint64_t skipped = 0;
  uint64_t passes = 0;
};

// Belongs to one thread.
class MergingSide {
 public:
  virtual ~MergingSide() = default;

  // Lets `use` have the bytes of a page of a guest. For a read, it must not write.
  virtual absl::Status WithPage(int guest, Gfn gfn, Access access, absl::FunctionRef<void(std::byte*)> use) = 0;
  // The scanner may begin: it has seen none of the pages yet.
  virtual absl::Status StartScanner() = 0;
  // Cheap. Errors: what reading the scanner's counters reports.
  virtual absl::StatusOr<ScanProgress> Look() = 0;
};

absl::StatusOr<std::unique_ptr<MergingSide>> MakeQuireSide(const MergingOptions& options);
// Memory that is advised to be merged when the scanner starts. KSM runs already, for nobody else.
// Errors: FailedPrecondition: KSM does not run, or cannot be seen; what mmap and madvise report.
absl::StatusOr<std::unique_ptr<MergingSide>> MakeKernelSide(const MergingOptions& options);

}  // namespace quire

#endif  // QUIRE_VMM_BENCH_MERGING_SIDE_H_
