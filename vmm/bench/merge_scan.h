// The benchmark merge-scan: what it costs to find equal pages, from cold to nearly all that there are.
#ifndef QUIRE_VMM_BENCH_MERGE_SCAN_H_
#define QUIRE_VMM_BENCH_MERGE_SCAN_H_

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "vmm/bench/benchmark.h"
#include "vmm/bench/measurement.h"
#include "vmm/options.h"

namespace quire {

// Guests of equal size, options.memory together, are filled: three quarters of each guest's pages hold what the others
// have at the same place, the rest what no other page holds, but for the zeros among them. Then the scanner runs until
// it has saved 95 % of what an oracle finds. Gives the CPU seconds of its thread, or what it missed in the time that
// `patience` says.
absl::StatusOr<Measurement> MeasureMergeScan(const RunOptions& options, Side side);
absl::StatusOr<Measurement> MeasureMergeScan(const RunOptions& options, Side side, absl::Duration patience);

}  // namespace quire

#endif  // QUIRE_VMM_BENCH_MERGE_SCAN_H_
