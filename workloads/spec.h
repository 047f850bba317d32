// Workloads on the command line: --workload=NAME or --workload=NAME:key=value,key=value.
//
// One table says which workloads and keys there are, their defaults and ranges; the parser, its errors and the help
// text all come from it.
#ifndef QUIRE_WORKLOADS_SPEC_H_
#define QUIRE_WORKLOADS_SPEC_H_

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "workloads/workload_spec.h"

namespace quire {

// One key of one workload. Keys whose field is an integer take whole numbers only.
struct WorkloadKey {
  absl::string_view name;
  absl::string_view description;
  double lowest;
  double highest;
  double fallback;  // the value when the key is not given
  std::variant<double WorkloadSpec::*, uint64_t WorkloadSpec::*> field;
};

struct WorkloadInfo {
  WorkloadKind kind;
  absl::string_view name;
  absl::string_view description;
  std::vector<WorkloadKey> keys;
};

// All workloads. Lives as long as the program; thread-safe.
absl::Span<const WorkloadInfo> Workloads();

// Accepts any bytes. Error: kInvalidArgument with one sentence that says what is wrong and what would be right.
absl::StatusOr<WorkloadSpec> ParseWorkload(absl::string_view text);

// The spec as ParseWorkload reads it, every key spelt out.
std::string FormatWorkload(const WorkloadSpec& spec);

// The workloads and their keys, a line each, for a command's help.
std::string WorkloadHelp();

}  // namespace quire

#endif  // QUIRE_WORKLOADS_SPEC_H_
