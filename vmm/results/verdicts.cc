#include "vmm/results/verdicts.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/substitute.h"
#include "vmm/text.h"

namespace quire::results {
namespace {

using Tone = Finding::Tone;

// Lists of more places than that are not read.
constexpr size_t kMostPlacesNamed = 6;

// ---------------------------------------------------------------------------------------------------------------------
// Words
// ---------------------------------------------------------------------------------------------------------------------

std::string Capitalized(std::string text) {
  if (!text.empty()) text[0] = absl::ascii_toupper(static_cast<unsigned char>(text[0]));
  return text;
}

// "At overcommit 2, ", "With workload scan, " or, where there is one place, nothing.
std::string AtPlace(const ValuesFigure& figure, size_t i) {
  if (figure.x_name.empty()) return "";
  return absl::StrCat(figure.numeric ? "At " : "With ", figure.x_name, " ", ToText(figure.xs[i]), ", ");
}

std::string NameOf(const ValuesFigure::Series& series) { return series.name.empty() ? "the experiment" : series.name; }

// How much less a ratio below 1 is: "41".
std::string Percent(double ratio) {
  const double percent = (1 - ratio) * 100;
  return percent < 10 || percent > 99 ? absl::StrFormat("%.2g", percent) : absl::StrFormat("%.0f", percent);
}

std::string Range(const std::string& low, const std::string& high) {
  return low == high ? low : absl::StrCat(low, " to ", high);
}

std::string Confidence(const Interval& bounds, size_t pairs) {
  return absl::StrCat(" (95 % confidence: ", Range(FormatRatio(bounds.low), FormatRatio(bounds.high)), ", ",
                      Plural(pairs, "pair"), ")");
}

std::string ConfidenceOfLess(const Interval& bounds, size_t pairs) {
  return absl::StrCat(" (95 % confidence: ", Range(Percent(bounds.high), Percent(bounds.low)), " %, ",
                      Plural(pairs, "pair"), ")");
}

std::string ConfidenceOfShare(const Estimate& estimate) {
  if (!estimate.confidence) return " (one run)";
  return absl::StrFormat(" (95 %% confidence: %.0f to %.0f %%, %s)", std::max(0.0, estimate.confidence->low) * 100,
                         std::min(1.0, estimate.confidence->high) * 100, Plural(estimate.values.size(), "run"));
}

// ---------------------------------------------------------------------------------------------------------------------
// Two that are compared
// ---------------------------------------------------------------------------------------------------------------------

const ValuesFigure::Series& First(const ValuesFigure& figure) { return figure.series[figure.compared->first]; }
const ValuesFigure::Series& Second(const ValuesFigure& figure) { return figure.series[figure.compared->second]; }

// Why a place has nothing to compare: "kernel was killed in all 5 of its runs".
std::string WhyNone(const ValuesFigure::Series& series, size_t i) {
  const Place& place = series.places[i];
  if (place.runs == 0) return absl::StrCat(NameOf(series), " has no run yet");
  const std::string all = place.runs == 1 ? "its one run" : absl::StrCat("all ", place.runs, " of its runs");
  if (place.killed == place.runs) return absl::StrCat(NameOf(series), " was killed in ", all);
  if (place.failed == place.runs) return absl::StrCat(NameOf(series), " failed in ", all);
  if (place.lacking == place.runs) return absl::StrCat(NameOf(series), " does not have this value");
  return absl::StrCat("none of the runs of ", NameOf(series), " ended well with this value");
}

Finding OneSided(const ValuesFigure& figure, size_t i) {
  const bool first = First(figure).places[i].estimate.has_value();
  const bool second = Second(figure).places[i].estimate.has_value();
  const std::string at = AtPlace(figure, i);
  if (!first && !second) {
    return {Tone::kUnknown, Capitalized(absl::StrCat(at, "there is nothing to compare: ", WhyNone(First(figure), i),
                                                     ", and ", WhyNone(Second(figure), i), "."))};
  }
  const ValuesFigure::Series& there = first ? First(figure) : Second(figure);
  const ValuesFigure::Series& lacks = first ? Second(figure) : First(figure);
  const Place& missing = lacks.places[i];
  const bool ended_badly = missing.runs > 0 && missing.killed + missing.failed == missing.runs;
  const Tone tone = !ended_badly ? Tone::kUnknown : first ? Tone::kBetter : Tone::kWorse;
  return {tone,
          Capitalized(absl::StrCat(at, ended_badly ? "only " : "there are values of ", NameOf(there),
                                   ended_badly ? " has runs that ended well: " : " only: ", WhyNone(lacks, i), "."))};
}

Finding TooFew(const ValuesFigure& figure, size_t i) {
  const Comparison& comparison = figure.comparisons[i];
  const std::string there = comparison.pairs == 0
                                ? "there is none"
                                : absl::StrCat("there is one (ratio ", FormatRatio(comparison.ratio), ")");
  return {Tone::kUnknown,
          Capitalized(absl::StrCat(AtPlace(figure, i), "nothing can be said about ", NameOf(First(figure)), " against ",
                                   NameOf(Second(figure)), ": it takes two pairs of runs with values above 0, and ",
                                   there, "."))};
}

Finding ComparisonAt(const ValuesFigure& figure, size_t i) {
  const Comparison& comparison = figure.comparisons[i];
  const std::string at = AtPlace(figure, i);
  const std::string first = NameOf(First(figure)), second = NameOf(Second(figure));
  if (!First(figure).places[i].estimate || !Second(figure).places[i].estimate) return OneSided(figure, i);
  if (!comparison.confidence) return TooFew(figure, i);
  if (!comparison.differs()) {
    return {Tone::kSame, Capitalized(absl::StrCat(at, first, " and ", second, " cannot be told apart in ",
                                                  figure.measure.name, ": the ratio is ", FormatRatio(comparison.ratio),
                                                  Confidence(*comparison.confidence, comparison.pairs), "."))};
  }
  const bool more = comparison.ratio > 1;
  const Tone tone = more == figure.higher_is_better ? Tone::kBetter : Tone::kWorse;
  const std::string how = more ? absl::Substitute(figure.measure.more, FormatRatio(comparison.ratio))
                               : absl::Substitute(figure.measure.less, Percent(comparison.ratio));
  const std::string sure = more ? Confidence(*comparison.confidence, comparison.pairs)
                                : ConfidenceOfLess(*comparison.confidence, comparison.pairs);
  return {tone, absl::StrCat(at, first, " ", how, " ", second, sure, ".")};
}

// ---------------------------------------------------------------------------------------------------------------------
// Runs that did not end well
// ---------------------------------------------------------------------------------------------------------------------

std::string HowOften(size_t times, size_t runs) {
  return runs == 1 ? "in its one run" : absl::StrCat("in ", times, " of ", runs, " runs");
}

void AddTroubles(const ValuesFigure& figure, const ValuesFigure::Series& series, size_t i, std::vector<Finding>& all) {
  const Place& place = series.places[i];
  std::vector<std::string> what;
  if (place.killed > 0) what.push_back(absl::StrCat("was killed ", HowOften(place.killed, place.runs)));
  if (place.failed > 0) what.push_back(absl::StrCat("failed ", HowOften(place.failed, place.runs)));
  if (place.lacking > 0) what.push_back(absl::StrCat("lacks the value ", HowOften(place.lacking, place.runs)));
  if (what.empty()) return;
  const std::string why = place.reason.empty() ? "." : absl::StrCat(": ", Sentence(place.reason));
  all.push_back(
      {Tone::kTrouble, Capitalized(absl::StrCat(AtPlace(figure, i), NameOf(series), " ", JoinWords(what), why))});
}

// ---------------------------------------------------------------------------------------------------------------------
// The summary of values
// ---------------------------------------------------------------------------------------------------------------------

// Places of all panels at which a comparison came out the same way.
struct Group {
  struct InPanel {
    const Panel* panel;
    std::vector<size_t> places;
  };
  std::vector<InPanel> panels = {};
  std::vector<double> ratios = {};
  size_t places = 0;

  void Add(const Panel& panel, size_t i) {
    if (panels.empty() || panels.back().panel != &panel) panels.push_back({&panel, {}});
    panels.back().places.push_back(i);
    ratios.push_back(std::get<ValuesFigure>(panel.figure).comparisons[i].ratio);
    ++places;
  }
  double least() const { return *std::min_element(ratios.begin(), ratios.end()); }
  double most() const { return *std::max_element(ratios.begin(), ratios.end()); }
};

// "at every overcommit, ".
std::string Everywhere(const Group& group, size_t all_places) {
  const std::string& x = std::get<ValuesFigure>(group.panels[0].panel->figure).x_name;
  if (group.panels.size() == 1 && !x.empty()) return absl::StrCat("at every ", x, ", ");
  return absl::StrCat("at all ", all_places, " places, ");
}

// "at overcommit 1.5 and 2, "; nothing if there is one place in all.
std::string Where(const Group& group, size_t all_places) {
  if (all_places == 1) return "";
  if (group.places == all_places) return Everywhere(group, all_places);
  if (group.places > kMostPlacesNamed) return absl::StrCat("at ", group.places, " of ", all_places, " places, ");
  std::vector<std::string> parts;
  for (const Group::InPanel& in_panel : group.panels) {
    const ValuesFigure& figure = std::get<ValuesFigure>(in_panel.panel->figure);
    std::vector<std::string> xs;
    if (!figure.x_name.empty()) {
      for (const size_t i : in_panel.places) xs.push_back(ToText(figure.xs[i]));
    }
    const std::string at = xs.empty() ? "" : absl::StrCat(figure.x_name, " ", JoinWords(xs));
    const std::string& title = in_panel.panel->title;
    parts.push_back(title.empty() ? at : at.empty() ? title : absl::StrCat(at, " (", title, ")"));
  }
  return absl::StrCat("at ", JoinWords(parts), ", ");
}

struct Groups {
  Group more, less, same, only_first, only_second, unknown;
  size_t places = 0;
};

Groups Sort(const std::vector<Panel>& panels) {
  Groups groups;
  for (const Panel& panel : panels) {
    const ValuesFigure& figure = std::get<ValuesFigure>(panel.figure);
    for (size_t i = 0; i < figure.comparisons.size(); ++i) {
      const Comparison& comparison = figure.comparisons[i];
      const Tone tone = ComparisonAt(figure, i).tone;
      const bool both = First(figure).places[i].estimate && Second(figure).places[i].estimate;
      Group& group = both && comparison.differs()     ? comparison.ratio > 1 ? groups.more : groups.less
                     : tone == Tone::kSame            ? groups.same
                     : !both && tone == Tone::kBetter ? groups.only_first
                     : !both && tone == Tone::kWorse  ? groups.only_second
                                                      : groups.unknown;
      group.Add(panel, i);
      ++groups.places;
    }
  }
  return groups;
}

void AddClause(const Group& group, size_t all_places, Tone tone, absl::string_view clause,
               std::vector<Finding>& findings) {
  if (group.places == 0) return;
  findings.push_back({tone, absl::StrCat(Capitalized(absl::StrCat(Where(group, all_places), clause)), ".")});
}

std::vector<Finding> SummaryOfComparisons(const std::vector<Panel>& panels) {
  const ValuesFigure& figure = std::get<ValuesFigure>(panels[0].figure);
  const std::string first = NameOf(First(figure)), second = NameOf(Second(figure));
  const Groups groups = Sort(panels);
  const Tone if_more = figure.higher_is_better ? Tone::kBetter : Tone::kWorse;
  const Tone if_less = figure.higher_is_better ? Tone::kWorse : Tone::kBetter;
  std::vector<Finding> findings;
  if (groups.more.places > 0) {
    const std::string times = Range(FormatRatio(groups.more.least()), FormatRatio(groups.more.most()));
    AddClause(groups.more, groups.places, if_more,
              absl::StrCat(first, " ", absl::Substitute(figure.measure.more, times), " ", second), findings);
  }
  if (groups.less.places > 0) {
    const std::string percent = Range(Percent(groups.less.most()), Percent(groups.less.least()));
    AddClause(groups.less, groups.places, if_less,
              absl::StrCat(first, " ", absl::Substitute(figure.measure.less, percent), " ", second), findings);
  }
  AddClause(groups.only_first, groups.places, Tone::kBetter, absl::StrCat("only ", first, " has runs that ended well"),
            findings);
  AddClause(groups.only_second, groups.places, Tone::kWorse, absl::StrCat("only ", second, " has runs that ended well"),
            findings);
  AddClause(groups.same, groups.places, Tone::kSame,
            absl::StrCat(first, " and ", second, " cannot be told apart in ", figure.measure.name), findings);
  AddClause(groups.unknown, groups.places, Tone::kUnknown,
            absl::StrCat("nothing can be said about ", first, " against ", second, " in ", figure.measure.name),
            findings);
  return findings;
}

// From the first to the last place that has a value; where the places are words, all of them.
std::string Course(const ValuesFigure& figure, const ValuesFigure::Series& series) {
  std::vector<std::string> there;
  for (size_t i = 0; i < series.places.size(); ++i) {
    if (!series.places[i].estimate) continue;
    const std::string median = Format(series.places[i].estimate->median, figure.measure.unit);
    const std::string at = figure.numeric          ? absl::StrCat("at ", figure.x_name, " ", ToText(figure.xs[i]))
                           : figure.x_name.empty() ? ""
                                                   : absl::StrCat("with ", ToText(figure.xs[i]));
    there.push_back(at.empty() ? median : absl::StrCat(median, " ", at));
  }
  if (figure.numeric && there.size() > 2) there.erase(there.begin() + 1, there.end() - 1);
  if (there.size() > kMostPlacesNamed) there.resize(kMostPlacesNamed);
  const std::string course = JoinWords(there);
  return course.empty() || series.name.empty() ? course : absl::StrCat(series.name, ": ", course);
}

std::vector<Finding> SummaryOfCourses(const std::vector<Panel>& panels) {
  std::vector<Finding> findings;
  for (const Panel& panel : panels) {
    const ValuesFigure& figure = std::get<ValuesFigure>(panel.figure);
    std::vector<std::string> courses;
    for (const ValuesFigure::Series& series : figure.series) {
      if (std::string course = Course(figure, series); !course.empty()) courses.push_back(course);
    }
    if (courses.empty()) continue;
    const std::string title = panel.title.empty() ? "" : absl::StrCat(" (", panel.title, ")");
    findings.push_back({Tone::kPlain, absl::StrCat(Capitalized(figure.measure.name), title,
                                                   ", median: ", absl::StrJoin(courses, "; "), ".")});
    if (findings.size() == kMostPlacesNamed) break;
  }
  return findings;
}

// "with quire", or nothing for the only series.
std::string With(const std::string& name) { return name.empty() ? "" : absl::StrCat(" with ", name); }

std::string OrBeyond(const std::optional<double>& quantile, const LatencyHistogram& histogram) {
  if (quantile) return Format(*quantile, Unit::kMicroseconds);
  return absl::StrCat("more than ", Format(histogram.us.back(), Unit::kMicroseconds));
}

std::string MostUsed(const MemoryFigure& figure) {
  const std::string used = Format(figure.most_used, Unit::kBytes);
  return figure.limit > 0 ? absl::StrCat(used, " of ", Format(figure.limit, Unit::kBytes)) : used;
}

// The same for all panels is said once.
std::vector<Finding> SummaryOfMemory(const std::vector<Panel>& panels) {
  std::vector<std::string> parts;
  bool same = true;
  const std::string first = MostUsed(std::get<MemoryFigure>(panels[0].figure));
  for (const Panel& panel : panels) {
    const std::string used = MostUsed(std::get<MemoryFigure>(panel.figure));
    same = same && used == first;
    parts.push_back(panel.title.empty() ? used : absl::StrCat(used, " (", panel.title, ")"));
  }
  if (parts.size() > kMostPlacesNamed) parts.resize(kMostPlacesNamed);
  const std::string all = same ? absl::StrCat(first, panels.size() > 1 ? " each" : "") : JoinWords(parts);
  return {{Tone::kPlain, absl::StrCat("In use at most: ", all, ".")}};
}

std::vector<Finding> AllOfEach(const std::vector<Panel>& panels) {
  std::vector<Finding> findings;
  for (const Panel& panel : panels) {
    for (Finding finding : panel.findings) {
      if (findings.size() == kMostPlacesNamed) return findings;
      if (!panel.title.empty()) finding.text = absl::StrCat(Capitalized(panel.title), ": ", finding.text);
      findings.push_back(std::move(finding));
    }
  }
  return findings;
}

}  // namespace

std::string JoinWords(const std::vector<std::string>& words) {
  if (words.empty()) return "";
  const std::string most = absl::StrJoin(words.begin(), words.end() - 1, ", ");
  return most.empty() ? words.back() : absl::StrCat(most, " and ", words.back());
}

std::vector<Finding> VerdictsOf(const ValuesFigure& figure) {
  std::vector<Finding> findings;
  for (size_t i = 0; i < figure.comparisons.size(); ++i) findings.push_back(ComparisonAt(figure, i));
  for (size_t i = 0; i < figure.xs.size(); ++i) {
    for (const ValuesFigure::Series& series : figure.series) AddTroubles(figure, series, i, findings);
  }
  return findings;
}

std::vector<Finding> VerdictsOf(const MemoryFigure& figure) {
  const std::string of = figure.limit > 0 ? absl::StrCat(" of ", Format(figure.limit, Unit::kBytes)) : "";
  const std::string compressed =
      figure.most_compressed > 0
          ? absl::StrCat("; compressed pages took ", Format(figure.most_compressed, Unit::kBytes), " at most")
          : "";
  return {{Tone::kPlain,
           absl::StrCat("At most ", Format(figure.most_used, Unit::kBytes), of, " were in use", compressed, ".")}};
}

std::vector<Finding> VerdictsOf(const CoverageFigure& figure) {
  std::vector<std::string> shares;
  for (const CoverageFigure::Series& series : figure.series) {
    if (!series.estimate) continue;
    shares.push_back(absl::StrCat(absl::StrFormat("%.0f %%", series.estimate->mean * 100), With(series.name),
                                  ConfidenceOfShare(*series.estimate)));
  }
  if (shares.empty()) return {};
  return {{Tone::kPlain, absl::StrCat("Of guests' memory in use is mapped by 2 MiB: ", JoinWords(shares), ".")}};
}

std::vector<Finding> VerdictsOf(const LatencyFigure& figure) {
  std::vector<std::string> tails, medians;
  for (const LatencyFigure::Series& series : figure.series) {
    tails.push_back(absl::StrCat(OrBeyond(series.p99, series.histogram), With(series.name)));
    medians.push_back(absl::StrCat(OrBeyond(series.p50, series.histogram), With(series.name)));
  }
  const char* const what = figure.of_faults ? "fault" : "operation";
  std::vector<Finding> findings = {
      {Tone::kPlain, absl::StrCat("One ", what, " in a hundred takes ", JoinWords(tails),
                                  " or longer; the median takes ", JoinWords(medians), ".")}};
  for (const LatencyFigure::Series& series : figure.series) {
    if (series.other_bounds == 0) continue;
    findings.push_back(
        {Tone::kTrouble, Capitalized(absl::StrCat(series.name.empty() ? "" : absl::StrCat(series.name, ": "),
                                                  Plural(series.other_bounds, "run"),
                                                  " counted by other bounds and cannot be added to the others."))});
  }
  return findings;
}

std::vector<Finding> SummaryOf(const std::vector<Panel>& panels) {
  if (panels.empty()) return {};
  const ValuesFigure* const values = std::get_if<ValuesFigure>(&panels[0].figure);
  if (std::holds_alternative<MemoryFigure>(panels[0].figure)) return SummaryOfMemory(panels);
  if (values == nullptr) return AllOfEach(panels);
  return values->compared ? SummaryOfComparisons(panels) : SummaryOfCourses(panels);
}

}  // namespace quire::results
