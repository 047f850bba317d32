// What an experiment's page is to show: its [[charts]], checked against what is swept.
#ifndef QUIRE_VMM_EXPERIMENT_CHARTS_H_
#define QUIRE_VMM_EXPERIMENT_CHARTS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "nlohmann/json.hpp"
#include "vmm/experiment/config.h"

namespace quire {

struct Axis;

// What runs have under "values" in their results.
absl::Span<const absl::string_view> ValueNames();

// The array of tables `charts`, as experiment.json has it; null: a chart of the throughput. Errors: ConfigError.
absl::StatusOr<nlohmann::json> ReadCharts(const std::string& file, const ConfigNode* charts,
                                          const std::vector<Axis>& axes);

}  // namespace quire

#endif  // QUIRE_VMM_EXPERIMENT_CHARTS_H_
