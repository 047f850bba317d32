#include "vmm/results/findings.h"

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "vmm/results/verdicts.h"
#include "vmm/text.h"

namespace quire::results {
namespace {

// More would be more than can be looked at.
constexpr size_t kMostPanels = 48;
// As many as there are pixels across a chart.
constexpr size_t kMostSamples = 600;
constexpr size_t kMostValuesOfFact = 6;
constexpr size_t kMostCauses = 6;

constexpr const char* kGuestColumns[] = {"resident_bytes", "shared_bytes", "compressed_bytes", "other_bytes"};

// ---------------------------------------------------------------------------------------------------------------------
// Which runs
// ---------------------------------------------------------------------------------------------------------------------

bool StandsAt(const RunRecord& run, const Point& point) {
  return std::all_of(point.begin(), point.end(), [&](const auto& place) {
    const auto found = run.point.find(place.first);
    return found != run.point.end() && found->second == place.second;
  });
}

std::vector<const RunRecord*> RunsAt(const std::vector<const RunRecord*>& runs, const Point& point) {
  std::vector<const RunRecord*> chosen;
  for (const RunRecord* run : runs) {
    if (StandsAt(*run, point)) chosen.push_back(run);
  }
  return chosen;
}

std::vector<const RunRecord*> All(const std::vector<RunRecord>& runs) {
  std::vector<const RunRecord*> all;
  for (const RunRecord& run : runs) all.push_back(&run);
  return all;
}

// The axes whose values make panels.
std::vector<const Axis*> PanelAxes(const Experiment& experiment, const Chart& chart) {
  std::vector<const Axis*> axes;
  for (const Axis& axis : experiment.axes) {
    const bool shown = axis.name == chart.x || axis.name == chart.series || chart.at.contains(axis.name);
    if (!shown && axis.values.size() > 1) axes.push_back(&axis);
  }
  return axes;
}

// All combinations of the axes' values, the last axis changing first; at most kMostPanels and one.
std::vector<Point> Combinations(const std::vector<const Axis*>& axes) {
  std::vector<Point> points = {{}};
  for (const Axis* axis : axes) {
    std::vector<Point> longer;
    for (const Point& point : points) {
      for (const AxisValue& value : axis->values) {
        if (longer.size() > kMostPanels) break;
        longer.push_back(point);
        longer.back()[axis->name] = value;
      }
    }
    points = std::move(longer);
  }
  return points;
}

std::string PanelTitle(const std::vector<const Axis*>& axes, const Point& point) {
  return absl::StrJoin(axes, ", ", [&](std::string* out, const Axis* axis) {
    absl::StrAppend(out, absl::StrReplaceAll(axis->name, {{"_", " "}}), " ", ToText(point.at(axis->name)));
  });
}

struct NamedRuns {
  std::string name;
  std::vector<const RunRecord*> runs;
};

// The runs of each series; all of them where there are no series.
std::vector<NamedRuns> BySeries(const Experiment& experiment, const Chart& chart,
                                const std::vector<const RunRecord*>& runs) {
  const Axis* const axis = experiment.FindAxis(chart.series);
  if (axis == nullptr) return {{"", runs}};
  std::vector<NamedRuns> series;
  for (const AxisValue& value : axis->values) series.push_back({ToText(value), RunsAt(runs, {{axis->name, value}})});
  return series;
}

// ---------------------------------------------------------------------------------------------------------------------
// Values
// ---------------------------------------------------------------------------------------------------------------------

Place PlaceOf(const std::vector<const RunRecord*>& runs, const std::string& key) {
  Place place{.runs = runs.size()};
  for (const RunRecord* run : runs) {
    place.killed += run->outcome == Outcome::kKilled;
    place.failed += run->outcome == Outcome::kFailed;
    if (run->outcome != Outcome::kOk) {
      if (place.reason.empty()) place.reason = run->reason;
    } else if (const auto value = run->values.find(key); value != run->values.end()) {
      place.repetitions[run->repetition] = value->second;
    } else {
      ++place.lacking;
    }
  }
  place.estimate = EstimateOf(place.repetitions);
  return place;
}

void CompareSeries(const Chart& chart, ValuesFigure& figure) {
  if (!chart.compare) return;
  const auto index = [&](const AxisValue& value) {
    size_t i = 0;
    while (i < figure.series.size() && figure.series[i].name != ToText(value)) ++i;
    return i;
  };
  figure.compared = {index(chart.compare->first), index(chart.compare->second)};
  for (size_t i = 0; i < figure.xs.size(); ++i) {
    figure.comparisons.push_back(Compare(figure.series[figure.compared->first].places[i].repetitions,
                                         figure.series[figure.compared->second].places[i].repetitions));
  }
}

std::optional<Panel> ValuesPanel(const Experiment& experiment, const Chart& chart,
                                 const std::vector<const RunRecord*>& runs) {
  const Axis* const x = experiment.FindAxis(chart.x);
  ValuesFigure figure{.measure = MeasureOf(chart.y),
                      .higher_is_better = chart.higher_is_better,
                      .x_name = absl::StrReplaceAll(chart.x, {{"_", " "}}),
                      .numeric = x != nullptr && x->numeric(),
                      .xs = x == nullptr ? std::vector<AxisValue>{""} : x->values};
  if (figure.numeric) std::sort(figure.xs.begin(), figure.xs.end());
  for (const NamedRuns& series : BySeries(experiment, chart, runs)) {
    figure.series.push_back({.name = series.name});
    for (const AxisValue& value : figure.xs) {
      const Point at = x == nullptr ? Point{} : Point{{x->name, value}};
      figure.series.back().places.push_back(PlaceOf(RunsAt(series.runs, at), chart.y));
    }
  }
  CompareSeries(chart, figure);
  std::vector<Finding> verdicts = VerdictsOf(figure);
  return Panel{.figure = std::move(figure), .findings = std::move(verdicts)};
}

// ---------------------------------------------------------------------------------------------------------------------
// Over time
// ---------------------------------------------------------------------------------------------------------------------

bool EndedBefore(const RunRecord* a, const RunRecord* b) { return a->repetition < b->repetition; }

// The first repetition that ended well and has what `has` asks for; null if none has.
template <class Has>
const RunRecord* FirstGood(const std::vector<const RunRecord*>& runs, Has has) {
  const RunRecord* first = nullptr;
  for (const RunRecord* run : runs) {
    const bool good = run->outcome == Outcome::kOk && run->timeline.has_value() && has(*run->timeline);
    if (good && (first == nullptr || EndedBefore(run, first))) first = run;
  }
  return first;
}

const std::vector<double>* Column(const Timeline& timeline, const std::string& name) {
  const auto found = timeline.columns.find(name);
  return found == timeline.columns.end() ? nullptr : &found->second;
}

// One sample of `every`, and the last.
std::vector<double> ThinnedOut(const std::vector<double>& samples, size_t every) {
  std::vector<double> kept;
  for (size_t i = 0; i < samples.size(); i += every) kept.push_back(samples[i]);
  if (!samples.empty() && (samples.size() - 1) % every != 0) kept.push_back(samples.back());
  return kept;
}

size_t EverySoManieth(size_t samples) { return samples / kMostSamples + 1; }

double At(const Timeline& timeline, const char* column, size_t i) {
  const std::vector<double>* const samples = Column(timeline, column);
  return samples == nullptr ? 0 : (*samples)[i];
}

void Summarize(const Timeline& timeline, MemoryFigure& figure) {
  const bool has_free = Column(timeline, "free_bytes") != nullptr;
  for (size_t i = 0; i < timeline.seconds.size(); ++i) {
    double used = 0;
    for (const char* column : kGuestColumns) used += At(timeline, column, i);
    if (has_free) figure.limit = std::max(figure.limit, used + At(timeline, "free_bytes", i));
    figure.most_used = std::max(figure.most_used, used);
    figure.most_compressed = std::max(figure.most_compressed, At(timeline, "compressed_bytes", i));
  }
}

bool HasMemory(const Timeline& timeline) {
  return std::any_of(std::begin(kGuestColumns), std::end(kGuestColumns),
                     [&](const char* column) { return Column(timeline, column) != nullptr; });
}

std::optional<Panel> MemoryPanel(const Experiment&, const Chart&, const std::vector<const RunRecord*>& runs) {
  const RunRecord* const run = FirstGood(runs, HasMemory);
  if (run == nullptr) return std::nullopt;
  MemoryFigure figure{.run = run->name, .every = EverySoManieth(run->timeline->seconds.size()), .phases = run->phases};
  Summarize(*run->timeline, figure);
  figure.timeline.seconds = ThinnedOut(run->timeline->seconds, figure.every);
  for (const char* column : {"resident_bytes", "shared_bytes", "compressed_bytes", "other_bytes", "free_bytes"}) {
    const std::vector<double>* const samples = Column(*run->timeline, column);
    if (samples != nullptr) figure.timeline.columns[column] = ThinnedOut(*samples, figure.every);
  }
  std::vector<Finding> verdicts = VerdictsOf(figure);
  return Panel{.figure = std::move(figure), .findings = std::move(verdicts)};
}

bool HasCoverage(const Timeline& timeline) {
  return Column(timeline, "huge_bytes") != nullptr && Column(timeline, "resident_bytes") != nullptr;
}

// Pages that are shared are in guests' memory too, and never mapped by 2 MiB.
std::vector<double> SharesMappedHuge(const Timeline& timeline) {
  std::vector<double> shares;
  for (size_t i = 0; i < timeline.seconds.size(); ++i) {
    const double resident = At(timeline, "resident_bytes", i) + At(timeline, "shared_bytes", i);
    // The columns are not read at one instant, so that the share may come out above 1.
    shares.push_back(resident > 0 ? std::min(1.0, At(timeline, "huge_bytes", i) / resident) : 0);
  }
  return shares;
}

std::optional<Panel> CoveragePanel(const Experiment& experiment, const Chart& chart,
                                   const std::vector<const RunRecord*>& runs) {
  CoverageFigure figure;
  for (const NamedRuns& series : BySeries(experiment, chart, runs)) {
    const RunRecord* const run = FirstGood(series.runs, HasCoverage);
    if (run == nullptr) continue;
    if (figure.series.empty()) figure.phases = run->phases;
    const size_t every = EverySoManieth(run->timeline->seconds.size());
    figure.series.push_back({.name = series.name,
                             .run = run->name,
                             .seconds = ThinnedOut(run->timeline->seconds, every),
                             .shares = ThinnedOut(SharesMappedHuge(*run->timeline), every),
                             .estimate = PlaceOf(series.runs, "huge_share").estimate});
  }
  if (figure.series.empty()) return std::nullopt;
  std::vector<Finding> verdicts = VerdictsOf(figure);
  return Panel{.figure = std::move(figure), .findings = std::move(verdicts)};
}

// ---------------------------------------------------------------------------------------------------------------------
// Latencies
// ---------------------------------------------------------------------------------------------------------------------

using LatencyOfRun = std::optional<LatencyHistogram> RunRecord::*;

// Adds up runs that ended well. Those that count by other bounds than the first cannot be added to it.
LatencyFigure::Series AddUp(const NamedRuns& runs, LatencyOfRun latency) {
  LatencyFigure::Series series{.name = runs.name};
  for (const RunRecord* run : runs.runs) {
    const std::optional<LatencyHistogram>& one = run->*latency;
    if (run->outcome != Outcome::kOk || !one) continue;
    if (series.runs == 0) series.histogram = {one->us, std::vector<double>(one->counts.size())};
    if (one->us != series.histogram.us) {
      ++series.other_bounds;
      continue;
    }
    ++series.runs;
    for (size_t i = 0; i < one->counts.size(); ++i) series.histogram.counts[i] += one->counts[i];
  }
  return series;
}

void Conclude(LatencyFigure::Series& series) {
  const LatencyHistogram& histogram = series.histogram;
  series.count = std::accumulate(histogram.counts.begin(), histogram.counts.end(), 0.0);
  if (series.count == 0) return;
  // Counted from the slow end, so that the smallest shares are not what is left of large ones.
  series.slower.assign(histogram.us.size(), 0);
  double slower = 0;
  for (size_t i = histogram.us.size(); i-- > 0;) {
    slower += histogram.counts[i + 1];
    series.slower[i] = slower / series.count;
  }
  series.p50 = QuantileOf(histogram.us, histogram.counts, 0.5);
  series.p90 = QuantileOf(histogram.us, histogram.counts, 0.9);
  series.p99 = QuantileOf(histogram.us, histogram.counts, 0.99);
  series.p999 = QuantileOf(histogram.us, histogram.counts, 0.999);
}

std::optional<Panel> LatencyPanel(const Experiment& experiment, const Chart& chart,
                                  const std::vector<const RunRecord*>& runs) {
  const bool has_operations = std::any_of(runs.begin(), runs.end(), [](const RunRecord* run) { return run->latency; });
  LatencyFigure figure{.of_faults = chart.of_faults || !has_operations};
  for (const NamedRuns& series : BySeries(experiment, chart, runs)) {
    LatencyFigure::Series sum = AddUp(series, figure.of_faults ? &RunRecord::fault_latency : &RunRecord::latency);
    Conclude(sum);
    if (sum.count > 0) figure.series.push_back(std::move(sum));
  }
  if (figure.series.empty()) return std::nullopt;
  std::vector<Finding> verdicts = VerdictsOf(figure);
  return Panel{.figure = std::move(figure), .findings = std::move(verdicts)};
}

// ---------------------------------------------------------------------------------------------------------------------
// A chart
// ---------------------------------------------------------------------------------------------------------------------

std::optional<Panel> PanelOf(const Experiment& experiment, const Chart& chart,
                             const std::vector<const RunRecord*>& runs) {
  switch (chart.kind) {
    case Chart::Kind::kValues:
      return ValuesPanel(experiment, chart, runs);
    case Chart::Kind::kMemory:
      return MemoryPanel(experiment, chart, runs);
    case Chart::Kind::kCoverage:
      return CoveragePanel(experiment, chart, runs);
    case Chart::Kind::kLatency:
      return LatencyPanel(experiment, chart, runs);
  }
  return std::nullopt;
}

const char* Wanted(Chart::Kind kind) {
  switch (kind) {
    case Chart::Kind::kValues:
      return "the value";
    case Chart::Kind::kMemory:
      return "a timeline of memory";
    case Chart::Kind::kCoverage:
      return "a timeline of what is mapped by 2 MiB";
    case Chart::Kind::kLatency:
      return "latencies";
  }
  return "";
}

void AddPanels(const Experiment& experiment, const std::vector<const RunRecord*>& runs, ChartFindings& findings) {
  const std::vector<const Axis*> axes = PanelAxes(experiment, findings.chart);
  std::vector<Point> points = Combinations(axes);
  if (points.size() > kMostPanels) {
    points.resize(kMostPanels);
    findings.notes.push_back(absl::StrCat("Only the first ", kMostPanels, " panels are shown."));
  }
  std::vector<std::string> without;
  for (const Point& point : points) {
    const std::vector<const RunRecord*> here = RunsAt(runs, point);
    std::optional<Panel> panel = here.empty() ? std::nullopt : PanelOf(experiment, findings.chart, here);
    const std::string title = PanelTitle(axes, point);
    if (panel) {
      panel->title = title;
      findings.panels.push_back(*std::move(panel));
    } else if (!title.empty()) {
      without.push_back(title);
    }
  }
  const std::string wanted = absl::StrCat("No run that ended well has ", Wanted(findings.chart.kind));
  if (findings.panels.empty()) {
    findings.notes.push_back(absl::StrCat(wanted, " that this chart shows."));
  } else if (!without.empty()) {
    findings.notes.push_back(absl::StrCat(wanted, " at ", JoinWords(without), "."));
  }
}

ChartFindings FindingsOfChart(const ExperimentResults& results, const Chart& chart) {
  ChartFindings findings{.chart = chart};
  const std::vector<const RunRecord*> runs = RunsAt(All(results.runs), chart.at);
  AddPanels(results.experiment, runs, findings);
  findings.summary = SummaryOf(findings.panels);
  findings.settings = MergedFacts(runs, &RunRecord::settings);
  return findings;
}

std::string EndOf(Outcome outcome) { return outcome == Outcome::kKilled ? "killed" : "failed"; }

}  // namespace

Facts MergedFacts(const std::vector<const RunRecord*>& runs, Facts RunRecord::*facts) {
  // A page is to have some order of them: that of their first appearance.
  std::vector<std::string> names;
  std::map<std::string, std::vector<std::string>> values;
  for (const RunRecord* run : runs) {
    for (const auto& [name, value] : run->*facts) {
      std::vector<std::string>& seen = values[name];
      if (seen.empty()) names.push_back(name);
      const bool is_new = std::find(seen.begin(), seen.end(), value) == seen.end();
      if (is_new && seen.size() <= kMostValuesOfFact) seen.push_back(value);
    }
  }
  Facts merged;
  for (const std::string& name : names) {
    std::vector<std::string>& seen = values[name];
    if (seen.size() > kMostValuesOfFact) seen.back() = "...";
    merged.emplace_back(name, absl::StrJoin(seen, ", "));
  }
  return merged;
}

std::vector<ChartFindings> FindingsOf(const ExperimentResults& results) {
  std::vector<ChartFindings> all;
  for (const Chart& chart : results.experiment.charts) all.push_back(FindingsOfChart(results, chart));
  return all;
}

std::vector<Finding> FindingsOfRuns(const ExperimentResults& results) {
  const size_t ok = results.Count(Outcome::kOk), killed = results.Count(Outcome::kKilled);
  if (results.runs.empty()) return {{Finding::Tone::kUnknown, "No run has ended yet."}};
  if (ok == results.runs.size()) {
    return {{Finding::Tone::kPlain,
             absl::StrCat(ok == 1 ? "The one run" : absl::StrCat("All ", ok, " runs"), " ended well.")}};
  }
  std::vector<Finding> findings = {
      {Finding::Tone::kTrouble,
       absl::StrCat("Of ", Plural(results.runs.size(), "run"), ", ", ok, " ended well, ", killed,
                    killed == 1 ? " was" : " were", " killed and ", results.Count(Outcome::kFailed), " failed.")}};
  std::map<std::pair<Outcome, std::string>, std::vector<std::string>> causes;
  for (const RunRecord& run : results.runs) {
    if (run.outcome != Outcome::kOk) causes[{run.outcome, run.reason}].push_back(run.name);
  }
  size_t told = 0;
  for (const auto& [cause, names] : causes) {
    if (told++ == kMostCauses) {
      findings.push_back(
          {Finding::Tone::kTrouble, absl::StrCat("There are ", Plural(causes.size() - kMostCauses, "other reason"),
                                                 ": the table of runs has them.")});
      break;
    }
    const std::string others = names.size() > 1 ? absl::StrCat(" and ", Plural(names.size() - 1, "other run")) : "";
    const std::string why = cause.second.empty() ? "No reason is given" : cause.second;
    const char* const verb = cause.first == Outcome::kFailed ? "" : names.size() > 1 ? "were " : "was ";
    findings.push_back({Finding::Tone::kTrouble, absl::StrCat("\u201c", names[0], "\u201d", others, " ", verb,
                                                              EndOf(cause.first), ": ", Sentence(why))});
  }
  return findings;
}

}  // namespace quire::results
