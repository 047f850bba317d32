#include "vmm/bench/measurement.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace quire {
namespace {

using Json = nlohmann::json;

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

}  // namespace quire
