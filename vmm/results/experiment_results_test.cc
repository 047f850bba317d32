#include "vmm/results/experiment_results.h"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace quire::results {
namespace {

constexpr char kExperiment[] = R"({
  "form": 1, "name": "overcommit", "asks": "How much?", "file": "# text", "quick": true, "repetitions": 5,
  "axes": [{"name": "engine", "values": ["quire", "kernel"]}, {"name": "overcommit", "values": [1, 1.5, 2.0]}],
  "charts": [{"kind": "values", "title": "Speed", "x": "overcommit", "y": "operations_per_second", "series": "engine",
              "better": "lower", "compare": ["quire", "kernel"]}]})";

std::string Line(const std::string& more = "", const std::string& point = R"({"engine": "quire", "overcommit": 2})") {
  return absl::StrCat(R"({"form": 1, "run": "a", "repetition": 1, "outcome": "ok", "point": )", point, more, "}\n");
}

ExperimentResults Parsed(const std::string& lines, const std::string& experiment = kExperiment) {
  absl::StatusOr<ExperimentResults> results = ParseResults(experiment, lines);
  EXPECT_TRUE(results.ok()) << results.status();
  return results.ok() ? *results : ExperimentResults();
}

std::string WithChart(const std::string& chart) {
  return absl::StrCat(R"({"form": 1, "axes": [{"name": "e", "values": ["a", "b"]}, {"name": "n", "values": [1, 2]}],
                      "charts": [)",
                      chart, "]}");
}

TEST(ParseExperimentTest, ReadsWhatWasAsked) {
  const Experiment experiment = Parsed("").experiment;
  EXPECT_EQ(experiment.name, "overcommit");
  EXPECT_EQ(experiment.asks, "How much?");
  EXPECT_TRUE(experiment.quick);
  EXPECT_EQ(experiment.repetitions, 5u);
  ASSERT_EQ(experiment.axes.size(), 2u);
  EXPECT_FALSE(experiment.axes[0].numeric());
  EXPECT_TRUE(experiment.axes[1].numeric());
  EXPECT_EQ(ToText(experiment.axes[1].values[1]), "1.5");
  ASSERT_EQ(experiment.charts.size(), 1u);
  EXPECT_EQ(experiment.charts[0].y, "operations_per_second");
  EXPECT_FALSE(experiment.charts[0].higher_is_better);
  ASSERT_TRUE(experiment.charts[0].compare.has_value());
  EXPECT_EQ(ToText(experiment.charts[0].compare->second), "kernel");
}

TEST(ParseExperimentTest, AnotherFormIsAnErrorThatSaysSo) {
  const absl::Status status = ParseResults(R"({"form": 2})", "").status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(absl::StrContains(status.message(), "has form 2, and form 1 is what this program reads"));
  EXPECT_FALSE(ParseResults("{}", "").ok());
  EXPECT_FALSE(ParseResults("[1]", "").ok());
  EXPECT_FALSE(ParseResults("", "").ok());
}

TEST(ParseExperimentTest, AChartThatCannotBeDrawnIsSaidToBeMissing) {
  for (const char* chart :
       {R"({"kind": "pie", "title": "P"})", R"({"kind": "values", "title": "P", "x": "n"})",
        R"({"kind": "values", "title": "P", "x": "n", "y": "v", "series": "n"})",
        R"({"kind": "memory", "title": "P", "at": {"n": 3}})", R"({"kind": "memory", "title": "P", "at": 3})"}) {
    const ExperimentResults results = Parsed("", WithChart(chart));
    EXPECT_TRUE(results.experiment.charts.empty()) << chart;
    ASSERT_EQ(results.damaged.size(), 1u) << chart;
    EXPECT_TRUE(absl::StrContains(results.damaged[0], "The chart \"P\" is not drawn: ")) << results.damaged[0];
  }
}

TEST(ParseExperimentTest, AChartThatCannotCompareIsDrawnAllTheSame) {
  const ExperimentResults results = Parsed(
      "", WithChart(R"({"kind": "values", "title": "P", "x": "n", "y": "v", "series": "e", "compare": ["a", "z"]})"));
  ASSERT_EQ(results.experiment.charts.size(), 1u);
  EXPECT_FALSE(results.experiment.charts[0].compare.has_value());
  ASSERT_EQ(results.damaged.size(), 1u);
  EXPECT_TRUE(absl::StrContains(results.damaged[0], "compares nothing")) << results.damaged[0];
}

TEST(ParseResultsTest, ReadsARun) {
  const ExperimentResults results = Parsed(Line(
      R"(, "version": "0.1.0", "wall_seconds": 14.2, "settings": {"guests": 4, "pool": "512M"}, )"
      R"("host": {"accel": "soft", "findings": [{"name": "CPU", "found": "2 cores"}]}, )"
      R"("values": {"operations_per_second": 91234.5, "absent": null}, )"
      R"("phases": [{"name": "run", "begin": 1, "end": 2, "measured": true}, {"name": "x", "begin": 2, "end": 1}], )"
      R"("timeline": {"seconds": [0.5, 1], "resident_bytes": [1, 2]}, )"
      R"("latency": {"us": [1, 2], "counts": [5, 6, 7]}, "unknown": [[]])"));
  ASSERT_EQ(results.runs.size(), 1u);
  EXPECT_TRUE(results.left_out.empty());
  const RunRecord& run = results.runs[0];
  EXPECT_EQ(run.point.at("overcommit"), AxisValue(2.0));
  EXPECT_EQ(run.values, (std::map<std::string, double>{{"operations_per_second", 91234.5}}));
  EXPECT_EQ(run.settings, (Facts{{"guests", "4"}, {"pool", "512M"}}));
  EXPECT_EQ(run.host, (Facts{{"accel", "soft"}, {"CPU", "2 cores"}}));
  ASSERT_EQ(run.phases.size(), 1u);
  EXPECT_TRUE(run.phases[0].measured);
  ASSERT_TRUE(run.timeline.has_value());
  EXPECT_EQ(run.timeline->columns.at("resident_bytes"), (std::vector<double>{1, 2}));
  ASSERT_TRUE(run.latency.has_value());
  EXPECT_EQ(run.latency->counts.size(), 3u);
}

struct Unusable {
  std::string line;
  std::string why;
};
// The line may be any bytes, and a report of tests holds text only.
void PrintTo(const Unusable& unusable, std::ostream* out) { *out << absl::CHexEscape(unusable.line.substr(0, 40)); }

class UnusableLineTest : public testing::TestWithParam<Unusable> {};

TEST_P(UnusableLineTest, IsLeftOutAndCounted) {
  const ExperimentResults results = Parsed(Line() + GetParam().line + "\n" + GetParam().line + "\n");
  EXPECT_EQ(results.runs.size(), 1u);
  ASSERT_EQ(results.left_out.size(), 1u);
  EXPECT_EQ(results.left_out[0].why, GetParam().why);
  EXPECT_EQ(results.left_out[0].lines, 2u);
  EXPECT_EQ(results.left_out[0].first_line, 2u);
  EXPECT_TRUE(results.left_out[0].whole_run);
}

INSTANTIATE_TEST_SUITE_P(
    Results, UnusableLineTest,
    testing::Values(Unusable{"nonsense", "is no JSON"}, Unusable{"\xff\xfe", "is no JSON"},
                    Unusable{std::string(100'000, '['), "is no JSON"}, Unusable{"[]", "is no JSON object"},
                    Unusable{R"({"form": 7, "run": "b"})", "has another form"},
                    Unusable{R"({"form": 1})", "does not name its run"},
                    Unusable{R"({"form": 1, "run": "b", "outcome": "good"})", "has no outcome that is known here"},
                    Unusable{R"({"form": 1, "run": "b", "outcome": "ok"})", "has no number of its repetition"},
                    Unusable{R"({"form": 1, "run": "b", "outcome": "ok", "repetition": -1})",
                             "has no number of its repetition"},
                    Unusable{R"({"form": 1, "run": "b", "outcome": "ok", "repetition": 1})",
                             "has a point that is not of this experiment"},
                    Unusable{R"({"form": 1, "run": "b", "outcome": "ok", "repetition": 1, )"
                             R"("point": {"engine": "quire", "overcommit": 7}})",
                             "has a point that is not of this experiment"}));

class UnusablePartTest : public testing::TestWithParam<Unusable> {};

TEST_P(UnusablePartTest, IsLeftOutOfItsRun) {
  const ExperimentResults results = Parsed(Line(", " + GetParam().line));
  ASSERT_EQ(results.runs.size(), 1u);
  ASSERT_EQ(results.left_out.size(), 1u);
  EXPECT_EQ(results.left_out[0].why, GetParam().why);
  EXPECT_EQ(results.left_out[0].example, "a");
  EXPECT_FALSE(results.left_out[0].whole_run);
  EXPECT_TRUE(results.runs[0].values.empty());
  EXPECT_FALSE(results.runs[0].timeline.has_value());
  EXPECT_FALSE(results.runs[0].latency.has_value());
}

INSTANTIATE_TEST_SUITE_P(
    Results, UnusablePartTest,
    testing::Values(
        Unusable{R"("values": {"v": 1e300})", "has a value that is no number, or too large"},
        Unusable{R"("values": {"v": "fast"})", "has a value that is no number, or too large"},
        Unusable{R"("values": [1])", "has values that are no object"},
        Unusable{R"("timeline": {"seconds": [1, 2], "free_bytes": [1]})", "has a timeline that cannot be used"},
        Unusable{R"("timeline": {"seconds": [2, 1]})", "has a timeline that cannot be used"},
        Unusable{R"("timeline": {"seconds": ["x"]})", "has a timeline that cannot be used"},
        Unusable{R"("timeline": {"seconds": [1], "free_bytes": [-1]})", "has a timeline that cannot be used"},
        Unusable{R"("timeline": 7)", "has a timeline that cannot be used"},
        Unusable{R"("latency": {"us": [1], "counts": [1]})", "has latencies that cannot be used"},
        Unusable{R"("latency": {"us": [2, 2], "counts": [1, 1, 1]})", "has latencies that cannot be used"},
        Unusable{R"("latency": {"us": [0], "counts": [1, 1]})", "has latencies that cannot be used"}));

TEST(ParseResultsTest, OfARunMadeAgainTheLastLineCounts) {
  const ExperimentResults results = Parsed(Line(R"(, "values": {"v": 1})") + Line(R"(, "values": {"v": 2})"));
  ASSERT_EQ(results.runs.size(), 1u);
  EXPECT_EQ(results.runs[0].values.at("v"), 2);
  EXPECT_EQ(results.made_again, 1u);
}

TEST(ParseResultsTest, ATornLastLineIsNoDamage) {
  const ExperimentResults results = Parsed(Line() + R"({"form": 1, "ru)");
  EXPECT_EQ(results.runs.size(), 1u);
  EXPECT_TRUE(results.torn);
  EXPECT_TRUE(results.left_out.empty());
}

TEST(ParseResultsTest, ALastLineThatOnlyLacksItsLineBreakCounts) {
  std::string line = Line();
  line.pop_back();
  EXPECT_EQ(Parsed(line).runs.size(), 1u);
  EXPECT_FALSE(Parsed(line).torn);
}

class ReadResultsTest : public testing::Test {
 protected:
  ReadResultsTest() : dir_(absl::StrCat(testing::TempDir(), "/read_results_", getpid())) { mkdir(dir_.c_str(), 0700); }
  void Write(const std::string& name, const std::string& contents) { std::ofstream(dir_ + "/" + name) << contents; }
  std::string Error() { return std::string(ReadResults(dir_).status().message()); }

  const std::string dir_;
};

TEST_F(ReadResultsTest, SaysWhatIsNotThere) {
  EXPECT_TRUE(absl::StrContains(ReadResults("/nonexistent").status().message(), "there is no directory /nonexistent"));
  EXPECT_TRUE(absl::StrContains(ReadResults("/dev/null").status().message(), "/dev/null is no directory"));
  unlink((dir_ + "/experiment.json").c_str());
  unlink((dir_ + "/results.jsonl").c_str());
  EXPECT_TRUE(absl::StrContains(Error(), "has no experiment.json")) << Error();
  Write("experiment.json", kExperiment);
  EXPECT_TRUE(absl::StrContains(Error(), "has no results yet")) << Error();
  Write("results.jsonl", "");
  EXPECT_TRUE(absl::StrContains(Error(), "has no results yet")) << Error();
  Write("results.jsonl", Line());
  EXPECT_EQ(ReadResults(dir_)->runs.size(), 1u);
}

}  // namespace
}  // namespace quire::results
