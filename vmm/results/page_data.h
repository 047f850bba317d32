// The numbers of a page, for the script that draws its charts and for whoever takes them from there.
#ifndef QUIRE_VMM_RESULTS_PAGE_DATA_H_
#define QUIRE_VMM_RESULTS_PAGE_DATA_H_

#include <string>
#include <vector>

#include "vmm/results/findings.h"

namespace quire::results {

// "values", "memory", "coverage", "latency".
const char* Name(Chart::Kind kind);

// One JSON object, on one line: {"form": 1, "charts": [{"kind", "title", "panels": [...]}]}, the panels with the
// members of the figures in findings.h. What there is not is null.
std::string PageData(const std::vector<ChartFindings>& charts);

}  // namespace quire::results

#endif  // QUIRE_VMM_RESULTS_PAGE_DATA_H_
