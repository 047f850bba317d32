#include "vmm/statistics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

#include "base/check.h"

namespace quire {
namespace {

// 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom.
constexpr std::array<double, 30> kStudentT = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
                                              2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
                                              2.080,  2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};
constexpr double kNormal = 1.959964;

// Beyond the table the first terms of the quantile's expansion by 1/freedom (Abramowitz and Stegun, 26.7.5) are right
// to 0.0001; the normal distribution's alone would be 4 % too small at first.
double StudentT(size_t freedom) {
  if (freedom <= kStudentT.size()) return kStudentT[freedom - 1];
  constexpr double z = kNormal;
  const double n = static_cast<double>(freedom);
  return z + (std::pow(z, 3) + z) / (4 * n) + (5 * std::pow(z, 5) + 16 * std::pow(z, 3) + 3 * z) / (96 * n * n);
}

}  // namespace

double Median(std::vector<double> values) {
  QUIRE_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

double Mean(const std::vector<double>& values) {
  QUIRE_CHECK(!values.empty());
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

Interval ConfidenceOfMean(const std::vector<double>& values) {
  QUIRE_CHECK(values.size() >= 2);
  const double n = static_cast<double>(values.size());
  const double mean = Mean(values);
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  const double half = StudentT(values.size() - 1) * std::sqrt(squares / (n - 1) / n);
  return {.low = mean - half, .high = mean + half};
}

}  // namespace quire
