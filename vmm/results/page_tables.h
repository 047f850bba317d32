// The tables of a page. A cell with a number has it whole in data-v, and rounded for readers.
#ifndef QUIRE_VMM_RESULTS_PAGE_TABLES_H_
#define QUIRE_VMM_RESULTS_PAGE_TABLES_H_

#include <cstddef>
#include <string>
#include <vector>

#include "vmm/results/experiment_results.h"
#include "vmm/results/findings.h"

namespace quire::results {

// The class that gives a series its colour.
std::string SeriesClass(size_t series);

// The numbers behind a panel. `attributes`, which are no file's, go to each table.
std::string TablesHtml(const Panel& panel, const std::string& attributes);

std::string FactsTable(const Facts& facts);

// A row each, of the first `most`; what there is more is said.
std::string RunsTable(const std::vector<RunRecord>& runs, size_t most);

// "0.1.0", or several.
std::string VersionsOf(const std::vector<const RunRecord*>& runs);

}  // namespace quire::results

#endif  // QUIRE_VMM_RESULTS_PAGE_TABLES_H_
