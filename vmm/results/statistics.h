// What repetitions amount to: of one setting alone, and of two that were measured side by side.
#ifndef QUIRE_VMM_RESULTS_STATISTICS_H_
#define QUIRE_VMM_RESULTS_STATISTICS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "vmm/statistics.h"

namespace quire::results {

// The value of each repetition, by its number.
using Repetitions = std::map<uint64_t, double>;

struct Estimate {
  std::vector<double> values;  // at least one, in the order of the repetitions
  double median;
  double mean;
  double least;
  double most;
  std::optional<Interval> confidence;  // of the mean, 95 %; of two values or more
};

// Nothing where there are no repetitions.
std::optional<Estimate> EstimateOf(const Repetitions& repetitions);

// The first of two settings against the second.
struct Comparison {
  size_t pairs;  // repetitions that both have, with a value above 0
  double ratio;  // geometric mean of first / second over the pairs; 1 without any
  // Of the ratio, 95 %: Student's t on the logarithms. Of two pairs or more.
  std::optional<Interval> confidence;

  // Whether the interval leaves out 1: else the two cannot be told apart, or nothing can be said.
  bool differs() const;
};

// Repetitions of the same number are a pair: they had the same seed and ran one after the other, so that what changes
// on the host in the course of the experiment changes both. Ratios are as likely to be doubled as halved by chance, so
// it is their logarithms that are averaged.
Comparison Compare(const Repetitions& first, const Repetitions& second);

// Where the quantile `q`, above 0 and below 1, of a histogram lies: of counts[i] values from bounds[i - 1] up to
// bounds[i], one more count than bounds, at least one bound. Within a bucket by the logarithm of its bounds; in the
// first, whose lower bound is 0, evenly. Nothing if there are no values, or it lies beyond the last bound.
std::optional<double> QuantileOf(const std::vector<double>& bounds, const std::vector<double>& counts, double q);

}  // namespace quire::results

#endif  // QUIRE_VMM_RESULTS_STATISTICS_H_
