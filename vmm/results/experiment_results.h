// What the directory of an experiment holds: what was asked, and the runs that have ended.
//
// Two files, as `quire experiment` writes them (docs/experiments.md): experiment.json, and results.jsonl with one JSON
// object a line. They may have been cut off, edited, or written by another version, and so may hold anything. What
// cannot be used is left out and counted: a page that lacks something says so.
#ifndef QUIRE_VMM_RESULTS_EXPERIMENT_RESULTS_H_
#define QUIRE_VMM_RESULTS_EXPERIMENT_RESULTS_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace quire::results {

// The form of both files that is read here.
inline constexpr int kResultsForm = 1;

// A place on an axis. Numbers are equal by their value, however they were written.
using AxisValue = std::variant<double, std::string>;

// "2", "1.5", "quire".
std::string ToText(const AxisValue& value);

// Where a run, or a part of a chart, stands: a value for each axis, by its name.
using Point = std::map<std::string, AxisValue>;

struct Axis {
  std::string name = {};
  std::vector<AxisValue> values = {};

  // All of them numbers.
  bool numeric() const;
};

struct Chart {
  enum class Kind { kValues, kMemory, kCoverage, kLatency };
  Kind kind = Kind::kValues;
  std::string title = {};
  std::string x = {};       // an axis; of kValues only
  std::string y = {};       // a key of a run's values; of kValues only
  std::string series = {};  // an axis, or empty: one series
  bool higher_is_better = true;
  std::optional<std::pair<AxisValue, AxisValue>> compare = {};  // values of the axis `series`
  Point at = {};
  bool of_faults = false;  // of kLatency only: the latencies of faults instead of operations
};

struct Experiment {
  std::string name = {};
  std::string asks = {};
  std::string about = {};
  std::string file = {};  // the experiment file's text
  bool quick = false;
  std::vector<Axis> axes = {};
  uint64_t repetitions = 0;
  std::vector<Chart> charts = {};

  const Axis* FindAxis(absl::string_view axis) const;
};

struct Phase {
  std::string name = {};
  double begin = 0;  // seconds since the run began
  double end = 0;
  bool measured = false;
};

// Columns of equal length, by name.
struct Timeline {
  std::vector<double> seconds = {};  // ascending
  std::map<std::string, std::vector<double>> columns = {};
};

// How many of something took how long: counts[i] those of at least us[i - 1] and less than us[i] microseconds. One more
// count than bounds.
struct LatencyHistogram {
  std::vector<double> us = {};  // ascending, above 0
  std::vector<double> counts = {};
};

enum class Outcome { kOk, kKilled, kFailed };

// Words to be shown: name, value.
using Facts = std::vector<std::pair<std::string, std::string>>;

struct RunRecord {
  std::string name = {};
  Point point = {};
  uint64_t repetition = 0;
  std::string started = {};
  double wall_seconds = 0;
  std::string version = {};
  Facts settings = {};
  Facts host = {};
  Outcome outcome = Outcome::kOk;
  std::string reason = {};
  std::map<std::string, double> values = {};
  std::vector<Phase> phases = {};
  std::optional<Timeline> timeline = {};
  std::optional<LatencyHistogram> latency = {};
  std::optional<LatencyHistogram> fault_latency = {};
};

// Something that is on no chart.
struct LeftOut {
  std::string why;           // a clause: "is no JSON"
  size_t lines = 0;          // how many
  size_t first_line = 0;     // of results.jsonl, from 1
  bool whole_run = false;    // else a part of a run
  std::string example = {};  // the first one's run, if that is known
};

struct ExperimentResults {
  Experiment experiment = {};
  std::vector<RunRecord> runs = {};  // in the order of their lines; of runs made again the last
  std::vector<LeftOut> left_out = {};
  std::vector<std::string> damaged = {};  // sentences about parts of experiment.json that cannot be used
  size_t made_again = 0;                  // lines that a later one of the same run stands for
  bool torn = false;                      // the last line is unfinished

  size_t Count(Outcome outcome) const;
};

// What experiment.json says. `damaged` gets a sentence for each chart or axis that cannot be used.
// Errors: InvalidArgument if it is no JSON object or of another form.
absl::StatusOr<Experiment> ParseExperiment(absl::string_view json, std::vector<std::string>& damaged);

// Both files' contents. Errors: those of ParseExperiment.
absl::StatusOr<ExperimentResults> ParseResults(absl::string_view experiment_json, absl::string_view results_jsonl);

// The files of the directory `dir`. Errors: InvalidArgument if a file is not there, too large or holds nothing; those
// of ParseResults.
absl::StatusOr<ExperimentResults> ReadResults(const std::string& dir);

}  // namespace quire::results

#endif  // QUIRE_VMM_RESULTS_EXPERIMENT_RESULTS_H_
