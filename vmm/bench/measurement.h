// What one run of one side of a benchmark gives, as it goes from process to process.
#ifndef QUIRE_VMM_BENCH_MEASUREMENT_H_
#define QUIRE_VMM_BENCH_MEASUREMENT_H_

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quire {

struct Measurement {
  double value = 0;        // in the benchmark's unit
  double cpu_seconds = 0;  // of all threads, during what is measured
  double content_ratio = 0;
  uint64_t mismatched_pages = 0;
  std::map<std::string, double> details = {};  // what else is worth knowing, by name
  // If the run did not reach its goal in time: a sentence that says so, in place of everything else.
  std::string missed = {};
};

// One line of JSON, from the process that measures to the one that compares.
std::string ToJsonLine(const Measurement& measurement);
// Errors: InvalidArgument.
absl::StatusOr<Measurement> MeasurementFromJson(absl::string_view text);

}  // namespace quire

#endif  // QUIRE_VMM_BENCH_MEASUREMENT_H_
