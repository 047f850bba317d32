// `quire bench clone`: how long it takes to make one more guest of a frozen one's memory. Beside it stands what the
// host kernel has for the purpose: fork(), of a process with as much memory.
#ifndef QUIRE_VMM_BENCH_CLONE_H_
#define QUIRE_VMM_BENCH_CLONE_H_

#include "absl/status/statusor.h"
#include "vmm/bench/benchmark.h"
#include "vmm/bench/measurement.h"
#include "vmm/options.h"
#include "vmm/progress.h"

namespace quire {

// Milliseconds for a clone, the median of several. Details: what the freeze took, and what a clone takes of memory, in
// percent of its own.
absl::StatusOr<Measurement> MeasureClones(RunOptions options, ProgressSink& progress);
// The same of fork(), with 2 MiB pages where the host has them, or with small ones.
absl::StatusOr<Measurement> MeasureForks(const RunOptions& options, Side side);

}  // namespace quire

#endif  // QUIRE_VMM_BENCH_CLONE_H_
