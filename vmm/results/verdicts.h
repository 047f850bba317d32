// The sentences that figures come to.
#ifndef QUIRE_VMM_RESULTS_VERDICTS_H_
#define QUIRE_VMM_RESULTS_VERDICTS_H_

#include <string>
#include <vector>

#include "vmm/results/findings.h"

namespace quire::results {

// One for each place that is compared, then those about runs that did not end well.
std::vector<Finding> VerdictsOf(const ValuesFigure& figure);
std::vector<Finding> VerdictsOf(const MemoryFigure& figure);
std::vector<Finding> VerdictsOf(const CoverageFigure& figure);
std::vector<Finding> VerdictsOf(const LatencyFigure& figure);

// What all panels of a chart come to together, in one sentence or a few.
std::vector<Finding> SummaryOf(const std::vector<Panel>& panels);

// "a", "a and b", "a, b and c".
std::string JoinWords(const std::vector<std::string>& words);

}  // namespace quire::results

#endif  // QUIRE_VMM_RESULTS_VERDICTS_H_
