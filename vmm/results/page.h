// The page of `quire report`: one HTML file with everything in it.
#ifndef QUIRE_VMM_RESULTS_PAGE_H_
#define QUIRE_VMM_RESULTS_PAGE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "vmm/results/experiment_results.h"
#include "vmm/results/findings.h"

namespace quire::results {

// The page, which refers to nothing outside of itself: its policy forbids it to. Nothing of the results is taken for
// markup. The same results give the same bytes. Thread safe.
std::string Page(const ExperimentResults& results, const std::vector<ChartFindings>& charts);

// The sentences of the page's verdict, as lines of at most 100 columns.
std::string PageVerdict(const ExperimentResults& results, const std::vector<ChartFindings>& charts);

struct ExperimentReport {
  std::string page;
  std::string verdict;
};

// Both, of the directory of an experiment. Errors: those of ReadResults.
absl::StatusOr<ExperimentReport> ReportOf(const std::string& dir);

}  // namespace quire::results

#endif  // QUIRE_VMM_RESULTS_PAGE_H_
