// What `quire bench` is asked to do.
#ifndef QUIRE_VMM_BENCH_BENCH_OPTIONS_H_
#define QUIRE_VMM_BENCH_BENCH_OPTIONS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "vmm/bench/benchmark.h"
#include "vmm/flags.h"
#include "vmm/options.h"

namespace quire {

struct BenchOptions {
  const Benchmark* benchmark = nullptr;
  int runs = 5;                   // of each side
  std::optional<Side> side = {};  // measure this one, once, in this process
  RunOptions guest = {};          // of the one guest; where it merges, `memory` is that of all guests together
};

// The flags of `quire bench`, for the help; and those that this benchmark takes, for ParseFlags.
std::vector<FlagGroup> BenchFlags();
std::vector<FlagGroup> BenchFlags(const Benchmark& benchmark);

// The benchmark called `name` with the options as the flags have them: the content is this program's own file unless
// another is named, and the pool half of the guest's memory. Errors: InvalidArgument.
absl::StatusOr<BenchOptions> BenchOptionsFromFlags(absl::string_view name);

// The flags that measure `side` once with the same options.
std::vector<std::string> ArgumentsFor(const BenchOptions& options, Side side);

// The benchmarks' names, with what each measures, a line each.
std::string BenchmarkHelp();

}  // namespace quire

#endif  // QUIRE_VMM_BENCH_BENCH_OPTIONS_H_
