// What an experiment's results say: for each chart its numbers, and what they come to in sentences.
#ifndef QUIRE_VMM_RESULTS_FINDINGS_H_
#define QUIRE_VMM_RESULTS_FINDINGS_H_

#include <cstddef>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "vmm/results/experiment_results.h"
#include "vmm/results/measure.h"
#include "vmm/results/statistics.h"

namespace quire::results {

// A sentence, and what it is about.
struct Finding {
  enum class Tone {
    kBetter,   // the first of two that are compared is
    kWorse,    // the second is
    kSame,     // they cannot be told apart
    kUnknown,  // nothing can be said
    kTrouble,  // runs were killed or failed
    kPlain,    // nothing is compared
  };
  Tone tone = Tone::kPlain;
  std::string text = {};
};

// Runs of one series at one place of a values chart.
struct Place {
  Repetitions repetitions = {};  // of the runs that ended well
  std::optional<Estimate> estimate = {};
  size_t runs = 0;
  size_t killed = 0;
  size_t failed = 0;
  size_t lacking = 0;       // ended well without the value
  std::string reason = {};  // of the first that was killed or failed
};

struct ValuesFigure {
  struct Series {
    std::string name = {};
    std::vector<Place> places = {};  // one for each of `xs`
  };
  Measure measure = {};
  bool higher_is_better = true;
  std::string x_name = {};  // empty: there is one place
  bool numeric = false;     // all of `xs` are numbers
  std::vector<AxisValue> xs = {};
  std::vector<Series> series = {};
  // Indices of the two that are compared, and how they do at each of `xs`.
  std::optional<std::pair<size_t, size_t>> compared = {};
  std::vector<Comparison> comparisons = {};
};

// Of one run, over its time.
struct MemoryFigure {
  std::string run = {};
  Timeline timeline = {};  // its samples may be thinned out
  size_t every = 1;        // one sample of so many is here
  double limit = 0;        // bytes; 0 if not known
  double most_used = 0;    // bytes, of all samples
  double most_compressed = 0;
  std::vector<Phase> phases = {};
};

struct CoverageFigure {
  struct Series {
    std::string name = {};
    std::string run = {};  // whose time is shown
    std::vector<double> seconds = {};
    std::vector<double> shares = {};        // from 0 to 1
    std::optional<Estimate> estimate = {};  // of the values huge_share of all runs that ended well
  };
  std::vector<Series> series = {};
  std::vector<Phase> phases = {};  // of the first series
};

struct LatencyFigure {
  struct Series {
    std::string name = {};
    size_t runs = 0;
    size_t other_bounds = 0;          // runs that are left out, since they count by other bounds
    LatencyHistogram histogram = {};  // of all these runs together
    double count = 0;
    std::vector<double> slower = {};                                // share that took at least us[i]
    std::optional<double> p50 = {}, p90 = {}, p99 = {}, p999 = {};  // us; nothing if beyond the last bound
  };
  bool of_faults = false;
  std::vector<Series> series = {};
};

struct Panel {
  std::string title = {};  // what tells it from others of its chart; empty if it is the only one
  std::variant<ValuesFigure, MemoryFigure, CoverageFigure, LatencyFigure> figure = {};
  std::vector<Finding> findings = {};
};

struct ChartFindings {
  Chart chart = {};
  std::vector<Finding> summary = {};
  std::vector<Panel> panels = {};
  std::vector<std::string> notes = {};  // sentences about what is not shown
  Facts settings = {};                  // of its runs: the value where all have the same, else all values
};

// Thread safe: has no state. The panels of a chart are in the order of the axes' values.
std::vector<ChartFindings> FindingsOf(const ExperimentResults& results);

// About the runs as a whole: how many ended well, and why the others did not.
std::vector<Finding> FindingsOfRuns(const ExperimentResults& results);

// How each fact of these runs is: the value where all have the same, else the values that there are, a few of them.
Facts MergedFacts(const std::vector<const RunRecord*>& runs, Facts RunRecord::*facts);

}  // namespace quire::results

#endif  // QUIRE_VMM_RESULTS_FINDINGS_H_
