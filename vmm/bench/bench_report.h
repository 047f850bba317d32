// The outcome of a benchmark: as JSON for scripts, and to be read.
#ifndef QUIRE_VMM_BENCH_BENCH_REPORT_H_
#define QUIRE_VMM_BENCH_BENCH_REPORT_H_

#include <optional>
#include <string>
#include <vector>

#include "vmm/bench/benchmark.h"
#include "vmm/bench/measurement.h"
#include "vmm/exit_status.h"
#include "vmm/statistics.h"
#include "vmm/terminal.h"

namespace quire {

struct SideResult {
  Side side;
  std::vector<Measurement> runs = {};

  std::vector<double> values() const;
  double median() const;
};

struct BenchReport {
  const Benchmark* benchmark = nullptr;
  std::vector<SideResult> sides = {};   // those that were measured, in order; the first is quire
  std::string kernel_unavailable = {};  // why the host's side is missing, a sentence

  const SideResult* Find(Side side) const;
  // How many times better quire is than `side`; nothing if that was not measured.
  std::optional<double> RatioTo(Side side) const;
  // Of a paired benchmark with two runs or more: bounds of the ratio with 95 % confidence.
  std::optional<Interval> BoundsOfRatioTo(Side side) const;
  uint64_t mismatched_pages() const;
};

// One JSON object, indented, with a line break at the end.
std::string ToJson(const BenchReport& report);
// A line and a bar for each side, and what it comes to.
std::string Summary(const BenchReport& report, const Terminal& terminal);
// A run's values, on one line.
std::string RunLine(const BenchReport& report, int run, int runs);
ExitStatus ToExitStatus(const BenchReport& report);

}  // namespace quire

#endif  // QUIRE_VMM_BENCH_BENCH_REPORT_H_
