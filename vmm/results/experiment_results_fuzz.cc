// Whatever an experiment's files hold, there is a page of them, whose data can be read and whose markup is its own.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "base/check.h"
#include "vmm/results/experiment_results.h"
#include "vmm/results/findings.h"
#include "vmm/results/page.h"

namespace {

using quire::results::ExperimentResults;
using quire::results::RunRecord;

size_t CountOf(absl::string_view text, absl::string_view part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != absl::string_view::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

void CheckRun(const RunRecord& run) {
  for (const auto& [key, value] : run.values) QUIRE_CHECK(std::isfinite(value));
  if (run.timeline) {
    for (const auto& [name, column] : run.timeline->columns) QUIRE_CHECK(column.size() == run.timeline->seconds.size());
  }
  if (run.latency) QUIRE_CHECK(run.latency->counts.size() == run.latency->us.size() + 1);
}

}  // namespace

// The first line is experiment.json, the others are results.jsonl.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\n');
  const absl::string_view lines = end == absl::string_view::npos ? absl::string_view() : input.substr(end + 1);
  const absl::StatusOr<ExperimentResults> results = quire::results::ParseResults(input.substr(0, end), lines);
  if (!results.ok()) return 0;
  for (const RunRecord& run : results->runs) CheckRun(run);
  const std::vector<quire::results::ChartFindings> charts = quire::results::FindingsOf(*results);
  const std::string page = quire::results::Page(*results, charts);
  QUIRE_CHECK(CountOf(page, "<script") == 3 && CountOf(page, "</script") == 3 && CountOf(page, "<!--") == 1);
  QUIRE_CHECK(!absl::StrContains(page, "data-v=\"inf") && !absl::StrContains(page, "nan\">"));
  QUIRE_CHECK(!quire::results::PageVerdict(*results, charts).empty());
  return 0;
}
