#include "vmm/results/page_tables.h"

#include <algorithm>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "vmm/results/html.h"
#include "vmm/text.h"

namespace quire::results {
namespace {

constexpr size_t kColors = 7;  // --s0 to --s6 of the page's style
constexpr size_t kMostVersions = 8;

using Cells = std::vector<std::string>;

// Cells are HTML already, headings are not.
std::string TableHtml(const std::string& attributes, absl::string_view caption, const Cells& headings,
                      const std::vector<Cells>& rows, size_t words) {
  std::string html = absl::StrCat("<div class=\"scroll\"><table ", attributes, ">\n");
  if (!caption.empty()) absl::StrAppend(&html, "<caption>", EscapeHtml(caption), "</caption>\n");
  absl::StrAppend(&html, "<thead><tr>");
  for (size_t i = 0; i < headings.size(); ++i) {
    absl::StrAppend(&html, "<th scope=\"col\"", i < words ? "" : " class=\"n\"", ">", EscapeHtml(headings[i]), "</th>");
  }
  absl::StrAppend(&html, "</tr></thead>\n<tbody>\n");
  for (const Cells& row : rows) absl::StrAppend(&html, "<tr>", absl::StrJoin(row, ""), "</tr>\n");
  return html + "</tbody></table></div>\n";
}

std::string Heading(absl::string_view text) { return absl::StrCat("<th scope=\"row\">", EscapeHtml(text), "</th>"); }

std::string Colored(size_t series, absl::string_view text) {
  return absl::StrCat("<th scope=\"row\"><span class=\"key ", SeriesClass(series), "\"></span>", EscapeHtml(text),
                      "</th>");
}

std::string Words(absl::string_view text) { return absl::StrCat("<td>", EscapeHtml(text), "</td>"); }

// Seventeen digits give back the same number.
std::string Number(absl::string_view key, const std::optional<double>& value, absl::string_view text) {
  if (!value) return absl::StrCat("<td class=\"n\" data-key=\"", key, "\">\u2013</td>");
  return absl::StrCat("<td class=\"n\" data-key=\"", key, "\" data-v=\"", absl::StrFormat("%.17g", *value), "\">",
                      EscapeHtml(text), "</td>");
}

std::string Number(absl::string_view key, const std::optional<double>& value, Unit unit) {
  return Number(key, value, value ? Format(*value, unit) : "");
}

std::string Ratio(absl::string_view key, const std::optional<double>& value) {
  return Number(key, value, value ? absl::StrFormat("%.4g", *value) : "");
}

template <class Member>
std::optional<double> Of(const std::optional<Estimate>& estimate, Member member) {
  return estimate ? std::optional<double>(*estimate.*member) : std::nullopt;
}

std::optional<double> Low(const std::optional<Interval>& interval) {
  return interval ? std::optional<double>(interval->low) : std::nullopt;
}
std::optional<double> High(const std::optional<Interval>& interval) {
  return interval ? std::optional<double>(interval->high) : std::nullopt;
}

std::optional<Interval> ConfidenceOf(const std::optional<Estimate>& estimate) {
  return estimate ? estimate->confidence : std::nullopt;
}

void AddEstimate(const std::optional<Estimate>& estimate, Unit unit, Cells& row) {
  row.push_back(Number("median", Of(estimate, &Estimate::median), unit));
  row.push_back(Number("mean", Of(estimate, &Estimate::mean), unit));
  row.push_back(Number("low", Low(ConfidenceOf(estimate)), unit));
  row.push_back(Number("high", High(ConfidenceOf(estimate)), unit));
  row.push_back(Number("least", Of(estimate, &Estimate::least), unit));
  row.push_back(Number("most", Of(estimate, &Estimate::most), unit));
}

// "5", or "3 of 5".
std::string WellEnded(const Place& place) {
  const size_t used = place.runs - place.killed - place.failed - place.lacking;
  return used == place.runs ? absl::StrCat(used) : absl::StrCat(used, " of ", place.runs);
}

std::string SeriesName(absl::string_view name) { return name.empty() ? "all" : std::string(name); }

// ---------------------------------------------------------------------------------------------------------------------
// Figures
// ---------------------------------------------------------------------------------------------------------------------

std::string ValuesTable(const ValuesFigure& figure, const std::string& caption, const std::string& attributes) {
  std::vector<Cells> rows;
  for (size_t i = 0; i < figure.xs.size(); ++i) {
    for (size_t k = 0; k < figure.series.size(); ++k) {
      const Place& place = figure.series[k].places[i];
      // A single series of bars has a colour for each.
      const size_t color = figure.series.size() == 1 && !figure.numeric ? i : k;
      Cells row = {Heading(figure.x_name.empty() ? "all" : ToText(figure.xs[i])),
                   Colored(color, SeriesName(figure.series[k].name)),
                   Number("runs", static_cast<double>(place.runs), WellEnded(place))};
      AddEstimate(place.estimate, figure.measure.unit, row);
      rows.push_back(std::move(row));
    }
  }
  const std::string x = figure.x_name.empty() ? "place" : figure.x_name;
  return TableHtml(attributes + " data-of=\"values\"", caption,
                   {x, "series", "runs", "median", "mean", "95 % low", "95 % high", "least", "most"}, rows, 2);
}

std::string ComparisonsTable(const ValuesFigure& figure, const std::string& attributes) {
  if (!figure.compared) return "";
  std::vector<Cells> rows;
  for (size_t i = 0; i < figure.comparisons.size(); ++i) {
    const Comparison& comparison = figure.comparisons[i];
    const std::optional<double> ratio = comparison.pairs > 0 ? std::optional<double>(comparison.ratio) : std::nullopt;
    rows.push_back({Heading(figure.x_name.empty() ? "all" : ToText(figure.xs[i])),
                    Number("pairs", static_cast<double>(comparison.pairs), absl::StrCat(comparison.pairs)),
                    Ratio("ratio", ratio), Ratio("low", Low(comparison.confidence)),
                    Ratio("high", High(comparison.confidence))});
  }
  const std::string caption =
      absl::StrCat(figure.series[figure.compared->first].name, " / ", figure.series[figure.compared->second].name,
                   ": geometric mean of the ratios of pairs");
  return TableHtml(attributes + " data-of=\"comparisons\"", caption,
                   {figure.x_name.empty() ? "place" : figure.x_name, "pairs", "ratio", "95 % low", "95 % high"}, rows,
                   1);
}

std::string Tables(const ValuesFigure& figure, const std::string& title, const std::string& attributes) {
  const std::string caption = title.empty() ? figure.measure.name : absl::StrCat(figure.measure.name, ", ", title);
  return ValuesTable(figure, caption, attributes) + ComparisonsTable(figure, attributes);
}

// Least, mean and most of each column: a timeline itself is a picture, not a table.
std::string Tables(const MemoryFigure& figure, const std::string& title, const std::string& attributes) {
  std::vector<Cells> rows;
  for (const char* kind : {"resident", "shared", "compressed", "other", "free"}) {
    const auto found = figure.timeline.columns.find(absl::StrCat(kind, "_bytes"));
    if (found == figure.timeline.columns.end()) continue;
    const std::vector<double>& samples = found->second;
    rows.push_back({Heading(kind), Number("least", *std::min_element(samples.begin(), samples.end()), Unit::kBytes),
                    Number("median", Median(samples), Unit::kBytes),
                    Number("most", *std::max_element(samples.begin(), samples.end()), Unit::kBytes)});
  }
  return TableHtml(attributes + " data-of=\"memory\"", title, {"memory", "least", "median of samples", "most"}, rows,
                   1);
}

std::string Tables(const CoverageFigure& figure, const std::string& title, const std::string& attributes) {
  std::vector<Cells> rows;
  for (size_t k = 0; k < figure.series.size(); ++k) {
    const std::optional<Estimate>& estimate = figure.series[k].estimate;
    const size_t runs = estimate ? estimate->values.size() : 0;
    Cells row = {Colored(k, SeriesName(figure.series[k].name)),
                 Number("runs", static_cast<double>(runs), absl::StrCat(runs))};
    AddEstimate(estimate, Unit::kShare, row);
    rows.push_back(std::move(row));
  }
  return TableHtml(attributes + " data-of=\"coverage\"", title,
                   {"series", "runs", "median", "mean", "95 % low", "95 % high", "least", "most"}, rows, 1);
}

std::string Tables(const LatencyFigure& figure, const std::string& title, const std::string& attributes) {
  std::vector<Cells> rows;
  for (size_t k = 0; k < figure.series.size(); ++k) {
    const LatencyFigure::Series& series = figure.series[k];
    rows.push_back({Colored(k, SeriesName(series.name)),
                    Number("runs", static_cast<double>(series.runs), absl::StrCat(series.runs)),
                    Number("count", series.count, FormatShort(series.count)),
                    Number("p50", series.p50, Unit::kMicroseconds), Number("p90", series.p90, Unit::kMicroseconds),
                    Number("p99", series.p99, Unit::kMicroseconds), Number("p999", series.p999, Unit::kMicroseconds)});
  }
  return TableHtml(attributes + " data-of=\"latency\"", title,
                   {"series", "runs", figure.of_faults ? "faults" : "operations", "p50", "p90", "p99", "p99.9"}, rows,
                   1);
}

const char* Name(Outcome outcome) {
  return outcome == Outcome::kOk ? "ok" : outcome == Outcome::kKilled ? "killed" : "failed";
}

}  // namespace

std::string SeriesClass(size_t series) { return absl::StrCat("c", series % kColors); }

std::string TablesHtml(const Panel& panel, const std::string& attributes) {
  return std::visit([&](const auto& figure) { return Tables(figure, panel.title, attributes); }, panel.figure);
}

std::string FactsTable(const Facts& facts) {
  std::string html = "<div class=\"scroll\"><table class=\"facts\"><tbody>\n";
  for (const auto& [name, value] : facts) {
    absl::StrAppend(&html, "<tr><th scope=\"row\">", EscapeHtml(name), "</th>", Words(value), "</tr>\n");
  }
  return html + "</tbody></table></div>\n";
}

std::string RunsTable(const std::vector<RunRecord>& runs, size_t most) {
  std::vector<Cells> rows;
  for (const RunRecord& run : runs) {
    if (rows.size() == most) break;
    rows.push_back({Heading(run.name), Words(Name(run.outcome)), Words(run.started),
                    absl::StrCat("<td class=\"wide\">", EscapeHtml(run.reason), "</td>"),
                    absl::StrCat("<td class=\"n\">", EscapeHtml(Format(run.wall_seconds, Unit::kSeconds)), "</td>")});
  }
  const std::string more = runs.size() > most ? absl::StrCat("The first ", most, " of ", runs.size(), " runs") : "";
  return TableHtml("data-of=\"runs\"", more, {"run", "outcome", "started", "reason", "took"}, rows, 4);
}

std::string VersionsOf(const std::vector<const RunRecord*>& runs) {
  std::vector<std::string> versions;
  for (const RunRecord* run : runs) {
    const std::string version = run->version.empty() ? "of unknown version" : run->version;
    const bool is_new = std::find(versions.begin(), versions.end(), version) == versions.end();
    if (is_new && versions.size() < kMostVersions) versions.push_back(version);
  }
  return versions.empty() ? "of unknown version" : absl::StrJoin(versions, ", ");
}

}  // namespace quire::results
