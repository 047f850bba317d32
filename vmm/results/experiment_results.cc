#include "vmm/results/experiment_results.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "base/units.h"
#include "nlohmann/json.hpp"
#include "vmm/files.h"

namespace quire::results {
namespace {

using Json = nlohmann::json;

// Far more than any experiment is expected to have; they bound what hostile files can make of a page.
constexpr size_t kMostAxes = 16;
constexpr size_t kMostAxisValues = 256;
constexpr size_t kMostCharts = 64;
constexpr size_t kMostRuns = 100'000;
constexpr size_t kMostPhases = 256;
constexpr size_t kMostFacts = 256;
constexpr size_t kDeepest = 32;
constexpr size_t kLongestFact = 4096;
constexpr ByteCount kLargestExperiment = ByteCount::MiB(16);
constexpr ByteCount kLargestResults = ByteCount::MiB(512);

// Sums of squares of numbers within these bounds, and ratios of them, are finite.
constexpr double kLargest = 1e18;
constexpr double kSmallest = 1e-18;

// ---------------------------------------------------------------------------------------------------------------------
// JSON that may be anything
// ---------------------------------------------------------------------------------------------------------------------

// The library parses without recursion, but copies and prints with it.
bool NestsTooDeep(absl::string_view text) {
  size_t depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kDeepest) return true;
    } else if (c == '}' || c == ']') {
      depth -= depth > 0;
    }
  }
  return false;
}

// Discarded if `text` is no JSON.
Json Parse(absl::string_view text) {
  if (NestsTooDeep(text)) return Json(Json::value_t::discarded);
  return Json::parse(text.begin(), text.end(), /*cb=*/nullptr, /*allow_exceptions=*/false);
}

// Null where there is no such key.
const Json& Get(const Json& object, const char* key) {
  static const Json* const null = new Json();
  if (!object.is_object()) return *null;
  const auto found = object.find(key);
  return found == object.end() ? *null : *found;
}

std::string Text(const Json& json) { return json.is_string() ? json.get<std::string>() : ""; }

std::optional<double> Number(const Json& json) {
  if (!json.is_number()) return std::nullopt;
  const double number = json.get<double>();
  if (!std::isfinite(number) || std::abs(number) > kLargest) return std::nullopt;
  return std::abs(number) < kSmallest ? 0 : number;
}

std::optional<uint64_t> Count(const Json& json) {
  const std::optional<double> number = Number(json);
  if (!number || *number < 0 || *number != std::floor(*number)) return std::nullopt;
  return static_cast<uint64_t>(*number);
}

std::optional<AxisValue> ToAxisValue(const Json& json) {
  if (json.is_string()) return AxisValue(json.get<std::string>());
  if (json.is_boolean()) return AxisValue(std::string(json.get<bool>() ? "true" : "false"));
  const std::optional<double> number = Number(json);
  if (!number) return std::nullopt;
  return AxisValue(*number);
}

// All of them, or nothing.
std::optional<std::vector<double>> Numbers(const Json& json) {
  if (!json.is_array()) return std::nullopt;
  std::vector<double> numbers;
  numbers.reserve(json.size());
  for (const Json& element : json) {
    const std::optional<double> number = Number(element);
    if (!number) return std::nullopt;
    numbers.push_back(*number);
  }
  return numbers;
}

// ---------------------------------------------------------------------------------------------------------------------
// experiment.json
// ---------------------------------------------------------------------------------------------------------------------

std::optional<Axis> ParseAxis(const Json& json) {
  Axis axis{.name = Text(Get(json, "name"))};
  const Json& values = Get(json, "values");
  if (axis.name.empty() || !values.is_array() || values.empty() || values.size() > kMostAxisValues) return std::nullopt;
  for (const Json& element : values) {
    const std::optional<AxisValue> value = ToAxisValue(element);
    if (!value) return std::nullopt;
    if (std::find(axis.values.begin(), axis.values.end(), *value) == axis.values.end()) axis.values.push_back(*value);
  }
  return axis;
}

std::optional<Chart::Kind> ParseKind(absl::string_view kind) {
  if (kind == "values") return Chart::Kind::kValues;
  if (kind == "memory") return Chart::Kind::kMemory;
  if (kind == "coverage") return Chart::Kind::kCoverage;
  if (kind == "latency") return Chart::Kind::kLatency;
  return std::nullopt;
}

bool Has(const Axis& axis, const AxisValue& value) {
  return std::find(axis.values.begin(), axis.values.end(), value) != axis.values.end();
}

// Nothing, or what is wrong: a clause.
std::string ParseAt(const Json& json, const Experiment& experiment, Point& at) {
  if (json.is_null()) return "";
  if (!json.is_object()) return "its \"at\" is no object";
  for (const auto& [name, element] : json.items()) {
    const Axis* const axis = experiment.FindAxis(name);
    const std::optional<AxisValue> value = ToAxisValue(element);
    // What has one value in all runs is no axis, and needs no fixing.
    if (axis == nullptr) continue;
    if (!value || !Has(*axis, *value)) return absl::StrCat("its \"at\" has a value that the axis ", name, " lacks");
    at[name] = *value;
  }
  return "";
}

std::string ParseCompare(const Json& json, const Experiment& experiment, Chart& chart) {
  if (json.is_null()) return "";
  const Axis* const axis = experiment.FindAxis(chart.series);
  if (axis == nullptr) return "it has one series";
  if (!json.is_array() || json.size() != 2) return "its \"compare\" does not name two values";
  const std::optional<AxisValue> first = ToAxisValue(json[0]);
  const std::optional<AxisValue> second = ToAxisValue(json[1]);
  if (!first || !second || !Has(*axis, *first) || !Has(*axis, *second) || *first == *second) {
    return absl::StrCat("its \"compare\" does not name two values of the axis ", chart.series);
  }
  chart.compare = {*first, *second};
  return "";
}

std::string ParseAxesOfChart(const Json& json, const Experiment& experiment, Chart& chart) {
  // What has one value in all runs may be no axis: then there is one series, or one place.
  chart.series = Text(Get(json, "series"));
  if (experiment.FindAxis(chart.series) == nullptr || chart.kind == Chart::Kind::kMemory) chart.series.clear();
  if (chart.kind != Chart::Kind::kValues) return "";
  chart.x = Text(Get(json, "x"));
  if (experiment.FindAxis(chart.x) == nullptr) chart.x.clear();
  chart.y = Text(Get(json, "y"));
  if (chart.y.empty()) return "it has no y";
  return !chart.x.empty() && chart.x == chart.series ? "its x and its series are the same axis" : "";
}

// What is wrong with the chart, a clause; empty if nothing is.
std::string ParseChart(const Json& json, const Experiment& experiment, Chart& chart) {
  const std::optional<Chart::Kind> kind = ParseKind(Text(Get(json, "kind")));
  if (!kind) return absl::StrCat("its kind, \"", Text(Get(json, "kind")), "\", is not known here");
  chart.kind = *kind;
  chart.higher_is_better = Text(Get(json, "better")) != "lower";
  chart.of_faults = Text(Get(json, "of")) == "faults";
  const std::string wrong = ParseAxesOfChart(json, experiment, chart);
  return wrong.empty() ? ParseAt(Get(json, "at"), experiment, chart.at) : wrong;
}

void ParseAxes(const Json& json, Experiment& experiment, std::vector<std::string>& damaged) {
  if (!json.is_array()) return;
  for (const Json& element : json) {
    std::optional<Axis> axis = ParseAxis(element);
    if (axis && experiment.FindAxis(axis->name) == nullptr && experiment.axes.size() < kMostAxes) {
      experiment.axes.push_back(*std::move(axis));
    } else if (damaged.empty()) {
      damaged.push_back("An axis of experiment.json cannot be used.");
    }
  }
}

void ParseCharts(const Json& json, Experiment& experiment, std::vector<std::string>& damaged) {
  if (!json.is_array()) return;
  size_t number = 0;
  for (const Json& element : json) {
    ++number;
    Chart chart{.title = Text(Get(element, "title"))};
    if (chart.title.empty()) chart.title = absl::StrCat("Chart ", number);
    if (number > kMostCharts) {
      damaged.push_back(absl::StrCat("Only the first ", kMostCharts, " charts are drawn."));
      return;
    }
    if (const std::string wrong = ParseChart(element, experiment, chart); !wrong.empty()) {
      damaged.push_back(absl::StrCat("The chart \"", chart.title, "\" is not drawn: ", wrong, "."));
      continue;
    }
    if (const std::string wrong = ParseCompare(Get(element, "compare"), experiment, chart); !wrong.empty()) {
      damaged.push_back(absl::StrCat("The chart \"", chart.title, "\" compares nothing: ", wrong, "."));
    }
    experiment.charts.push_back(std::move(chart));
  }
}

absl::Status CheckForm(const Json& json) {
  const std::optional<double> form = Number(Get(json, "form"));
  if (form == kResultsForm) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "experiment.json has ", form ? absl::StrCat("form ", absl::StrFormat("%g", *form)) : "no form", ", and form ",
      kResultsForm, " is what this program reads: use the version of quire that made the experiment, or repeat it"));
}

// ---------------------------------------------------------------------------------------------------------------------
// A line of results.jsonl
// ---------------------------------------------------------------------------------------------------------------------

std::string Shortened(std::string text) {
  if (text.size() <= kLongestFact) return text;
  size_t end = kLongestFact;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // not within a character
  return text.substr(0, end) + "...";
}

std::string FactText(const Json& json) {
  if (json.is_string()) return Shortened(json.get<std::string>());
  return Shortened(json.dump(-1, ' ', false, Json::error_handler_t::replace));
}

// What is named and found, as `quire doctor` lists it, is a fact each.
bool AddFindings(const Json& json, Facts& facts) {
  if (!json.is_array() || json.empty()) return false;
  for (const Json& element : json) {
    if (!Get(element, "name").is_string() || !Get(element, "found").is_string()) return false;
  }
  for (const Json& element : json) {
    if (facts.size() < kMostFacts) facts.emplace_back(Text(Get(element, "name")), FactText(Get(element, "found")));
  }
  return true;
}

Facts ParseFacts(const Json& json) {
  Facts facts;
  if (!json.is_object()) return facts;
  for (const auto& [name, value] : json.items()) {
    if (facts.size() >= kMostFacts) break;
    if (!AddFindings(value, facts)) facts.emplace_back(Shortened(name), FactText(value));
  }
  return facts;
}

std::vector<Phase> ParsePhases(const Json& json) {
  std::vector<Phase> phases;
  if (!json.is_array()) return phases;
  for (const Json& element : json) {
    const std::optional<double> begin = Number(Get(element, "begin"));
    const std::optional<double> end = Number(Get(element, "end"));
    if (!begin || !end || *begin < 0 || *end < *begin || phases.size() == kMostPhases) continue;
    phases.push_back({Text(Get(element, "name")), *begin, *end, Get(element, "measured") == Json(true)});
  }
  return phases;
}

bool Ascending(const std::vector<double>& numbers, bool strictly) {
  for (size_t i = 1; i < numbers.size(); ++i) {
    if (numbers[i] < numbers[i - 1] || (strictly && numbers[i] == numbers[i - 1])) return false;
  }
  return true;
}

bool NoneNegative(const std::vector<double>& numbers) {
  return std::none_of(numbers.begin(), numbers.end(), [](double n) { return n < 0; });
}

std::optional<Timeline> ParseTimeline(const Json& json) {
  std::optional<std::vector<double>> seconds = Numbers(Get(json, "seconds"));
  if (!seconds || seconds->empty() || !Ascending(*seconds, /*strictly=*/false) || !NoneNegative(*seconds)) {
    return std::nullopt;
  }
  Timeline timeline{.seconds = *std::move(seconds)};
  for (const auto& [name, column] : json.items()) {
    if (name == "seconds") continue;
    std::optional<std::vector<double>> numbers = Numbers(column);
    if (!numbers || numbers->size() != timeline.seconds.size() || !NoneNegative(*numbers)) return std::nullopt;
    timeline.columns[name] = *std::move(numbers);
  }
  return timeline;
}

std::optional<LatencyHistogram> ParseLatency(const Json& json) {
  std::optional<std::vector<double>> us = Numbers(Get(json, "us"));
  std::optional<std::vector<double>> counts = Numbers(Get(json, "counts"));
  if (!us || !counts || us->empty() || counts->size() != us->size() + 1) return std::nullopt;
  if (us->front() <= 0 || !Ascending(*us, /*strictly=*/true) || !NoneNegative(*counts)) return std::nullopt;
  return LatencyHistogram{*std::move(us), *std::move(counts)};
}

std::optional<Outcome> ParseOutcome(absl::string_view outcome) {
  if (outcome == "ok") return Outcome::kOk;
  if (outcome == "killed") return Outcome::kKilled;
  if (outcome == "failed") return Outcome::kFailed;
  return std::nullopt;
}

// Reads lines into results, and counts what they lack.
class LineReader {
 public:
  explicit LineReader(ExperimentResults& results) : results_(results) {}

  void Read(absl::string_view line, bool finished) {
    ++line_;
    if (line.find_first_not_of(" \t\r") == absl::string_view::npos) return;
    const Json json = Parse(line);
    if (json.is_discarded() && !finished) {
      results_.torn = true;
    } else if (const char* why = WhyNot(json)) {
      LeaveOut(why, /*whole_run=*/true, "");
    } else {
      Add(json);
    }
  }

 private:
  // Why a line is left out as a whole; null if it is not.
  const char* WhyNot(const Json& json) const {
    if (json.is_discarded()) return "is no JSON";
    if (!json.is_object()) return "is no JSON object";
    if (Number(Get(json, "form")) != kResultsForm) return "has another form";
    if (Text(Get(json, "run")).empty()) return "does not name its run";
    if (!ParseOutcome(Text(Get(json, "outcome")))) return "has no outcome that is known here";
    if (!Count(Get(json, "repetition"))) return "has no number of its repetition";
    return nullptr;
  }

  void Add(const Json& json) {
    RunRecord run{.name = Text(Get(json, "run")),
                  .repetition = *Count(Get(json, "repetition")),
                  .started = Text(Get(json, "started")),
                  .wall_seconds = Number(Get(json, "wall_seconds")).value_or(0),
                  .version = Text(Get(json, "version")),
                  .settings = ParseFacts(Get(json, "settings")),
                  .host = ParseFacts(Get(json, "host")),
                  .outcome = *ParseOutcome(Text(Get(json, "outcome"))),
                  .reason = Shortened(Text(Get(json, "reason")))};
    if (!AddPoint(json, run)) return LeaveOut("has a point that is not of this experiment", true, run.name);
    AddNumbers(json, run);
    Keep(std::move(run));
  }

  bool AddPoint(const Json& json, RunRecord& run) {
    for (const Axis& axis : results_.experiment.axes) {
      const std::optional<AxisValue> value = ToAxisValue(Get(Get(json, "point"), axis.name.c_str()));
      if (!value || !Has(axis, *value)) return false;
      run.point[axis.name] = *value;
    }
    return true;
  }

  void AddNumbers(const Json& json, RunRecord& run) {
    if (const Json& values = Get(json, "values"); values.is_object()) {
      for (const auto& [key, element] : values.items()) AddValue(key, element, run);
    } else if (!values.is_null()) {
      LeaveOut("has values that are no object", false, run.name);
    }
    run.phases = ParsePhases(Get(json, "phases"));
    run.timeline = Part(json, "timeline", ParseTimeline, "has a timeline that cannot be used", run);
    run.latency = Part(json, "latency", ParseLatency, "has latencies that cannot be used", run);
    run.fault_latency = Part(json, "fault_latency", ParseLatency, "has latencies of faults that cannot be used", run);
  }

  void AddValue(const std::string& key, const Json& element, RunRecord& run) {
    if (element.is_null()) return;
    if (const std::optional<double> number = Number(element)) {
      run.values[key] = *number;
    } else {
      LeaveOut("has a value that is no number, or too large", false, run.name);
    }
  }

  template <class Result>
  std::optional<Result> Part(const Json& json, const char* key, std::optional<Result> (*parse)(const Json&),
                             const char* why, const RunRecord& run) {
    if (Get(json, key).is_null()) return std::nullopt;
    std::optional<Result> part = parse(Get(json, key));
    if (!part) LeaveOut(why, false, run.name);
    return part;
  }

  void Keep(RunRecord run) {
    const auto [place, is_new] = places_.emplace(run.name, results_.runs.size());
    if (!is_new) {
      ++results_.made_again;
      results_.runs[place->second] = std::move(run);
    } else if (results_.runs.size() < kMostRuns) {
      results_.runs.push_back(std::move(run));
    } else {
      places_.erase(place);
      LeaveOut("is one too many", true, run.name);
    }
  }

  void LeaveOut(absl::string_view why, bool whole_run, const std::string& run) {
    for (LeftOut& left_out : results_.left_out) {
      if (left_out.why != why) continue;
      ++left_out.lines;
      return;
    }
    results_.left_out.push_back({std::string(why), 1, line_, whole_run, Shortened(run)});
  }

  ExperimentResults& results_;
  std::map<std::string, size_t> places_;  // of runs in results_.runs, by name
  size_t line_ = 0;
};

bool HoldsSomething(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && info.st_size > 0;
}

absl::Status CheckDirectory(const std::string& dir) {
  const std::string advice = "name the directory that `quire experiment FILE --out=DIR` wrote to";
  struct stat info;
  if (stat(dir.c_str(), &info) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("there is no directory ", dir, ": ", advice));
  }
  if (!S_ISDIR(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(dir, " is no directory: ", advice));
  if (!HoldsSomething(dir + "/experiment.json")) {
    return absl::InvalidArgumentError(absl::StrCat(dir, " has no experiment.json: ", advice));
  }
  if (!HoldsSomething(dir + "/results.jsonl")) {
    return absl::InvalidArgumentError(
        absl::StrCat(dir, " has no results yet: wait until the first run of `quire experiment` has ended"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> Contents(const std::string& path, ByteCount limit) {
  absl::StatusOr<std::string> contents = ReadWhole("dir", path, limit);
  if (contents.ok()) return contents;
  // There is no such flag: the directory is an argument.
  absl::string_view why = contents.status().message();
  absl::ConsumePrefix(&why, "--dir=");
  return absl::InvalidArgumentError(why);
}

}  // namespace

std::string ToText(const AxisValue& value) {
  if (const std::string* word = std::get_if<std::string>(&value)) return *word;
  return absl::StrFormat("%.6g", std::get<double>(value));
}

bool Axis::numeric() const {
  return std::all_of(values.begin(), values.end(),
                     [](const AxisValue& v) { return std::holds_alternative<double>(v); });
}

const Axis* Experiment::FindAxis(absl::string_view axis) const {
  for (const Axis& candidate : axes) {
    if (candidate.name == axis) return &candidate;
  }
  return nullptr;
}

size_t ExperimentResults::Count(Outcome outcome) const {
  return static_cast<size_t>(
      std::count_if(runs.begin(), runs.end(), [&](const RunRecord& run) { return run.outcome == outcome; }));
}

absl::StatusOr<Experiment> ParseExperiment(absl::string_view json, std::vector<std::string>& damaged) {
  const Json parsed = Parse(json);
  if (!parsed.is_object()) {
    return absl::InvalidArgumentError(
        "experiment.json is no JSON object: name the directory that `quire experiment FILE --out=DIR` wrote to");
  }
  if (absl::Status form = CheckForm(parsed); !form.ok()) return form;
  Experiment experiment{.name = Text(Get(parsed, "name")),
                        .asks = Text(Get(parsed, "asks")),
                        .about = Text(Get(parsed, "about")),
                        .file = Text(Get(parsed, "file")),
                        .quick = Get(parsed, "quick") == Json(true),
                        .repetitions = Count(Get(parsed, "repetitions")).value_or(0)};
  if (experiment.name.empty()) experiment.name = "An experiment";
  ParseAxes(Get(parsed, "axes"), experiment, damaged);
  ParseCharts(Get(parsed, "charts"), experiment, damaged);
  return experiment;
}

absl::StatusOr<ExperimentResults> ParseResults(absl::string_view experiment_json, absl::string_view results_jsonl) {
  ExperimentResults results;
  absl::StatusOr<Experiment> experiment = ParseExperiment(experiment_json, results.damaged);
  if (!experiment.ok()) return experiment.status();
  results.experiment = *std::move(experiment);
  LineReader reader(results);
  while (!results_jsonl.empty()) {
    const size_t end = results_jsonl.find('\n');
    const bool finished = end != absl::string_view::npos;
    reader.Read(results_jsonl.substr(0, end), finished);
    results_jsonl.remove_prefix(finished ? end + 1 : results_jsonl.size());
  }
  return results;
}

absl::StatusOr<ExperimentResults> ReadResults(const std::string& dir) {
  if (absl::Status valid = CheckDirectory(dir); !valid.ok()) return valid;
  const absl::StatusOr<std::string> experiment = Contents(dir + "/experiment.json", kLargestExperiment);
  if (!experiment.ok()) return experiment.status();
  const absl::StatusOr<std::string> lines = Contents(dir + "/results.jsonl", kLargestResults);
  if (!lines.ok()) return lines.status();
  return ParseResults(*experiment, *lines);
}

}  // namespace quire::results
