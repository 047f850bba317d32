// What several measurements of the same thing amount to.
#ifndef QUIRE_VMM_STATISTICS_H_
#define QUIRE_VMM_STATISTICS_H_

#include <vector>

namespace quire {

// The middle of `values`, of which there is at least one; of an even number the mean of the two in the middle.
double Median(std::vector<double> values);

// The arithmetic mean of `values`, of which there is at least one.
double Mean(const std::vector<double>& values);

// Bounds that hold the mean of the population which `values` (at least two) are drawn from with 95 % confidence, if it
// is normal: Student's t.
struct Interval {
  double low;
  double high;
};
Interval ConfidenceOfMean(const std::vector<double>& values);

}  // namespace quire

#endif  // QUIRE_VMM_STATISTICS_H_
