// `quire bench`: measures this program and the host kernel in turn, under the same rules.
#ifndef QUIRE_VMM_BENCH_BENCH_H_
#define QUIRE_VMM_BENCH_BENCH_H_

#include <ostream>

#include "absl/status/statusor.h"
#include "vmm/bench/bench_options.h"
#include "vmm/bench/bench_report.h"

namespace quire {

// Measures every side options.runs times, each in a process of its own, and writes to `out` how it goes. Where the
// host's side cannot be measured the report says why. What is changed of the host is put back, also after an interrupt.
// Errors: Cancelled (interrupted), those of a measurement. Only from a process without threads.
absl::StatusOr<BenchReport> RunBenchmark(const BenchOptions& options, std::ostream& out);

}  // namespace quire

#endif  // QUIRE_VMM_BENCH_BENCH_H_
