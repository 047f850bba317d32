#include "vmm/bench/measurement.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "nlohmann/json.hpp"

namespace quire {
namespace {

using Json = nlohmann::json;

// 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom.
constexpr std::array<double, 30> kStudentT = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
                                              2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
                                              2.080,  2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};
constexpr double kNormal = 1.960;

}  // namespace

std::string ToJsonLine(const Measurement& measurement) {
  if (!measurement.missed.empty()) return Json{{"missed", measurement.missed}}.dump() + "\n";
  return Json{{"value", measurement.value},
              {"cpu_seconds", measurement.cpu_seconds},
              {"content_ratio", measurement.content_ratio},
              {"mismatched_pages", measurement.mismatched_pages},
              {"details", measurement.details}}
             .dump() +
         "\n";
}

absl::StatusOr<Measurement> MeasurementFromJson(absl::string_view text) {
  const Json json = Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (json.is_object() && json.contains("missed") && json["missed"].is_string()) {
    return Measurement{.missed = json["missed"]};
  }
  const auto number = [&](const char* key) { return json.is_object() && json.contains(key) && json[key].is_number(); };
  if (!number("value") || !number("cpu_seconds") || !number("content_ratio") || !number("mismatched_pages")) {
    return absl::InvalidArgumentError(absl::StrCat("not a measurement: ", text.substr(0, 200)));
  }
  Measurement measurement{.value = json["value"],
                          .cpu_seconds = json["cpu_seconds"],
                          .content_ratio = json["content_ratio"],
                          .mismatched_pages = json["mismatched_pages"]};
  if (json.contains("details") && json["details"].is_object()) {
    for (const auto& [name, value] : json["details"].items()) {
      if (value.is_number()) measurement.details[name] = value;
    }
  }
  return measurement;
}

double Median(std::vector<double> values) {
  QUIRE_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

Interval ConfidenceOfMean(const std::vector<double>& values) {
  QUIRE_CHECK(values.size() >= 2);
  const double n = static_cast<double>(values.size());
  double sum = 0;
  for (const double v : values) sum += v;
  const double mean = sum / n;
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  const size_t freedom = values.size() - 1;
  const double t = freedom <= kStudentT.size() ? kStudentT[freedom - 1] : kNormal;
  const double half = t * std::sqrt(squares / (n - 1) / n);
  return {.low = mean - half, .high = mean + half};
}

}  // namespace quire
