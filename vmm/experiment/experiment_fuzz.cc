// Any file is read or refused, with its name and a line of it, in a sentence that does nothing to a terminal; and what
// is read can be planned and described.
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "base/units.h"
#include "vmm/experiment/experiment.h"
#include "vmm/experiment/measured_run.h"
#include "vmm/experiment/plan.h"
#include "vmm/experiment/results_file.h"
#include "workloads/spec.h"

namespace quire {
namespace {

// Of the millions that a matrix may have there are to be few: they take their time.
constexpr size_t kLongest = 4096;

void CheckRead(const Experiment& experiment) {
  QUIRE_CHECK(experiment.runs() >= 1 && experiment.runs() <= kMostRuns);
  std::set<std::string> names;
  uint64_t runs = 0;
  for (const RunGroup& group : PlanRuns(experiment)) {
    for (const PlannedRun& run : group) {
      ++runs;
      names.insert(run.name());
      QUIRE_CHECK(SecondsOf(*run.variant) > 0);
    }
  }
  QUIRE_CHECK(runs == experiment.runs());
  QUIRE_CHECK(DescribeExperiment(experiment).is_object());
}

void CheckRefused(const absl::Status& status) {
  QUIRE_CHECK(absl::IsInvalidArgument(status));
  QUIRE_CHECK(absl::StartsWith(status.message(), "some.toml:"));
  for (const char c : status.message()) QUIRE_CHECK(static_cast<unsigned char>(c) >= ' ');
}

}  // namespace
}  // namespace quire

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quire;
  if (size > kLongest) return 0;
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const RunLimits limits = {.host_memory = ByteCount::GiB(4),
                            .guest_address_space = ByteCount::GiB(512),
                            .minimum_pool = ByteCount(),
                            .check_workload = [](absl::string_view spec) { return ParseWorkload(spec).status(); }};
  for (const bool quick : {false, true}) {
    const absl::StatusOr<Experiment> experiment = ParseExperiment("some.toml", text, quick, limits);
    experiment.ok() ? CheckRead(*experiment) : CheckRefused(experiment.status());
  }
  return 0;
}
