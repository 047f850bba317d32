#include "vmm/bench/bench_report.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace quire {
namespace {

using Json = nlohmann::json;
using ::testing::HasSubstr;
using ::testing::Not;

std::vector<Measurement> Runs(const std::vector<double>& values) {
  std::vector<Measurement> runs;
  for (const double value : values) runs.push_back({.value = value, .cpu_seconds = 0.5, .content_ratio = 2});
  return runs;
}

BenchReport DenseReport() {
  return {.benchmark = FindBenchmark("refault-dense"),
          .sides = {{.side = Side::kQuire, .runs = Runs({2, 1, 3})},
                    {.side = Side::kKernel, .runs = Runs({20, 30, 10})},
                    {.side = Side::kKernelBest, .runs = Runs({5, 5, 6})}}};
}

TEST(BenchReportTest, HasTheKeysThatScriptsDependOn) {
  const Json json = Json::parse(ToJson(DenseReport()));
  EXPECT_EQ(json["name"], "refault-dense");
  EXPECT_EQ(json["unit"], "us a page");
  EXPECT_EQ(json["higher_is_better"], false);
  EXPECT_EQ(json["quire"]["median"], 2);
  EXPECT_EQ(json["quire"]["min"], 1);
  EXPECT_EQ(json["quire"]["max"], 3);
  EXPECT_EQ(json["quire"]["runs"], 3);
  EXPECT_EQ(json["quire"]["cpu_seconds"], 0.5);
  EXPECT_EQ(json["kernel"]["median"], 20);
  EXPECT_EQ(json["kernel_best"]["median"], 5);
  EXPECT_EQ(json["ratio"], 10);
  EXPECT_EQ(json["ratio_to_kernel_best"], 2.5);
  EXPECT_EQ(json["mismatched_pages"], 0);
  EXPECT_FALSE(json.contains("kernel_unavailable"));
  EXPECT_FALSE(json.contains("kernel_small"));
}

TEST(BenchReportTest, WhereMoreIsBetterTheRatioIsTheOtherWayRound) {
  BenchReport report = DenseReport();
  report.benchmark = FindBenchmark("overcommit");
  EXPECT_DOUBLE_EQ(*report.RatioTo(Side::kKernel), 0.1);
}

TEST(BenchReportTest, WithoutTheKernelItSaysWhy) {
  BenchReport report = DenseReport();
  report.sides.resize(1);
  report.kernel_unavailable = "it needs root";
  const Json json = Json::parse(ToJson(report));
  EXPECT_TRUE(json["kernel"].is_null());
  EXPECT_TRUE(json["ratio"].is_null());
  EXPECT_EQ(json["kernel_unavailable"], "it needs root");
  EXPECT_THAT(Summary(report, {}), HasSubstr("not measured: it needs root."));
  EXPECT_THAT(Summary(report, {}), Not(HasSubstr("times the")));
}

TEST(BenchReportTest, PairedRunsGiveBoundsOfTheRatio) {
  BenchReport report{.benchmark = FindBenchmark("idle-cost"),
                     .sides = {{.side = Side::kQuire, .runs = Runs({99, 101, 100})},
                               {.side = Side::kKernel, .runs = Runs({100, 100, 100})}}};
  const std::optional<Interval> bounds = report.BoundsOfRatioTo(Side::kKernel);
  ASSERT_TRUE(bounds.has_value());
  EXPECT_LT(bounds->low, 1);
  EXPECT_GT(bounds->high, 1);
  EXPECT_TRUE(Json::parse(ToJson(report)).contains("ratio_95_percent"));
  EXPECT_FALSE(DenseReport().BoundsOfRatioTo(Side::kKernel).has_value());
}

TEST(BenchReportTest, AWrongPageFailsTheBenchmark) {
  BenchReport report = DenseReport();
  EXPECT_EQ(ToExitStatus(report), ExitStatus::kAllWell);
  report.sides[0].runs[1].mismatched_pages = 2;
  EXPECT_EQ(ToExitStatus(report), ExitStatus::kGuestFailed);
  EXPECT_THAT(Summary(report, {}), HasSubstr("2 pages were wrong"));
}

TEST(BenchReportTest, TheSummaryDrawsABarForEachSide) {
  const std::string text = Summary(DenseReport(), {.unicode = false});
  EXPECT_THAT(text, HasSubstr("quire"));
  EXPECT_THAT(text, HasSubstr("kernel, at its best"));
  EXPECT_THAT(text, HasSubstr("10 times the kernel, as it comes"));
  EXPECT_THAT(text, HasSubstr(std::string(40, '#') + "\n"));
}

TEST(BenchmarksTest, EachHasQuireFirstAndSomethingToCompareWith) {
  for (const Benchmark& benchmark : Benchmarks()) {
    ASSERT_GE(benchmark.sides.size(), 2u) << benchmark.name;
    EXPECT_EQ(benchmark.sides[0], Side::kQuire) << benchmark.name;
    EXPECT_EQ(benchmark.sides[1], Side::kKernel) << benchmark.name;
    EXPECT_EQ(FindBenchmark(benchmark.name), &benchmark);
    EXPECT_TRUE(!benchmark.limited || benchmark.swaps) << benchmark.name;
  }
  EXPECT_EQ(FindBenchmark("no-such"), nullptr);
}

TEST(SideTest, NamesAreReadBack) {
  for (const Side side : {Side::kQuire, Side::kKernel, Side::kKernelBest, Side::kKernelSmall}) {
    EXPECT_EQ(ParseSide(Name(side)), side);
  }
  EXPECT_EQ(ParseSide("linux"), std::nullopt);
}

}  // namespace
}  // namespace quire
