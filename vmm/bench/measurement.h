// What one run of one side of a benchmark gives, and what several of them amount to.
#ifndef QUIRE_VMM_BASELINE_MEASUREMENT_H_
#define QUIRE_VMM_BASELINE_MEASUREMENT_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

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

// The middle of `values`, of which there is at least one; of an even number the mean of the two in the middle.
double Median(std::vector<double> values);

// Bounds that hold the mean of the population which `values` (at least two) are drawn from with 95 % confidence, if it
// is normal: Student's t.
struct Interval {
  double low;
  double high;
};
Interval ConfidenceOfMean(const std::vector<double>& values);

}  // namespace quire

#endif  // QUIRE_VMM_BASELINE_MEASUREMENT_H_
