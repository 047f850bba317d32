#include "vmm/results/page.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "vmm/results/html.h"
#include "vmm/results/page_assets.h"
#include "vmm/results/page_data.h"
#include "vmm/results/page_tables.h"
#include "vmm/text.h"

namespace quire::results {
namespace {

// More runs, or more that is left out, would make the page slow and nobody would read it.
constexpr size_t kMostRunsListed = 2000;
constexpr size_t kWidthOfVerdict = 100;

std::string Text(absl::Span<const std::byte> bytes) {
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

const char* Class(Finding::Tone tone) {
  switch (tone) {
    case Finding::Tone::kBetter:
      return "better";
    case Finding::Tone::kWorse:
      return "worse";
    case Finding::Tone::kSame:
      return "same";
    case Finding::Tone::kUnknown:
      return "unknown";
    case Finding::Tone::kTrouble:
      return "trouble";
    case Finding::Tone::kPlain:
      return "plain";
  }
  return "";
}

// A number stays with its unit.
std::string Unbroken(const std::string& text) {
  return absl::StrReplaceAll(text, {{" %", "\u00a0%"},
                                    {" \u00b5s", "\u00a0\u00b5s"},
                                    {" ms", "\u00a0ms"},
                                    {" KiB", "\u00a0KiB"},
                                    {" MiB", "\u00a0MiB"},
                                    {" GiB", "\u00a0GiB"}});
}

std::string FindingsList(const std::vector<Finding>& findings) {
  if (findings.empty()) return "";
  std::string html = "<ul class=\"findings\">\n";
  for (const Finding& finding : findings) {
    absl::StrAppend(&html, "<li class=\"", Class(finding.tone), "\">", EscapeHtml(Unbroken(finding.text)), "</li>\n");
  }
  return html + "</ul>\n";
}

std::string Paragraph(absl::string_view name, absl::string_view text) {
  return text.empty() ? "" : absl::StrCat("<p class=\"", name, "\">", EscapeHtml(text), "</p>\n");
}

std::string Details(absl::string_view summary, absl::string_view inside, bool open = false) {
  return absl::StrCat("<details", open ? " open" : "", "><summary>", EscapeHtml(summary), "</summary>\n", inside,
                      "</details>\n");
}

// ---------------------------------------------------------------------------------------------------------------------
// A chart
// ---------------------------------------------------------------------------------------------------------------------

std::string LegendItem(absl::string_view color, absl::string_view shape, absl::string_view text) {
  return absl::StrCat("<li class=\"", color, "\"><span class=\"swatch ", shape, "\"></span>", EscapeHtml(text),
                      "</li>");
}

template <class Series>
std::string LegendOfSeries(const std::vector<Series>& series, absl::string_view shape) {
  if (series.size() == 1 && series[0].name.empty()) return "";
  std::string html = "<ul class=\"legend\">";
  for (size_t i = 0; i < series.size(); ++i) {
    absl::StrAppend(&html, LegendItem(SeriesClass(i), shape, series[i].name));
  }
  return html + "</ul>\n";
}

bool DrawnAsBars(const ValuesFigure& figure) { return !figure.numeric || figure.xs.size() == 1; }

std::string Legend(const ValuesFigure& figure) {
  return absl::StrCat(
      LegendOfSeries(figure.series, DrawnAsBars(figure) ? "" : "line"),
      Paragraph("unit", absl::StrCat(figure.measure.name,
                                     figure.higher_is_better ? ": higher is better" : ": lower is better")));
}

std::string Legend(const MemoryFigure&) {
  std::string html = "<ul class=\"legend\">";
  for (const char* kind : {"resident", "shared", "compressed", "other", "free"}) {
    absl::StrAppend(&html, LegendItem(kind, kind, kind));
  }
  return absl::StrCat(html, "</ul>\n", Paragraph("unit", "memory in use, stacked"));
}

std::string Legend(const CoverageFigure& figure) {
  return LegendOfSeries(figure.series, "line") + Paragraph("unit", "share of guests' memory in use, mapped by 2 MiB");
}

std::string Legend(const LatencyFigure& figure) {
  return LegendOfSeries(figure.series, "line") +
         Paragraph("unit", absl::StrCat("share of ", figure.of_faults ? "faults" : "operations",
                                        ": lower and further left is better"));
}

template <class Is>
bool AnyPlace(const ValuesFigure& figure, Is is) {
  return std::any_of(figure.series.begin(), figure.series.end(), [&](const ValuesFigure::Series& series) {
    return std::any_of(series.places.begin(), series.places.end(), is);
  });
}

std::string Caption(const ValuesFigure& figure) {
  const bool intervals =
      AnyPlace(figure, [](const Place& place) { return place.estimate && place.estimate->confidence; });
  const bool crosses =
      AnyPlace(figure, [](const Place& place) { return !place.estimate && place.killed + place.failed > 0; });
  return absl::StrCat(DrawnAsBars(figure) ? "Bars" : "Large marks", " are means",
                      intervals ? ", whiskers their 95 % confidence intervals" : "", ", small dots single runs.",
                      crosses ? " A cross: no run ended well." : "");
}

std::string Caption(const MemoryFigure& figure) {
  const std::string thinned = figure.every > 1 ? absl::StrCat("; one sample in ", figure.every, " is drawn") : "";
  return absl::StrCat("Of the run \u201c", figure.run, "\u201d, the first repetition that ended well", thinned, ".");
}

std::string Caption(const CoverageFigure& figure) {
  const std::string runs = absl::StrJoin(figure.series, ", ", [](std::string* out, const auto& series) {
    absl::StrAppend(out, "\u201c", series.run, "\u201d");
  });
  return absl::StrCat("Of ", figure.series.size() == 1 ? "the run " : "the runs ", runs,
                      figure.series.size() == 1 ? ", the first repetition" : ", the first repetitions",
                      " that ended well.");
}

std::string Caption(const LatencyFigure&) {
  return "Of all runs that ended well together. Marks are the median and the 99th percentile.";
}

std::string FigureHtml(const Panel& panel, const std::string& place) {
  const std::string caption = std::visit([](const auto& figure) { return Caption(figure); }, panel.figure);
  const std::string title = panel.title.empty() ? "" : absl::StrCat("<h3>", EscapeHtml(panel.title), "</h3>\n");
  return absl::StrCat("<figure ", place, ">\n", title, "<div class=\"plot\"></div>\n<figcaption>", EscapeHtml(caption),
                      "</figcaption>\n", FindingsList(panel.findings), "</figure>\n");
}

const char* ColumnsClass(size_t panels) { return panels == 1 ? "" : panels == 3 ? " many three" : " many"; }

std::string ChartHtml(const ChartFindings& chart, size_t number) {
  std::string figures, tables;
  for (size_t i = 0; i < chart.panels.size(); ++i) {
    const Panel& panel = chart.panels[i];
    const std::string place = absl::StrCat("data-chart=\"", number, "\" data-panel=\"", i, "\"");
    absl::StrAppend(&figures, FigureHtml(panel, place));
    absl::StrAppend(&tables, TablesHtml(panel, place));
  }
  std::string html = absl::StrCat("<section class=\"chart\" id=\"chart-", number + 1, "\">\n<h2>",
                                  EscapeHtml(chart.chart.title), "</h2>\n");
  if (!figures.empty()) {
    // All panels have the same series.
    absl::StrAppend(&html, std::visit([](const auto& figure) { return Legend(figure); }, chart.panels[0].figure),
                    "<div class=\"panels", ColumnsClass(chart.panels.size()), "\">\n", figures, "</div>\n");
  }
  for (const std::string& note : chart.notes) absl::StrAppend(&html, Paragraph("note", note));
  if (!tables.empty()) absl::StrAppend(&html, Details("The numbers", tables));
  if (!chart.settings.empty()) absl::StrAppend(&html, Details("Settings of these runs", FactsTable(chart.settings)));
  return html + "</section>\n";
}

// ---------------------------------------------------------------------------------------------------------------------
// Before and after the charts
// ---------------------------------------------------------------------------------------------------------------------

std::string VerdictHtml(const ExperimentResults& results, const std::vector<ChartFindings>& charts) {
  std::string html = "<section class=\"verdict\">\n<h2>What came out</h2>\n";
  for (size_t i = 0; i < charts.size(); ++i) {
    if (charts[i].summary.empty()) continue;
    absl::StrAppend(&html, "<div class=\"row\"><h3><a href=\"#chart-", i + 1, "\">", EscapeHtml(charts[i].chart.title),
                    "</a></h3>\n", FindingsList(charts[i].summary), "</div>\n");
  }
  return absl::StrCat(html, "<div class=\"row\"><h3>The runs</h3>\n", FindingsList(FindingsOfRuns(results)),
                      "</div>\n</section>\n");
}

std::string HeaderHtml(const ExperimentResults& results, const std::vector<ChartFindings>& charts) {
  const Experiment& experiment = results.experiment;
  std::string html = absl::StrCat("<header>\n<p class=\"eyebrow\">Quire experiment: <b>", EscapeHtml(experiment.name),
                                  "</b></p>\n<h1>",
                                  EscapeHtml(experiment.asks.empty() ? experiment.name : experiment.asks), "</h1>\n");
  if (experiment.quick) {
    absl::StrAppend(&html, Paragraph("banner",
                                     "A quick version of the experiment, with fewer and shorter runs: to see "
                                     "that it works, not to go by its numbers."));
  }
  return absl::StrCat(html, VerdictHtml(results, charts), Paragraph("about", experiment.about), "</header>\n");
}

std::vector<std::string> WhatIsMissing(const ExperimentResults& results) {
  std::vector<std::string> sentences = results.damaged;
  for (const LeftOut& left_out : results.left_out) {
    const std::string example =
        left_out.example.empty() ? "" : absl::StrCat(", the run \u201c", left_out.example, "\u201d");
    const std::string subject = left_out.whole_run ? "Left out was" : "Left out in part was";
    sentences.push_back(absl::StrCat(subject, " what ", left_out.why, ": ", Plural(left_out.lines, "time"),
                                     ", first in line ", left_out.first_line, " of results.jsonl", example, "."));
  }
  if (results.made_again > 0) {
    sentences.push_back(absl::StrCat(Plural(results.made_again, "line"),
                                     " of results.jsonl is of a run that a later line has too: the last counts."));
  }
  if (results.torn) sentences.push_back("The last line of results.jsonl is unfinished, and ignored.");
  return sentences;
}

std::string MissingHtml(const ExperimentResults& results) {
  const std::vector<std::string> sentences = WhatIsMissing(results);
  if (sentences.empty()) return "<p>Nothing was left out.</p>\n";
  std::string html = "<ul class=\"findings\">\n";
  for (const std::string& sentence : sentences) {
    absl::StrAppend(&html, "<li class=\"trouble\">", EscapeHtml(sentence), "</li>\n");
  }
  return html + "</ul>\n";
}

std::string MeasuredHtml(const ExperimentResults& results) {
  std::vector<const RunRecord*> runs;
  for (const RunRecord& run : results.runs) runs.push_back(&run);
  const std::string repetitions =
      results.experiment.repetitions > 0
          ? absl::StrCat(", ", Plural(results.experiment.repetitions, "repetition"), " of each setting asked for")
          : "";
  std::string html =
      absl::StrCat("<section class=\"measured\">\n<h2>How it was measured</h2>\n<p>",
                   EscapeHtml(absl::StrCat(Plural(runs.size(), "run"), repetitions, "; quire ", VersionsOf(runs), ".")),
                   "</p>\n", MissingHtml(results));
  const Facts host = MergedFacts(runs, &RunRecord::host);
  if (!host.empty()) absl::StrAppend(&html, Details("The host", FactsTable(host)));
  absl::StrAppend(&html, Details("The runs", RunsTable(results.runs, kMostRunsListed)));
  if (!results.experiment.file.empty()) {
    absl::StrAppend(&html, Details("The experiment\u2019s file",
                                   absl::StrCat("<pre>", EscapeHtml(results.experiment.file), "</pre>\n")));
  }
  return html + "</section>\n";
}

// A comment ends at "-->", which the licence does not hold.
std::string Head(const Experiment& experiment) {
  return absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n",
      // Nothing is fetched, whatever might get onto the page.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
      "script-src 'unsafe-inline'\">\n",
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>", EscapeHtml(experiment.name),
      " \u2013 Quire</title>\n<!-- The charts are drawn by uPlot:\n\n", Text(UplotLicence()), "-->\n<style>\n",
      Text(UplotStyle()), "\n", Text(PageStyle()), "</style>\n</head>\n");
}

}  // namespace

std::string Page(const ExperimentResults& results, const std::vector<ChartFindings>& charts) {
  std::string html =
      absl::StrCat(Head(results.experiment), "<body>\n", HeaderHtml(results, charts), "<main>\n",
                   "<noscript><p>The charts need JavaScript; the numbers are in the tables.</p></noscript>\n");
  for (size_t i = 0; i < charts.size(); ++i) absl::StrAppend(&html, ChartHtml(charts[i], i));
  return absl::StrCat(html, MeasuredHtml(results), "</main>\n",
                      "<footer>Made by <code>quire report</code>. Charts by uPlot 1.6.32.</footer>\n",
                      "<script type=\"application/json\" id=\"data\">", EscapeJsonInHtml(PageData(charts)),
                      "</script>\n<script>\n", Text(UplotScript()), "\n</script>\n<script>\n", Text(PageScript()),
                      "</script>\n</body>\n</html>\n");
}

std::string PageVerdict(const ExperimentResults& results, const std::vector<ChartFindings>& charts) {
  const auto append = [](std::string& text, const std::vector<Finding>& findings) {
    for (const Finding& finding : findings) absl::StrAppend(&text, "  ", Wrap(finding.text, kWidthOfVerdict, 2), "\n");
  };
  std::string text;
  for (const ChartFindings& chart : charts) {
    if (chart.summary.empty()) continue;
    absl::StrAppend(&text, chart.chart.title, "\n");
    append(text, chart.summary);
  }
  absl::StrAppend(&text, "Runs\n");
  append(text, FindingsOfRuns(results));
  for (const std::string& sentence : WhatIsMissing(results)) append(text, {{Finding::Tone::kTrouble, sentence}});
  return text;
}

absl::StatusOr<ExperimentReport> ReportOf(const std::string& dir) {
  const absl::StatusOr<ExperimentResults> results = ReadResults(dir);
  if (!results.ok()) return results.status();
  const std::vector<ChartFindings> charts = FindingsOf(*results);
  return ExperimentReport{Page(*results, charts), PageVerdict(*results, charts)};
}

}  // namespace quire::results
