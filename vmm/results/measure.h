// The values of a run as people read them: what they are called, their unit, and how two of them are compared.
#ifndef QUIRE_VMM_RESULTS_MEASURE_H_
#define QUIRE_VMM_RESULTS_MEASURE_H_

#include <string>

#include "absl/strings/string_view.h"

namespace quire::results {

enum class Unit { kNumber, kPerSecond, kSeconds, kMicroseconds, kBytes, kShare };

// "per_second", for the page's script.
absl::string_view Name(Unit unit);

struct Measure {
  std::string key;   // of a run's "values": "operations_per_second"
  std::string name;  // "operations a second"
  Unit unit;
  // The words between two names, for a ratio above 1 and for so many percent less: "does $0 times as many operations a
  // second as", "does $0 % fewer operations a second than", to be filled in by absl::Substitute.
  std::string more;
  std::string less;
};

// What is known of a key; of one that is not known here, what its spelling tells.
Measure MeasureOf(absl::string_view key);

// With its unit, in three digits or so: "91.2k/s", "256 MiB", "12.1 s", "40 \u00b5s", "71 %".
std::string Format(double value, Unit unit);

// A ratio in two digits or more, as few as tell it from 1: "3.1", "12", "1.004".
std::string FormatRatio(double ratio);

}  // namespace quire::results

#endif  // QUIRE_VMM_RESULTS_MEASURE_H_
