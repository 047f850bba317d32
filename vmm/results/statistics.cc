#include "vmm/results/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace quire::results {
namespace {

// exp() of more is no number any more.
constexpr double kLargestLogarithm = 700;

double Exp(double logarithm) { return std::exp(std::clamp(logarithm, -kLargestLogarithm, kLargestLogarithm)); }

}  // namespace

std::optional<Estimate> EstimateOf(const Repetitions& repetitions) {
  if (repetitions.empty()) return std::nullopt;
  std::vector<double> values;
  for (const auto& [number, value] : repetitions) values.push_back(value);
  Estimate estimate{.values = values,
                    .median = Median(values),
                    .mean = Mean(values),
                    .least = *std::min_element(values.begin(), values.end()),
                    .most = *std::max_element(values.begin(), values.end()),
                    .confidence = std::nullopt};
  if (values.size() >= 2) estimate.confidence = ConfidenceOfMean(values);
  return estimate;
}

bool Comparison::differs() const { return confidence && (confidence->low > 1 || confidence->high < 1); }

Comparison Compare(const Repetitions& first, const Repetitions& second) {
  std::vector<double> logarithms;
  for (const auto& [number, value] : first) {
    const auto other = second.find(number);
    if (other == second.end() || value <= 0 || other->second <= 0) continue;
    logarithms.push_back(std::log(value) - std::log(other->second));
  }
  Comparison comparison{.pairs = logarithms.size(), .ratio = 1, .confidence = std::nullopt};
  if (!logarithms.empty()) comparison.ratio = Exp(Mean(logarithms));
  if (logarithms.size() < 2) return comparison;
  const Interval bounds = ConfidenceOfMean(logarithms);
  comparison.confidence = Interval{.low = Exp(bounds.low), .high = Exp(bounds.high)};
  return comparison;
}

std::optional<double> QuantileOf(const std::vector<double>& bounds, const std::vector<double>& counts, double q) {
  QUIRE_CHECK(!bounds.empty() && counts.size() == bounds.size() + 1 && q > 0 && q < 1);
  const double rank = q * std::accumulate(counts.begin(), counts.end(), 0.0);
  double below = 0;
  for (size_t i = 0; i < bounds.size(); ++i) {
    if (counts[i] > 0 && below + counts[i] >= rank) {
      const double share = (rank - below) / counts[i];
      return i == 0 ? bounds[0] * share : bounds[i - 1] * std::pow(bounds[i] / bounds[i - 1], share);
    }
    below += counts[i];
  }
  return std::nullopt;
}

}  // namespace quire::results
