#include "vmm/results/findings.h"

#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace quire::results {
namespace {

using Tone = Finding::Tone;

const char* const kEngines[] = {"quire", "kernel"};

// Two engines at overcommit 1 and 2.
Experiment TwoEngines() {
  return {.name = "overcommit",
          .axes = {{"engine", {"quire", "kernel"}}, {"overcommit", {1.0, 2.0}}},
          .repetitions = 5,
          .charts = {{.kind = Chart::Kind::kValues,
                      .title = "Speed",
                      .x = "overcommit",
                      .y = "operations_per_second",
                      .series = "engine",
                      .compare = std::pair<AxisValue, AxisValue>{"quire", "kernel"}}}};
}

RunRecord RunOf(const std::string& engine, double overcommit, uint64_t repetition, double value) {
  return {.name = absl::StrCat(engine, " ", overcommit, " ", repetition),
          .point = {{"engine", engine}, {"overcommit", overcommit}},
          .repetition = repetition,
          .values = {{"operations_per_second", value}}};
}

// Five repetitions, `ratio` times as much for quire, each a little off by `noise`.
void AddPairs(ExperimentResults& results, double overcommit, double ratio, double noise) {
  for (uint64_t repetition = 1; repetition <= 5; ++repetition) {
    const double off = 1 + noise * (static_cast<double>(repetition) - 3);
    const double weather = 1 + 0.3 * static_cast<double>(repetition % 2);
    results.runs.push_back(RunOf("quire", overcommit, repetition, 1000 * ratio * off * weather));
    results.runs.push_back(RunOf("kernel", overcommit, repetition, 1000 * weather));
  }
}

std::vector<std::string> Texts(const std::vector<Finding>& findings) {
  std::vector<std::string> texts;
  for (const Finding& finding : findings) texts.push_back(finding.text);
  return texts;
}

const std::vector<Finding>& OnlyPanel(const std::vector<ChartFindings>& charts) {
  EXPECT_EQ(charts.size(), 1u);
  EXPECT_EQ(charts[0].panels.size(), 1u);
  return charts[0].panels[0].findings;
}

TEST(VerdictTest, SaysHowManyTimesAndHowSure) {
  ExperimentResults results{.experiment = TwoEngines()};
  AddPairs(results, 1, 1, 0.05);
  AddPairs(results, 2, 3.1, 0.01);
  const std::vector<ChartFindings> charts = FindingsOf(results);
  const std::vector<Finding>& findings = OnlyPanel(charts);
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].text,
            "At overcommit 1, quire and kernel cannot be told apart in operations a second: the ratio is 0.9975 (95 % "
            "confidence: 0.90 to 1.10, 5 pairs).");
  EXPECT_EQ(findings[0].tone, Tone::kSame);
  EXPECT_EQ(
      findings[1].text,
      "At overcommit 2, quire does 3.1 times as many operations a second as kernel (95 % confidence: 3.0 to 3.2, 5 "
      "pairs).");
  EXPECT_EQ(findings[1].tone, Tone::kBetter);
  EXPECT_EQ(
      Texts(charts[0].summary),
      (std::vector<std::string>{"At overcommit 2, quire does 3.1 times as many operations a second as kernel.",
                                "At overcommit 1, quire and kernel cannot be told apart in operations a second."}));
}

TEST(VerdictTest, LessIsSaidInPercentAndIsBetterWhereLowerIs) {
  ExperimentResults results{.experiment = TwoEngines()};
  results.experiment.charts[0].higher_is_better = false;
  AddPairs(results, 1, 0.5, 0.01);
  AddPairs(results, 2, 2, 0.01);
  const std::vector<ChartFindings> charts = FindingsOf(results);
  const std::vector<Finding>& findings = OnlyPanel(charts);
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].text,
            "At overcommit 1, quire does 50 % fewer operations a second than kernel (95 % confidence: 49 to 51 %, 5 "
            "pairs).");
  EXPECT_EQ(findings[0].tone, Tone::kBetter);
  EXPECT_EQ(findings[1].tone, Tone::kWorse);
}

TEST(VerdictTest, SaysThatNothingCanBeSaid) {
  ExperimentResults results{.experiment = TwoEngines()};
  results.runs = {RunOf("quire", 1, 1, 20), RunOf("kernel", 1, 1, 10), RunOf("quire", 2, 1, 20)};
  const std::vector<ChartFindings> charts = FindingsOf(results);
  const std::vector<Finding>& findings = OnlyPanel(charts);
  ASSERT_EQ(findings.size(), 2u);
  EXPECT_EQ(findings[0].text,
            "At overcommit 1, nothing can be said about quire against kernel: it takes two pairs of runs with values "
            "above 0, and there is one (ratio 2.0).");
  EXPECT_EQ(findings[0].tone, Tone::kUnknown);
  EXPECT_EQ(findings[1].text, "At overcommit 2, there are values of quire only: kernel has no run yet.");
}

TEST(VerdictTest, SaysWhoWasKilledHowOftenAndWhy) {
  ExperimentResults results{.experiment = TwoEngines()};
  AddPairs(results, 1, 2, 0.01);
  AddPairs(results, 2, 2, 0.01);
  for (RunRecord& run : results.runs) {
    const bool all = run.point["overcommit"] == AxisValue(2.0);
    if (run.point["engine"] != AxisValue("kernel") || (!all && run.repetition > 2)) continue;
    run.outcome = Outcome::kKilled;
    run.reason = "zram was full";
  }
  const std::vector<ChartFindings> charts = FindingsOf(results);
  const std::vector<Finding>& findings = OnlyPanel(charts);
  ASSERT_EQ(findings.size(), 4u);
  EXPECT_TRUE(absl::StrContains(findings[0].text, "3 pairs")) << findings[0].text;
  EXPECT_EQ(findings[1].text,
            "At overcommit 2, only quire has runs that ended well: kernel was killed in all 5 of its runs.");
  EXPECT_EQ(findings[1].tone, Tone::kBetter);
  EXPECT_EQ(findings[2].text, "At overcommit 1, kernel was killed in 2 of 5 runs: zram was full.");
  EXPECT_EQ(findings[2].tone, Tone::kTrouble);
  EXPECT_EQ(findings[3].text, "At overcommit 2, kernel was killed in 5 of 5 runs: zram was full.");
  EXPECT_EQ(Texts(FindingsOfRuns(results)),
            (std::vector<std::string>{"Of 20 runs, 13 ended well, 7 were killed and 0 failed.",
                                      "\u201ckernel 1 1\u201d and 6 other runs were killed: zram was full."}));
}

TEST(FindingsTest, AxesThatAreOnNoOtherPlaceMakePanels) {
  ExperimentResults results{.experiment = TwoEngines()};
  results.experiment.charts[0].series.clear();
  results.experiment.charts[0].compare.reset();
  AddPairs(results, 1, 2, 0.01);
  const std::vector<ChartFindings> charts = FindingsOf(results);
  ASSERT_EQ(charts[0].panels.size(), 2u);
  EXPECT_EQ(charts[0].panels[0].title, "engine quire");
  const ValuesFigure& figure = std::get<ValuesFigure>(charts[0].panels[0].figure);
  EXPECT_EQ(figure.series[0].places[0].repetitions.size(), 5u);
  EXPECT_FALSE(figure.series[0].places[1].estimate.has_value());
}

TEST(FindingsTest, WithoutRunsSayThatThereAreNone) {
  const ExperimentResults results{.experiment = TwoEngines()};
  const std::vector<ChartFindings> charts = FindingsOf(results);
  EXPECT_TRUE(charts[0].panels.empty());
  ASSERT_EQ(charts[0].notes.size(), 1u);
  EXPECT_EQ(FindingsOfRuns(results)[0].text, "No run has ended yet.");
}

TEST(FindingsTest, MemoryIsOfTheFirstRepetitionThatEndedWell) {
  ExperimentResults results{.experiment = TwoEngines()};
  results.experiment.charts = {{.kind = Chart::Kind::kMemory, .title = "Memory", .at = {{"overcommit", 1.0}}}};
  for (const uint64_t repetition : {3, 2, 1}) {
    RunRecord run = RunOf("quire", 1, repetition, 1);
    run.outcome = repetition == 1 ? Outcome::kKilled : Outcome::kOk;
    run.timeline =
        Timeline{{0, 1}, {{"resident_bytes", {100 << 20, 200 << 20}}, {"free_bytes", {156 << 20, 56 << 20}}}};
    results.runs.push_back(run);
  }
  const std::vector<ChartFindings> charts = FindingsOf(results);
  ASSERT_EQ(charts[0].panels.size(), 1u);
  const MemoryFigure& figure = std::get<MemoryFigure>(charts[0].panels[0].figure);
  EXPECT_EQ(figure.run, "quire 1 2");
  EXPECT_EQ(figure.limit, 256 << 20);
  EXPECT_EQ(charts[0].panels[0].findings[0].text, "At most 200 MiB of 256 MiB were in use.");
  EXPECT_EQ(charts[0].notes[0], "No run that ended well has a timeline of memory at engine kernel.");
}

TEST(FindingsTest, ALongTimelineIsThinnedOut) {
  ExperimentResults results{.experiment = TwoEngines()};
  results.experiment.charts = {{.kind = Chart::Kind::kMemory, .title = "Memory"}};
  RunRecord run = RunOf("quire", 1, 1, 1);
  run.timeline = Timeline{std::vector<double>(100'000), {{"resident_bytes", std::vector<double>(100'000, 7)}}};
  for (size_t i = 0; i < 100'000; ++i) run.timeline->seconds[i] = static_cast<double>(i);
  results.runs = {run};
  const std::vector<ChartFindings> charts = FindingsOf(results);
  const MemoryFigure& figure = std::get<MemoryFigure>(charts[0].panels[0].figure);
  EXPECT_LE(figure.timeline.seconds.size(), 602u);
  EXPECT_EQ(figure.timeline.seconds.size(), figure.timeline.columns.at("resident_bytes").size());
  EXPECT_EQ(figure.timeline.seconds.back(), 99'999);
}

TEST(FindingsTest, LatenciesOfAllRepetitionsAreAddedUp) {
  ExperimentResults results{.experiment = TwoEngines()};
  results.experiment.charts = {
      {.kind = Chart::Kind::kLatency, .title = "Latency", .series = "engine", .at = {{"overcommit", 1.0}}}};
  for (uint64_t repetition = 1; repetition <= 2; ++repetition) {
    RunRecord run = RunOf("quire", 1, repetition, 1);
    run.latency = LatencyHistogram{{1, 4}, {10, 80, 10}};
    results.runs.push_back(run);
  }
  results.runs.push_back(RunOf("quire", 1, 3, 1));
  results.runs.back().latency = LatencyHistogram{{2}, {1, 1}};
  const std::vector<ChartFindings> charts = FindingsOf(results);
  const LatencyFigure& figure = std::get<LatencyFigure>(charts[0].panels[0].figure);
  ASSERT_EQ(figure.series.size(), 1u);
  EXPECT_EQ(figure.series[0].count, 200);
  EXPECT_EQ(figure.series[0].slower, (std::vector<double>{0.9, 0.1}));
  EXPECT_NEAR(*figure.series[0].p50, 2, 1e-12);
  EXPECT_EQ(Texts(charts[0].panels[0].findings),
            (std::vector<std::string>{
                "One operation in a hundred takes more than 4.00 \u00b5s with quire or longer; the median takes 2.00 "
                "\u00b5s with quire.",
                "Quire: 1 run counted by other bounds and cannot be added to the others."}));
}

TEST(FindingsTest, CoverageIsTheShareOfWhatIsResident) {
  ExperimentResults results{.experiment = TwoEngines()};
  results.experiment.charts = {
      {.kind = Chart::Kind::kCoverage, .title = "Coverage", .series = "engine", .at = {{"overcommit", 1.0}}}};
  for (const char* engine : kEngines) {
    RunRecord run = RunOf(engine, 1, 1, 1);
    run.timeline = Timeline{{0, 1, 2}, {{"resident_bytes", {0, 100, 100}}, {"huge_bytes", {0, 50, 120}}}};
    run.values["huge_share"] = 0.5;
    results.runs.push_back(run);
  }
  const std::vector<ChartFindings> charts = FindingsOf(results);
  const CoverageFigure& figure = std::get<CoverageFigure>(charts[0].panels[0].figure);
  ASSERT_EQ(figure.series.size(), 2u);
  EXPECT_EQ(figure.series[0].shares, (std::vector<double>{0, 0.5, 1}));
  EXPECT_EQ(charts[0].panels[0].findings[0].text,
            "Of guests' memory in use is mapped by 2 MiB: 50 % with quire (one run) and 50 % with kernel (one run).");
}

}  // namespace
}  // namespace quire::results
