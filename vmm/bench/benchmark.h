// The benchmarks of `quire bench`: what each measures, on which sides, and how one side is measured once.
//
// A measurement is one process's whole life: the guests, the engine and the host's memory start the same each time.
#ifndef QUIRE_VMM_BENCH_BENCHMARK_H_
#define QUIRE_VMM_BENCH_BENCHMARK_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "vmm/bench/measurement.h"
#include "vmm/options.h"

namespace quire {

// Whose memory management is measured.
enum class Side : uint8_t {
  kQuire,
  kKernel,       // the host's, as it comes: anonymous memory with MADV_HUGEPAGE, zram with lz4
  kKernelBest,   // the same with multi-size huge pages; without 2 MiB pages where memory is limited: it keeps them.
                 // Where ksmd is measured: with settings that have it work fastest
  kKernelSmall,  // the same with 4 KiB pages only
};

absl::string_view Name(Side side);  // "quire", "kernel", "kernel-best", "kernel-small"
std::optional<Side> ParseSide(absl::string_view name);

struct Benchmark {
  absl::string_view name;
  absl::string_view what;  // a sentence without a full stop
  absl::string_view unit;
  bool higher_is_better = false;
  bool swaps = false;    // the kernel's side needs swap space
  bool limited = false;  // both sides get no more memory than the pool; else as much as they want
  bool merges = false;   // of several guests; the kernel's side needs ksmd
  bool paired = false;   // a small difference is looked for: runs are compared pair by pair
  std::vector<Side> sides;
  // `options` are those of one guest, or of several that share its memory; their engine is that of the side. Takes tens
  // of seconds at most.
  absl::StatusOr<Measurement> (*measure)(const RunOptions& options, Side side);
};

absl::Span<const Benchmark> Benchmarks();
// Null if there is none of that name.
const Benchmark* FindBenchmark(absl::string_view name);

// How many times better `ours` is than `theirs`: above 1 is better, whichever way the unit runs.
double Advantage(const Benchmark& benchmark, double ours, double theirs);

// The pool for the guest, or the guests, of `options`: where memory is short what is wanted, or half of the guest's
// memory; elsewhere so much that it never is.
ByteCount PoolFor(const Benchmark& benchmark, const RunOptions& options, std::optional<ByteCount> wanted);

// Measures one side once, in this process, which has no threads yet and exits afterwards.
absl::StatusOr<Measurement> Measure(const Benchmark& benchmark, RunOptions options, Side side);

}  // namespace quire

#endif  // QUIRE_VMM_BENCH_BENCHMARK_H_
